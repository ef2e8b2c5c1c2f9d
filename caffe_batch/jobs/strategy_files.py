"""The directory of some strategies: a job of each that is possible, and strategies.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from caffe_batch import __version__
from caffe_batch.errors import Call, InputError
from caffe_batch.files import write_json
from caffe_batch.jobs.job_files import write_job
from caffe_batch.jobs.json_files import FIRST_FORMAT, Fields, check_format, read_object
from caffe_batch.planning.strategies.strategies import Strategies

#: What writes the directory.
_WRITE = Call(
    "`caffe-batch strategies NET ... --out DIR`", "caffe_batch.strategies(NET, ...).write(DIR)"
)

#: The newest format of strategies.json, and the one that is written.
STRATEGIES_FORMAT = 2


@dataclass(frozen=True)
class StrategyFacts:
    """What strategies.json says of a strategy.

    Attributes:
        name: That of its job's directory.
        title: What it is, for people.
        possible: Whether it can be trained.
        why_not: Why it can't; empty if it can.
        batch_size, iter_size: Its split; None where it isn't possible.
        learning_rate, momentum: Its own.
        noise_relative: The noise scale of its updates, relative to the recipe's; None where the
            formulas don't hold.
        content: All that the file says of it.
    """

    name: str
    title: str
    possible: bool = True
    why_not: str = ""
    batch_size: int | None = None
    iter_size: int | None = None
    learning_rate: float = 0.0
    momentum: float = 0.0
    noise_relative: float | None = None
    content: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StrategiesFile:
    """strategies.json.

    Attributes:
        recipe: What the strategies start from.
        request: What they were asked for with.
        ways: The strategies.
    """

    recipe: Mapping[str, Any]
    request: Mapping[str, Any]
    ways: tuple[StrategyFacts, ...]


def strategies_file(directory: Path) -> Path:
    """strategies.json, which is written last: with it, the directory is ready."""
    return directory / "strategies.json"


def write_strategies(
    found: Strategies, solver_text: str | None, request: Mapping[str, Any], directory: Path
) -> None:
    """Writes DIR/NAME for each strategy that is possible, as ``plan --out`` does.

    Args:
        found: The strategies.
        solver_text: The solver from the template, or None to edit the user's own.
        request: What they were asked for with, to know it again; JSON takes it.
        directory: Created if it isn't there.

    Raises:
        InputError: The directory has something in it.
        OSError: It can't be written.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InputError(
            f"{directory} is not empty",
            hint="Give a new directory: it is created if it isn't there.",
        )
    model = found.setting.model
    for way in found.ways:
        if way.plan is not None:
            write_job(way.plan, model.recipe, solver_text, model.sources, directory / way.name)
    own = {"format": STRATEGIES_FORMAT, "caffe_batch_version": __version__}
    write_json(strategies_file(directory), {**own, **found.json(), "request": dict(request)})


def read_strategies(directory: Path) -> StrategiesFile:
    """What strategies.json says.

    Raises:
        NewerFormatError: It is of a newer format.
        InputError: It isn't there, or something else.
    """
    path = strategies_file(directory)
    if not path.is_file():
        raise InputError(
            f"{directory}: there is no {path.name}",
            hint=["Write the directory with ", _WRITE, "."],
        )
    content = read_object(path, ["Mend it, or write another directory with ", _WRITE, "."])
    first = check_format(content, STRATEGIES_FORMAT) == FIRST_FORMAT
    asked = content.maybe(content.nested, "request")
    return StrategiesFile(
        recipe=content.nested("recipe").content,
        request={} if asked is None else _upgraded(asked.content) if first else asked.content,
        ways=tuple(map(_way, content.objects("strategies"))),
    )


def _way(content: Fields) -> StrategyFacts:
    return StrategyFacts(
        name=content.file_name("name"),
        title=content.text("title"),
        possible=content.flag("possible"),
        why_not=content.maybe(content.text, "why_not", ""),
        batch_size=content.maybe(content.positive, "batch_size"),
        iter_size=content.maybe(content.positive, "iter_size"),
        learning_rate=content.number("learning_rate"),
        momentum=content.number("momentum"),
        noise_relative=content.maybe(content.number, "noise_relative"),
        content=content.content,
    )


def _upgraded(request: Mapping[str, Any]) -> dict[str, Any]:
    """A request of the first format in the present one: its engine is the build."""
    kept = {name: value for name, value in request.items() if name != "input_shapes"}
    shapes = request.get("input_shapes", [])
    return {**kept, "engine": "caffe", "build": request.get("engine"), "input_shape": shapes}

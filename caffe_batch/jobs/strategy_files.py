"""The directory of some strategies: a job of each that is possible, and strategies.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from caffe_batch import __version__
from caffe_batch.errors import InputError
from caffe_batch.files import write_text
from caffe_batch.jobs.job_files import write_job
from caffe_batch.planning.strategies.strategies import Strategies


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
            hint="Give a new directory: --out DIR is created if it isn't there.",
        )
    model = found.setting.model
    for way in found.ways:
        if way.plan is not None:
            write_job(way.plan, model.recipe, solver_text, model.sources, directory / way.name)
    content = {**found.json(), "request": dict(request), "caffe_batch_version": __version__}
    write_text(strategies_file(directory), json.dumps(content, indent=2) + "\n")


def read_strategies(directory: Path) -> dict[str, Any]:
    """What strategies.json holds.

    Raises:
        InputError: It isn't there, or something else.
    """
    path = strategies_file(directory)
    if not path.is_file():
        raise InputError(
            f"{directory}: there is no {path.name}",
            hint="Write the directory with `caffe-batch strategies NET ... --out DIR`.",
        )
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for way in content["strategies"]:
            _ = way["name"], way["possible"], way["title"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: not what `strategies` writes ({type(error).__name__}: {error})",
            hint="Write the directory anew with `caffe-batch strategies NET ... --out DIR`.",
        ) from error
    return content

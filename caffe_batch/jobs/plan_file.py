"""plan.json: what ``plan`` has decided, read as one object, changed by its methods, written back.

The first format has no ``format``; its ``engine`` is the build of Caffe, and its ``phases`` are the
stages. Files are written in the present format.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, get_args

from caffe_batch import __version__
from caffe_batch.device import Device
from caffe_batch.errors import InputError, Text
from caffe_batch.files import json_text
from caffe_batch.jobs.json_files import FIRST_FORMAT, PLAN_A_JOB, Fields, check_format, read_object
from caffe_batch.layers.base import Mode
from caffe_batch.layers.forks import FORKS
from caffe_batch.layers.given import Given, WholeShape
from caffe_batch.layers.hints import TypeHints
from caffe_batch.layers.loading import rules_with
from caffe_batch.layers.registry import Registry
from caffe_batch.memory.build import Build
from caffe_batch.net.sources import Sources
from caffe_batch.planning.edits.changes import Change
from caffe_batch.planning.precision import PRECISIONS, Precision
from caffe_batch.planning.shared import SHARED, Shared

#: The newest format of plan.json, and the one that is written.
PLAN_FORMAT = 2

#: The plan of files that are trained as they are, in one line.
AS_IS_SUMMARY = "the files as they are; nothing was planned or predicted"

_HINT: Text = ["Mend the field, or plan again with ", PLAN_A_JOB, ", into another DIR."]


@dataclass(frozen=True)
class StageFiles:
    """What plan.json says of a stage.

    Attributes:
        solver, net: Its files.
        effective_batch: Samples of each of its updates; None if the plan doesn't know.
    """

    solver: Path
    net: Path
    effective_batch: int | None


@dataclass(frozen=True)
class PlannedCandidate:
    """A split that the plan has weighed.

    Attributes:
        batch_size: Of a micro-batch.
        predicted_peak_bytes: What Caffe would ask for; None where it refuses the net.
    """

    batch_size: int
    predicted_peak_bytes: int | None


@dataclass(frozen=True)
class PlannedSplit:
    """A split, with the test batches beside it.

    Attributes:
        batch_size, iter_size: Of the first stage.
        tests: The batches of the test nets, by their numbers, as far as they are known.
    """

    batch_size: int
    iter_size: int
    tests: Mapping[int, int]


@dataclass(frozen=True)
class PlanFile:
    """plan.json.

    Attributes:
        path: The file.
        content: All that it holds, in the present format; what this version doesn't know as well.
        effective_batch: Samples per update, in the first stage; None for files trained as they are.
        batch_size, iter_size, gpus: Its factors; batch_size is None for files as they are.
        as_is: Whether the files are trained as they are: nothing was planned or predicted.
        mode: The mode of Caffe that the plan counts on.
        engine: Name of the engine that it is for.
        build: The build of Caffe that the plan counts on.
        train_records: Records of the training set, or None if the plan doesn't know.
        working_directory: Where the plan was made; relative paths in the net start there.
        summary: The plan in one line.
        verdict: Whether it is the recipe's training, in a sentence; empty if it doesn't say.
        notes: What to know about its figures.
        stages: The solvers to run one after another, at least one.
        budget_bytes: The memory allowed, or None if the plan doesn't say.
        reserve_bytes: The part of it that is not for Caffe's requests, or None.
        predicted_peak_bytes: What Caffe is predicted to ask for, in the plan's mode, or None.
        rounding_bytes: What cudaMalloc adds to it.
        lower_bound: Whether the prediction leaves out unknown layers.
        upper_bound: Whether it counts the most that layers can take whose memory depends on data.
        candidates: The splits that were weighed.
        tests: What the plan does with each test net, a mapping each (see ``PlannedTest.json``).
        input_shapes: Shapes given for tops, by name.
        data_batch: The batch given for data layers without a rule, or None.
        rules: The files with rules for other layer types, absolute.
        fork: The fork of Caffe that the net is written for, by name; None if that isn't known.
        hints: What was said about types without a rule.
        allow_unknown, half: As the plan was asked for.
        audit: What accumulation changes, a mapping each (see ``Finding.json``).
        changes: What the plan changes in the files of the first stage, a mapping each (see
            ``Change.json``).
        chance_loss: The loss of a classifier that guesses; None if it isn't known.
        precision: How exactly the engine calculates.
        shared: What its GPUs count together.
    """

    path: Path
    content: Mapping[str, Any] = field(repr=False)
    effective_batch: int | None
    batch_size: int | None
    iter_size: int
    gpus: int
    as_is: bool
    mode: Mode
    engine: str
    build: Build
    train_records: int | None
    working_directory: Path
    summary: str
    verdict: str
    notes: tuple[str, ...]
    stages: tuple[StageFiles, ...]
    budget_bytes: int | None
    reserve_bytes: int | None
    predicted_peak_bytes: int | None
    rounding_bytes: int
    lower_bound: bool
    upper_bound: bool
    candidates: tuple[PlannedCandidate, ...]
    tests: tuple[Mapping[str, Any], ...]
    input_shapes: Mapping[str, Given]
    data_batch: int | None
    rules: tuple[str, ...]
    fork: str | None
    hints: TypeHints
    allow_unknown: bool
    half: bool
    audit: tuple[Mapping[str, Any], ...]
    changes: tuple[Mapping[str, Any], ...]
    chance_loss: float | None = None
    precision: Precision = Precision.FLOAT32
    shared: tuple[Shared, ...] = ()

    @classmethod
    def of(cls, path: Path, content: Mapping[str, Any]) -> PlanFile:
        """The object of some content, in any format that this version knows.

        Args:
            path: The file that the content is for; it need not exist.
            content: What it holds, or is to hold.

        Raises:
            NewerFormatError: The content is of a newer format.
            InputError: A field is missing or not what it should be.
        """
        return cls._of(Fields(path, dict(content), hint=_HINT))

    @classmethod
    def read(cls, path: Path) -> PlanFile:
        """What a plan.json holds.

        Raises:
            NewerFormatError: It is of a newer format.
            InputError: It is no plan.
            OSError: It can't be read.
        """
        return cls._of(read_object(path, _HINT))

    @classmethod
    def _of(cls, fields: Fields) -> PlanFile:
        path = fields.path
        fields.maybe(fields.objects, "resplits")
        if check_format(fields, PLAN_FORMAT) == FIRST_FORMAT:
            fields = Fields(path, _upgraded(fields.content), hint=fields.hint)
        as_is, iter_size = fields.maybe(fields.flag, "as_is", False), fields.positive("iter_size")
        batch_size = None if as_is else fields.positive("batch_size")
        effective = None if as_is else fields.positive("effective_batch")
        split = f"effective batch {effective} = batch_size {batch_size} x iter_size {iter_size}"
        split = AS_IS_SUMMARY if as_is else split
        directory = path.parent
        stages = tuple(
            _stage(stage, directory) for stage in fields.maybe(fields.objects, "stages", ())
        )
        alone = StageFiles(directory / "solver.prototxt", directory / "net.prototxt", effective)
        shapes = fields.maybe(fields.nested, "input_shapes")
        wholes = fields.maybe(fields.nested, "whole_shapes")
        builds = ", ".join(each.value for each in Build)
        return cls(
            path=path,
            content=fields.content,
            effective_batch=effective,
            batch_size=batch_size,
            iter_size=iter_size,
            gpus=fields.positive("gpus"),
            as_is=as_is,
            mode=fields.maybe(lambda name: fields.choice(name, _mode, "gpu, cpu"), "mode", "gpu"),
            engine=fields.maybe(fields.text, "engine", "caffe"),
            build=fields.maybe(
                lambda name: fields.choice(name, Build, builds), "build", Build.CAFFE
            ),
            train_records=fields.maybe(fields.integer, "train_records"),
            working_directory=Path(fields.maybe(fields.text, "working_directory", str(directory))),
            summary=fields.maybe(fields.text, "summary", split),
            verdict=fields.maybe(fields.text, "verdict", ""),
            notes=fields.maybe(fields.texts, "notes", ()),
            stages=stages or (alone,),
            budget_bytes=fields.maybe(fields.integer, "budget_bytes"),
            reserve_bytes=fields.maybe(fields.integer, "reserve_bytes"),
            predicted_peak_bytes=fields.maybe(fields.integer, "predicted_peak_bytes"),
            rounding_bytes=fields.maybe(fields.integer, "rounding_bytes", 0),
            lower_bound=fields.maybe(fields.flag, "lower_bound", False),
            upper_bound=bool(fields.maybe(fields.texts, "upper_bound_layers", ())),
            candidates=tuple(
                PlannedCandidate(
                    each.positive("batch_size"),
                    each.maybe(each.integer, "predicted_peak_bytes"),
                )
                for each in fields.maybe(fields.objects, "candidates", ())
            ),
            tests=tuple(map(_test, fields.maybe(fields.objects, "tests", ()))),
            input_shapes={
                **({top: shapes.integers(top) for top in shapes.content} if shapes else {}),
                **(_wholes(wholes) if wholes else {}),
            },
            data_batch=fields.maybe(fields.positive, "data_batch"),
            rules=fields.maybe(fields.texts, "rules", ()),
            fork=_fork(fields),
            hints=_hints(fields),
            allow_unknown=fields.maybe(fields.flag, "allow_unknown", False),
            half=fields.maybe(fields.flag, "half", False),
            audit=tuple(map(_finding, fields.maybe(fields.objects, "audit", ()))),
            changes=tuple(map(_listed_change, fields.maybe(fields.objects, "changes", ()))),
            chance_loss=fields.maybe(fields.number, "chance_loss"),
            precision=fields.maybe(
                lambda name: fields.choice(name, Precision, PRECISIONS),
                "precision",
                Precision.FLOAT32,
            ),
            shared=fields.maybe(lambda name: fields.choices(name, Shared, SHARED), "shared", ()),
        )

    def registry(self) -> Registry:
        """The rules of the layer types.

        Raises:
            InputError: A file of rules can't be read, or isn't what it was.
        """
        return rules_with(self.rules, self.fork, self.hints)

    def sources(self, *directories: Path) -> Sources:
        """Where the data is looked up, with what the user said about it."""
        return Sources(directories, self.input_shapes, self.data_batch)

    @property
    def text(self) -> str:
        """plan.json as it is written."""
        return json_text(self.content)

    @property
    def cpu_mode(self) -> bool:
        """Whether the plan counts on Caffe's CPU mode."""
        return self.mode == "cpu"

    @property
    def exact(self) -> bool:
        """Whether the prediction is exact, no bound and no estimate."""
        return self.build is Build.CAFFE and not (self.lower_bound or self.upper_bound)

    def predicted_on(self, device: Device | None) -> int | None:
        """The predicted peak if it is meant for a device (None: a GPU); else None."""
        on_cpu = device is not None and device.is_cpu
        return self.predicted_peak_bytes if self.cpu_mode == on_cpu else None

    def stage_changes(self) -> tuple[tuple[Change, ...], ...]:
        """What the plan has changed in the user's files for each stage.

        Raises:
            InputError: The plan is of a version that doesn't say enough, or is damaged.
        """
        fields = Fields(self.path, self.content, hint=_HINT)
        stages = fields.maybe(fields.objects, "stages", ()) or (fields,)
        return tuple(
            tuple(map(_change, stage.maybe(stage.objects, "changes", ()))) for stage in stages
        )

    def with_changes(self, changes: Sequence[Sequence[Change]]) -> PlanFile:
        """The plan with other changes of the user's files, a list for each stage."""
        return self._with_lists(
            lambda stage, before: _merged(before, [each.json() for each in changes[stage]])
        )

    def with_split(
        self,
        planned: Mapping[str, Any],
        changes: Sequence[Sequence[Change]],
        why: str,
        tests: Mapping[int, int] | None = None,
    ) -> PlanFile:
        """The plan with another split of the same effective batch.

        Args:
            planned: What the new split comes to, as ``Plan.json`` says it; a key that it leaves
                out stays as it is, and so do the keys of a stage.
            changes: What it changes in the user's files, a list for each stage.
            why: Why there is another split.
            tests: The batches of the test nets until now, by their numbers.
        """
        stages = [
            {**before, **after}
            for before, after in zip(
                self._listed("stages"), planned.get("stages", ()), strict=False
            )
        ] or self._listed("stages")
        content = {**self.content, **planned, "stages": stages}
        content["resplits"] = [
            *self._listed("resplits"),
            {
                "from": [self.batch_size, self.iter_size],
                "to": [content["batch_size"], content["iter_size"]],
                "predicted_bytes": self.predicted_peak_bytes,
                "reason": why,
                **({"tests": _test_batches(tests)} if tests else {}),
            },
        ]
        return PlanFile.of(self.path, content).with_changes(changes)

    @property
    def planned_split(self) -> PlannedSplit | None:
        """The split that was planned first, if another one has taken its place."""
        fields = Fields(self.path, self.content, hint=_HINT)
        first = next(iter(fields.maybe(fields.objects, "resplits", ())), None)
        if first is None:
            return None
        pair = first.integers("from")
        if len(pair) != 2 or 0 in pair:
            raise InputError(
                f"{self.path}: resplits[0].from is {list(pair)}, expected a batch_size and an "
                "iter_size",
                hint=_HINT,
            )
        tests = {
            test.integer("number"): test.positive("batch_size")
            for test in first.maybe(first.objects, "tests", ())
        }
        return PlannedSplit(*pair, tests)

    def moved(self, target: Path, files: Mapping[str, str]) -> PlanFile:
        """The plan in another directory.

        Args:
            target: That directory, absolute.
            files: The paths of its files by role.
        """
        source = self.path.parent

        def moved(change: Mapping[str, Any]) -> dict[str, Any]:
            return {**change, "to": moved_path(change.get("to"), source, target)}

        content = self._with_lists(lambda _, before: [moved(each) for each in before]).content
        return PlanFile.of(target / self.path.name, {**content, "files": dict(files)})

    def with_change(self, change: Change) -> PlanFile:
        """The plan with one more change, in every stage; it takes the place of one of its field."""

        def joined(before: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
            new = change.json()
            known = [each for each in before if _place(each) == _place(new)]
            kept = [each for each in before if each not in known]
            return [*kept, *({**each, **new, "from": each.get("from")} for each in known or [new])]

        return self._with_lists(lambda _, before: joined(before))

    def _listed(self, name: str) -> list[Any]:
        """A list in the content; empty where there is none."""
        return self.content.get(name) or []

    def _with_lists(
        self, lists: Callable[[int, Sequence[Mapping[str, Any]]], Sequence[Mapping[str, Any]]]
    ) -> PlanFile:
        """The plan with other lists of changes; they are made of a stage's index and its own."""
        stages = [
            {**stage, "changes": lists(number, stage.get("changes") or ())}
            for number, stage in enumerate(self._listed("stages"))
        ]
        first = stages[0]["changes"] if stages else lists(0, self._listed("changes"))
        return PlanFile.of(self.path, {**self.content, "changes": first, "stages": stages})


def plan_content(planned: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """What a new plan.json holds.

    Args:
        planned: What ``Plan.json`` says.
        more: What else the job needs to know.
    """
    return {"format": PLAN_FORMAT, "caffe_batch_version": __version__, **planned, **more}


def _test_batches(tests: Mapping[int, int]) -> list[dict[str, int]]:
    return [{"number": number, "batch_size": size} for number, size in tests.items()]


def moved_path(value: Any, source: Path, target: Path) -> Any:
    """A path in one directory as one in another; anything else as it is."""
    inside = f"{source}/"
    if isinstance(value, str) and value.startswith(inside):
        return f"{target}/{value.removeprefix(inside)}"
    return value


def _upgraded(content: Mapping[str, Any]) -> dict[str, Any]:
    """Content of the first format in the present one."""
    known = {"format", "engine", "build", "phases", "stages"}
    return {
        "format": PLAN_FORMAT,
        "engine": "caffe",
        "build": content.get("engine"),
        **{key: value for key, value in content.items() if key not in known},
        "stages": content.get("phases") or [],
    }


def _wholes(fields: Fields) -> dict[str, WholeShape]:
    return {
        top: fields.choice(top, WholeShape.parse, "sizes such as 128x5 or Nx3x256x256")
        for top in fields.content
    }


def _hints(fields: Fields) -> TypeHints:
    """What was said about types without a rule."""
    said = fields.maybe(fields.nested, "type_hints")
    if said is None:
        return TypeHints()
    names = ("treat_as", "same_shape", "asked")
    return TypeHints.of(*(said.maybe(said.texts, name, ()) for name in names))


def _fork(fields: Fields) -> str | None:
    """The fork of the net's types, if the plan names one that this version knows."""
    chosen = fields.maybe(fields.nested, "fork")
    name = chosen.maybe(chosen.text, "name") if chosen else None
    return name if name in FORKS else None


def _mode(text: str) -> Mode:
    if text not in get_args(Mode):
        raise ValueError(text)
    return cast(Mode, text)


def _stage(fields: Fields, directory: Path) -> StageFiles:
    for change in fields.maybe(fields.objects, "changes", ()):
        _listed_change(change)
    return StageFiles(
        directory / fields.file_name("solver"),
        directory / fields.file_name("net"),
        fields.positive("effective_batch"),
    )


def _test(fields: Fields) -> Mapping[str, Any]:
    fields.integer("number")
    return fields.content


def _finding(fields: Fields) -> Mapping[str, Any]:
    for name in ("verdict", "cause", "explanation", "scope"):
        fields.text(name)
    for name in ("layer", "change"):
        fields.maybe(fields.text, name)
    return fields.content


def _listed_change(fields: Fields) -> Mapping[str, Any]:
    for name in ("file", "field", "reason"):
        fields.maybe(fields.text, name)
    for name in ("from", "to"):  # of any type
        if isinstance(fields.content.get(name), str):
            fields.text(name)
    return fields.content


def _change(fields: Fields) -> Change:
    """A change that can be changed again; 0.1.0's forerunners didn't write all of it."""
    needed = {"file", "path", "layer_index", "layer_name", "from", "to", "reason"}
    lacking = needed - set(fields.content)
    if lacking:
        raise InputError(
            f"{fields.path}: the changes have no {', '.join(sorted(lacking))}, so they can't be "
            "changed again",
            hint="An older version planned it: plan again.",
        )
    for name in ("file", "reason", "layer_name"):
        fields.text(name)
    fields.maybe(fields.integer, "layer_index")
    fields.steps("path")
    return Change.from_json(fields.content)


def _merged(
    before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The changes ``after``, with the keys that only those ``before`` of the same field have."""
    known = {_place(change): change for change in before}
    return [{**known.get(_place(change), {}), **change} for change in after]


def _place(change: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(change.get(name)) for name in ("file", "layer_index", "field"))

"""A plan becomes files: solver.prototxt, net.prototxt and plan.json in a job directory.

The user's own files are edited: comments and layout stay, and what changes is a line of the plan.
Paths inside them (data sources, mean files) stay as they are; plan.json remembers the directory
that they start from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from caffe_batch import prototxt
from caffe_batch.errors import Call, InputError
from caffe_batch.files import replace_text
from caffe_batch.jobs.json_files import NewerFormatError
from caffe_batch.jobs.plan_file import AS_IS_SUMMARY, PlanFile, plan_content
from caffe_batch.layers.given import WholeShape
from caffe_batch.layers.hints import TypeHints
from caffe_batch.net.reading import TRAIN_NET_FIELDS
from caffe_batch.net.recipe import NetFile, Recipe
from caffe_batch.net.sources import Sources, has_records, source_of
from caffe_batch.planning.edits.changes import Change
from caffe_batch.planning.plan import Plan
from caffe_batch.schema import caffe_pb2


@dataclass(frozen=True)
class JobFiles:
    """The files of a planned job, by name.

    Attributes:
        directory: The job directory, absolute.
        made: What was made when they were written: directories, then files; plan.json is the last.
    """

    directory: Path
    made: tuple[Path, ...] = field(default=(), repr=False, compare=False)

    @property
    def solver(self) -> Path:
        """The solver that Caffe trains with."""
        return self.directory / "solver.prototxt"

    @property
    def net(self) -> Path:
        """The train net, and the test nets that stand in the same file."""
        return self.directory / "net.prototxt"

    @property
    def plan(self) -> Path:
        """The plan as JSON."""
        return self.directory / "plan.json"

    def stage_solver(self, number: int) -> Path:
        """The solver of a stage, counted from 1; the first is :attr:`solver`."""
        return self.solver if number == 1 else self.directory / f"solver.stage{number}.prototxt"

    def stage_net(self, number: int) -> Path:
        """The net of a stage, counted from 1; the first is :attr:`net`."""
        return self.net if number == 1 else self.directory / f"net.stage{number}.prototxt"

    def test_net(self, number: int) -> Path:
        """A test net with a file of its own."""
        return self.directory / f"test_net_{number}.prototxt"

    @property
    def snapshot_prefix(self) -> Path:
        """Where Caffe puts its snapshots: this, and ``_iter_N.caffemodel``."""
        return self.directory / "snapshots" / "snapshot"

    def json(self) -> dict[str, str]:
        """Paths by role, for the JSON of ``plan``."""
        return {"solver": str(self.solver), "net": str(self.net), "plan": str(self.plan)}


def gpus_of_job(solver: Path) -> int | None:
    """GPUs that a solver was planned for; None if it is no job's, or its plan can't be read.

    Raises:
        InputError: It is of a job whose batch grows, and so no recipe by itself; or of one that a
            newer version has planned.
    """
    files = JobFiles(solver.parent)
    try:
        plan = PlanFile.read(files.plan)
    except NewerFormatError:
        raise
    except (OSError, InputError):
        return None
    stages = [stage.solver.name for stage in plan.stages]
    if len(stages) > 1 and solver.name in stages:
        raise InputError(
            f"{solver} is stage {stages.index(solver.name) + 1} of {len(stages)} of a job whose "
            "batch grows, and no recipe by itself",
            hint="Plan the files that the job was planned from, or copy this one elsewhere.",
        )
    return plan.gpus if solver.name == files.solver.name else None


def write_job(
    plan: Plan,
    recipe: Recipe,
    solver_text: str | None,
    sources: Sources,
    directory: Path,
) -> JobFiles:
    """Writes a job directory.

    Each file appears whole or not at all, plan.json last: a directory with a plan.json is ready.
    Whatever stops the writing, what it made is taken away again.

    Args:
        plan: What to write.
        recipe: The files that it changes.
        solver_text: The solver from the template, or None to edit the user's own.
        sources: Where the data was found.
        directory: Created if it isn't there.

    Raises:
        InputError: The directory holds a job already, or other files of these names, or its path
            can't stand in a prototxt.
        OSError: It can't be written.
    """
    files = JobFiles(directory.resolve())
    changes = [each.changes for each in plan.stages] or [plan.changes]
    wired = [(*own, *_wiring(recipe, files, n)) for n, own in enumerate(changes, start=1)]
    planned = plan.json()
    content = plan_content(
        planned,
        summary=plan.summary(),
        stages=[
            {
                **stage,
                "solver": files.stage_solver(number).name,
                "net": files.stage_net(number).name,
                "changes": [change.json() for change in wired[number - 1]],
            }
            for number, stage in enumerate(planned["stages"], start=1)
        ],
    )
    return _write(files, wired, content, recipe, solver_text, sources, directory)


def _given(sources: Sources) -> dict[str, Any]:
    """What the user said about the nets' inputs, as in plan.json."""
    given = sources.input_shapes or {}
    wholes = {top: str(size) for top, size in given.items() if isinstance(size, WholeShape)}
    return {
        "input_shapes": {top: list(size) for top, size in given.items() if isinstance(size, tuple)},
        **({"whole_shapes": wholes} if wholes else {}),
        **({} if sources.batch_size is None else {"data_batch": sources.batch_size}),
    }


def _hints(hints: TypeHints) -> dict[str, Any]:
    """What the user said about types without a rule, as in plan.json; empty if nothing."""
    texts = {
        "treat_as": hints.treat_as_texts,
        "same_shape": hints.same_shape_texts,
        "asked": hints.asked,
    }
    said = {name: list(each) for name, each in texts.items() if each}
    return {"type_hints": said} if said else {}


def write_as_is(
    recipe: Recipe,
    solver_text: str | None,
    sources: Sources,
    directory: Path,
    *,
    engine: str,
    notes: Sequence[str],
) -> JobFiles:
    """Writes a job directory that trains the files as they are.

    Only the paths in the solver change: to the nets and the snapshots in the directory. plan.json
    has no batch, no memory and no audit; its ``as_is`` says why.

    Args:
        recipe: The files.
        solver_text: The solver from the template, or None to edit the user's own.
        sources: Where the data was found.
        directory: Created if it isn't there.
        engine: Name of the engine that trains them.
        notes: What to know about them, a sentence each.

    Raises:
        InputError, OSError: As :func:`write_job`.
    """
    files = JobFiles(directory.resolve())
    wired = tuple(_wiring(recipe, files, 1))
    content = plan_content(
        {"as_is": True, "iter_size": recipe.solver.iter_size, "gpus": 1, "engine": engine},
        summary=AS_IS_SUMMARY,
        notes=list(notes),
        allow_unknown=True,
    )
    return _write(files, [wired], content, recipe, solver_text, sources, directory)


def _write(
    files: JobFiles,
    wired: Sequence[Sequence[Change]],
    content: Mapping[str, Any],
    recipe: Recipe,
    solver_text: str | None,
    sources: Sources,
    directory: Path,
) -> JobFiles:
    """Writes the texts of a job and its plan.json.

    Args:
        files: Their names.
        wired: What each stage changes in the user's files.
        content: What plan.json says besides.
        recipe: The user's files.
        solver_text: The solver from the template, or None to edit the user's own.
        sources: Where the data was found.
        directory: Where they go, as the user spells it.
    """
    _check_nameable(files)
    texts = job_texts(wired, recipe, solver_text, files)
    check_free(files, directory, texts)
    plan = {
        **content,
        "changes": [change.json() for change in wired[0]],
        "rules": [str(file) for file in recipe.train.rules.files],
        "fork": recipe.fork.json() if recipe.fork else None,
        **_given(sources),
        **_hints(recipe.train.rules.hints),
        "files": files.json(),
        "working_directory": str(working_directory(recipe, sources).resolve()),
    }
    texts[files.plan] = PlanFile.of(files.plan, plan).text
    return write_files(files, texts)


def write_files(files: JobFiles, texts: Mapping[Path, str]) -> JobFiles:
    """Writes the texts of a job in their order, plan.json last, and makes its directories.

    Returns:
        The files, with what was made for them.

    Raises:
        OSError: One can't be written; what was made is taken away again.
    """
    made: list[Path] = []
    with ExitStack() as undo:
        for folder in _missing_directories(files.snapshot_prefix.parent):
            try:
                folder.mkdir()
            except FileExistsError:
                if not folder.is_dir():
                    raise
            else:  # only what this call made: another job may be written beside this one
                undo.callback(_remove_empty, folder)
                made.append(folder)
        for path, text in texts.items():
            undo.callback(path.unlink, missing_ok=True)
            replace_text(path, text)
        undo.pop_all()
    return replace(files, made=(*made, *texts))


def check_free(files: JobFiles, directory: Path, names: Iterable[Path]) -> None:
    """Raises an InputError if a job in this directory would overwrite anything."""
    if files.plan.exists():
        raise InputError(
            f"{directory} holds a job already",
            hint=[
                "Run it with ",
                Call(f"`caffe-batch train {directory}`", f"Job({str(directory)!r}).train()"),
                ", remove it, or give another directory.",
            ],
        )
    there = next((path.name for path in names if path.exists()), None)
    if there:
        raise InputError(
            f"{directory} holds a {there}, which the job would overwrite",
            hint="Give a new directory: it is created if it isn't there.",
        )


def _check_nameable(files: JobFiles) -> None:
    """Raises an InputError if no prototxt can name the directory."""
    try:
        str(files.directory).encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{str(files.directory)!r} is not UTF-8, so no prototxt can name it",
            hint="Give another directory.",
        ) from error


def job_texts(
    changes: Sequence[Sequence[Change]], recipe: Recipe, solver_text: str | None, files: JobFiles
) -> dict[Path, str]:
    """The text of each prototxt of the job.

    Args:
        changes: What each stage changes, first to last.
        recipe: The files that they change.
        solver_text: The solver from the template, or None to edit the user's own.
        files: The names of the texts.
    """
    if solver_text is None:
        solver_text = _read(recipe.solver_path) if recipe.solver_path else ""
    texts = {}
    for number, own in enumerate(changes, start=1):
        texts[files.stage_net(number)] = edited_net(recipe.train, own)
        texts[files.stage_solver(number)] = edited_solver(recipe, solver_text, own)
    for number, test in _other_test_files(recipe).items():
        texts[files.test_net(number)] = edited_net(test, changes[0], f"test_net_{number}")
    return texts


def edited_solver(recipe: Recipe, text: str, changes: Sequence[Change]) -> str:
    """The text of a solver with its changes made; comments and layout stay."""
    path = None if recipe.solver_path is None else str(recipe.solver_path)
    document = prototxt.Document(text, caffe_pb2.SolverParameter, path)
    own = [change for change in changes if change.file == "solver"]
    document.update((change.path, change.after) for change in own if change.after is not None)
    for change in own:
        if change.after is None:
            document.remove(change.path)
    return document.text


def edited_net(file: NetFile, changes: Sequence[Change], name: str = "net") -> str:
    """The text of a net with the changes of its layers made; comments and layout stay."""
    edits = [
        prototxt.Edit(change.layer, change.path, change.after)
        for change in changes
        if change.file == name
    ]
    text = prototxt.write(file.message) if file.path is None else _read(file.path)
    if not edits:
        return text
    return prototxt.edit_net(text, edits, path=None if file.path is None else str(file.path))


def _read(path: Path) -> str:
    """The text of one of the user's files, which the recipe was read from before."""
    if not path.is_file():
        raise InputError(
            f"{path} is a pipe, and can't be read a second time to copy it into the job",
            hint="Save it as a file, and plan that.",
        )
    return prototxt.read_text(path)


def _wiring(recipe: Recipe, files: JobFiles, stage: int) -> list[Change]:
    """The fields of a stage's solver that name other files of the job."""
    reason = "the job directory holds the net and the snapshots"
    solver = recipe.solver
    given = {field.name for field, _ in solver.ListFields()}
    changes = []
    net_field = "train_net" if recipe_has_own_test_files(recipe) else "net"
    for name in TRAIN_NET_FIELDS:
        if name != net_field and name in given:
            inline = name.endswith("_param")
            before: Any = "(inline)" if inline else getattr(solver, name)
            changes.append(Change("solver", (name,), before, None, reason))
    before = getattr(solver, net_field) if net_field in given else None
    changes.append(Change("solver", (net_field,), before, str(files.stage_net(stage)), reason))
    for number in _other_test_files(recipe):
        index = number - len(solver.test_net_param)
        before = solver.test_net[index]
        after = str(files.test_net(number))
        changes.append(Change("solver", ("test_net", index), before, after, reason))
    before = solver.snapshot_prefix if "snapshot_prefix" in given else None
    changes.append(
        Change("solver", ("snapshot_prefix",), before, str(files.snapshot_prefix), reason)
    )
    return changes


def recipe_has_own_test_files(recipe: Recipe) -> bool:
    """Whether the train net stands in a file (or message) that no test net uses."""
    return bool(recipe.tests) and all(
        test.message is not recipe.train.message for test in recipe.tests
    )


def _other_test_files(recipe: Recipe) -> dict[int, NetFile]:
    """Test nets that a solver names in test_net, by their number among all test nets."""
    first = len(recipe.solver.test_net_param)
    number = len(recipe.solver.test_net)
    return {i: recipe.tests[i] for i in range(first, first + number)}


def working_directory(recipe: Recipe, sources: Sources) -> Path:
    """The directory from which every relative source of the nets is found.

    The current one where that works, as with Caffe itself; else the net's or the solver's own.
    """
    wanted = [
        source
        for file in (recipe.train, *recipe.tests)
        for _, layer, rule in file.known()
        if has_records(rule)
        for source in [source_of(layer, rule)]
        if source
    ]
    for directory in sources.directories:
        if all((directory / source).exists() for source in wanted):
            return directory
    return sources.directories[0]


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):  # it wasn't made, or somebody else put something there
        folder.rmdir()


def _missing_directories(path: Path) -> list[Path]:
    """The directories to make for this one to be there, outermost first."""
    missing: list[Path] = []
    while not path.exists():
        missing.insert(0, path)
        path = path.parent
    return missing

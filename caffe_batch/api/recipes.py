"""Reads the net and the solver that a call names, from files or from templates."""

from __future__ import annotations

import os
import shutil
import warnings
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from tempfile import mkdtemp

from caffe_batch import engines, prototxt
from caffe_batch.api.arguments import Files, Shapes, files, shapes
from caffe_batch.api.filling import filled_in
from caffe_batch.api.machines import find_runtime
from caffe_batch.errors import CaffeBatchError, InputError, Option, UnknownFieldError, did_you_mean
from caffe_batch.experiments.python_layers import ask_python_layers, python_layers
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.plan_file import PlanFile
from caffe_batch.layers.forks import FORKS
from caffe_batch.layers.given import Given, spelled
from caffe_batch.layers.hints import NO_HINTS, TypeHints
from caffe_batch.layers.loading import rules_with
from caffe_batch.layers.own import PYTHON
from caffe_batch.layers.registry import Registry
from caffe_batch.net import Recipe, Sources, read_recipe
from caffe_batch.net.batch import batch_size
from caffe_batch.net.filtering import net_state
from caffe_batch.net.kinds import kind
from caffe_batch.net.missing import check_complete, missing_options
from caffe_batch.net.recipe import NetFile
from caffe_batch.net.records import count_records
from caffe_batch.rendering import Template, TemplateRecipe, find, names, render
from caffe_batch.rendering.render import render_solver
from caffe_batch.rendering.values import Value, show
from caffe_batch.schema import caffe_pb2

#: The lengths in a solver from the template if nothing is known about the data.
DEFAULT_TEST_ITER = 100
DEFAULT_EPOCHS = 10
DEFAULT_MAX_ITER = 10000

#: What a note says about a data set's values.
_SHOWN = ("num_classes", "crop_size", "mean_values")


class RecipeFiles:
    """The recipe of a net and a solver, and where its data is.

    A rendered template is kept in a temporary folder for as long as this object lives.

    Args:
        net: A net file, a solver file (then its nets are followed), or the name of a template.
        solver: The solver to train ``net`` with, or None.
        input_shape: Sizes of records by top.
        allow_unknown: Accept layer types without a rule.
        allow_unknown_fields: Skip fields that Caffe 1.0 doesn't know, with a Python warning.
        rules: Python files with rules for other layer types.
        batch_size: The batch of data layers without a rule that don't state one.
        fork: The fork of Caffe that the net is written for; None to decide by its layer types.
        hints: What the user says about types without a rule.
        run_python_layers: Whether to ask Python layers without a rule for their shapes.
        data: A data set that fills in the variables of a template.
        engine: Name of the engine that trains.
        as_is: Whether nothing needs to be known about the layers.

    Attributes:
        recipe: The files as they are. Its ``notes`` say how they were found.
        sources: Where data is looked up, and the sizes given for it.
        template: The template that the net comes from; None for a file.
        allow_unknown: Whether layer types without a rule are accepted: as the call says, or the
            plan of the job that the file belongs to.

    Raises:
        InputError: A file is missing, unreadable or contradicts itself, or there is no such
            template or top.
    """

    def __init__(
        self,
        net: str | Path,
        solver: str | Path | None,
        input_shape: Shapes,
        *,
        allow_unknown: bool,
        allow_unknown_fields: bool,
        rules: Files = (),
        batch_size: int | None = None,
        fork: str | None = None,
        hints: TypeHints = NO_HINTS,
        run_python_layers: bool = False,
        data: str | Path | None = None,
        engine: str = engines.DEFAULT,
        as_is: bool = False,
    ) -> None:
        given = shapes(input_shape)
        name = str(net)
        self.template = template = find(name) if _is_template(name) else None
        if data is not None and template is None:
            raise InputError(
                [Option("data", str(data)), f" is for templates, and {name} isn't one"],
                hint="A net file names its data in its own data layers.",
            )
        path, notes = self._render(template, data) if template else (Path(net), ())
        plan = None if template or solver is not None else _plan_of(path)
        if plan is not None:
            notes = (*notes, *_taken_from(plan))
            given = {**(plan.input_shapes or {}), **given}
            rules = (*plan.rules, *files(rules))
            fork, hints = fork or plan.fork, plan.hints.overridden_by(hints)
            batch_size = plan.data_batch if batch_size is None else batch_size
            allow_unknown, allow_unknown_fields = allow_unknown or plan.allow_unknown, True
        self.allow_unknown = allow_unknown
        known = rules_with(files(rules), checked_fork(fork), hints)
        try:
            recipe = read_recipe(
                path, solver, allow_unknown_fields=allow_unknown_fields, rules=known
            )
        except UnknownFieldError as error:
            others = _also_missing(path, solver, known, given, batch_size)
            if others or not error.misspelled:
                error.completion = (Option("allow_unknown_fields", True), *others)
            raise
        self.recipe: Recipe = replace(recipe, notes=(*notes, *recipe.notes))
        with noted(self.recipe.notes):
            _check_tops(given, recipe)
            _check_types(hints, recipe)
            beside = path.parent if template else None  # a temporary folder: no data is there
            directories = tuple(each for each in recipe.directories if each != beside)
            if plan is not None:
                directories = (plan.working_directory, *directories)
            self.sources = Sources(directories, given, batch_size)
            if run_python_layers:
                self._ask_python_layers(engine)
            if not as_is:
                check_complete(self.recipe, self.sources, allow_unknown=allow_unknown)

    def _ask_python_layers(self, engine: str) -> None:
        """Adds what the Python layers without a rule say about their tops."""
        recipe, sources = self.recipe, self.sources
        if not any(map(python_layers, (recipe.train, *recipe.tests))):
            return
        found = ask_python_layers(recipe, sources, find_runtime(None, engine), engines.find(engine))
        given = dict(sources.input_shapes or {})
        for top, shape in found.shapes.items():
            if top in given and not shape.agrees(given[top]):
                raise InputError(
                    [
                        f"the Python layer of top {top!r} says that it is {shape}, which "
                        "contradicts ", Option("input_shape", spelled(top, given[top])),
                    ],
                    hint="Leave it out.",
                )  # fmt: skip
        self.sources = replace(sources, input_shapes={**found.shapes, **given})
        rules = recipe.train.rules
        hints = replace(rules.hints, asked=found.kinds)
        asked = [file.asking(hints) for file in (recipe.train, *recipe.tests)]
        self.recipe = replace(recipe, train=asked[0], tests=tuple(asked[1:]))

    def _render(self, template: Template, data: str | Path | None) -> tuple[Path, tuple[str, ...]]:
        """A temporary file with a rendered template, and a note about it."""
        name = template.name
        folder = Path(mkdtemp(prefix="caffe-batch-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        path = folder / f"{name}.prototxt"
        values: dict[str, Value] = {} if data is None else filled_in(template, data)
        path.write_text(render(name, values), encoding="utf-8")
        variables = f"`caffe-batch render {name} --variables` lists them"
        filled = "".join(f", {key} {show(values[key])}" for key in _SHOWN if key in values)
        given = "" if data is None else f" except for what {data} determines{filled}"
        return path, (f"template {name} with its defaults{given}; {variables}",)


@dataclass(frozen=True)
class MadeSolver:
    """A solver from the template, for a net that was given without one.

    Attributes:
        text: Its text.
        note: What it is, for the user.
    """

    text: str
    note: str


def _plan_of(path: Path) -> PlanFile | None:
    """The plan of the job whose solver or net a file is; None if the file isn't a job's."""
    job = JobDirectory(path.parent)
    if not os.path.isfile(job.plan) or not os.path.isfile(path):  # nor where nobody may look
        return None
    plan = PlanFile.read(job.plan)
    own = [file for stage in plan.stages for file in (stage.solver, stage.net)]
    return plan if any(file.is_file() and file.samefile(path) for file in own) else None


def _taken_from(plan: PlanFile) -> tuple[str, ...]:
    """A note about what a job's plan says about its net, if anything."""
    options = [
        *(Option("rules", str(file)) for file in plan.rules),
        *(Option("treat_as", text) for text in plan.hints.treat_as_texts),
        *(Option("same_shape", text) for text in plan.hints.same_shape_texts),
        *(Option("input_shape", spelled(*each)) for each in (plan.input_shapes or {}).items()),
        *([Option("fork", plan.fork)] if plan.fork else []),
        *([Option("allow_unknown", True)] if plan.allow_unknown else []),
    ]
    if not options:
        return ()
    return (f"as its {plan.path.name} says: {' '.join(option.shell for option in options)}",)


def with_solver(
    recipe: Recipe,
    sources: Sources,
    effective_batch: int | None = None,
    *,
    allow_unknown: bool = False,
    template: Template | None = None,
) -> tuple[Recipe, MadeSolver | None]:
    """The recipe with a solver from the template, if the user gave none, and that solver.

    The solver tests once per epoch over the whole test set, where the record counts are known. A
    net from a template has the solver of its paper, with its number of epochs over the user's
    data, or over the paper's data if the user's records can't be counted.

    Args:
        recipe: What the user gave.
        sources: Where its data is.
        effective_batch: Samples per update; the net's batch size if None.
        allow_unknown: Accept layer types without a rule.
        template: The template that the net comes from.
    """
    if recipe.solver_path is not None:
        return recipe, None
    test = _in_test(recipe.train)
    missing = _missing_in_test(test) if test else None
    if missing is not None:
        test = None
        layer, bottom = missing
        note = (
            f"planned without tests: in the TEST net, nothing produces {bottom!r}, which layer "
            f"{layer!r} reads; a solver may set the state that it needs"
        )
        recipe = replace(recipe, notes=(*recipe.notes, note))
    records = count_records(recipe.train, sources)
    settings: dict[str, object] = {"max_iter": DEFAULT_MAX_ITER}
    meant = template.recipe if template else None
    updates = None
    if records is not None:
        size = effective_batch or batch_size(
            recipe.train.layers(sources, allow_unknown=allow_unknown)
        )
        updates = ceil(records / size)
    elif template and meant:
        updates = ceil(meant.records / (effective_batch or _own_batch(template)))
    if updates is not None:
        settings.update(max_iter=DEFAULT_EPOCHS * updates, test_interval=updates, snapshot=updates)
        if meant:
            settings.update(_settings(meant, updates))
    if test:
        test_records = count_records(test, sources)
        batches = DEFAULT_TEST_ITER
        if test_records is not None:
            size = batch_size(test.layers(sources, allow_unknown=allow_unknown))
            batches = ceil(test_records / size)
        settings["test_iter"] = [batches]
    origin = f"From {meant.source}." if meant else "From caffe-batch's solver template."
    text = render_solver(comment=origin, **settings)
    solver = prototxt.parse_solver(text)
    made = MadeSolver(text, _note(template, meant, records))
    return replace(recipe, solver=solver, tests=(test,) if test else ()), made


def with_its_test(recipe: Recipe) -> Recipe:
    """The recipe with tests of its file's TEST net, where no solver says which tests there are."""
    test = None if recipe.solver_path else _in_test(recipe.train)
    if test is None or _missing_in_test(test):
        return recipe
    solver = caffe_pb2.SolverParameter()
    solver.CopyFrom(recipe.solver)
    solver.test_iter[:] = [1]
    solver.test_interval = 1
    return replace(recipe, solver=solver, tests=(test,))


def _in_test(train: NetFile) -> NetFile | None:
    """The TEST net of a file; None if it has none of its own."""
    test = replace(train, state=net_state("TEST", train.message))
    return test if _has_test(train, test) else None


def _own_batch(template: Template) -> int:
    """The batch size that a template has by default."""
    found = {variable.name: variable.default for variable in template.variables}.get("batch_size")
    if not isinstance(found, int):
        raise InputError(f"template {template.name}: its recipe needs a batch_size")
    return found


def _settings(recipe: TemplateRecipe, updates: int) -> dict[str, object]:
    """The variables of the solver's template, given the updates of an epoch."""
    counted = {
        name: [max(1, round(each * updates)) for each in found]
        for name, found in recipe.in_epochs.items()
    }
    lists = {name: found[0] if name == "stepsize" else found for name, found in counted.items()}
    return {**recipe.settings, **lists, "max_iter": max(1, round(recipe.epochs * updates))}


def _note(template: Template | None, recipe: TemplateRecipe | None, records: int | None) -> str:
    if template is None or recipe is None:
        return "no solver was given; templates/solver.prototxt.j2 makes one"
    whose = "" if records else f", of {recipe.records:,} records, since yours can't be counted"
    return (
        f"no solver was given; {template.name}'s is from {recipe.source}: {recipe.epochs:g} "
        f"epochs{whose}"
    )


def _has_test(train: NetFile, test: NetFile) -> bool:
    """Whether the TEST layers of a file are a net of their own.

    They aren't if they merely lack the layers for TRAIN: if no layer is for TEST alone, and the
    remaining ones read blobs that none of them produces.
    """
    trained = {index for index, _ in train.selected()}
    tested = test.selected()
    if trained == {index for index, _ in tested}:
        return False
    if any(index not in trained for index, _ in tested):
        return True
    produced: set[str] = set()
    for _, layer in tested:
        if not produced.issuperset(layer.bottom):
            return False
        produced.update(layer.top)
    return True


def _missing_in_test(test: NetFile) -> tuple[str, str] | None:
    """A layer of a TEST net that reads a blob nothing produces, and the blob; None if whole."""
    produced: set[str] = set()
    for _, layer in test.selected():
        for bottom in layer.bottom:
            if bottom not in produced:
                return layer.name, bottom
        produced.update(layer.top)
    return None


def checked_fork(fork: str | None) -> str | None:
    """The name of a fork.

    Raises:
        InputError: There is no such fork.
    """
    if fork is None or fork in FORKS:
        return fork
    raise InputError(
        [Option("fork"), f" is not one of the forks that differ: {fork!r}"],
        hint=did_you_mean(fork, FORKS) or f"They are {', '.join(FORKS)}.",
    )


@contextmanager
def noted(notes: tuple[str, ...]) -> Iterator[None]:
    """Adds the notes about the files to an error raised inside."""
    try:
        yield
    except CaffeBatchError as error:
        error.notes = tuple(dict.fromkeys((*notes, *error.notes)))
        raise


def _check_tops(given: Iterable[str], recipe: Recipe) -> None:
    """Raises an InputError for a top that the nets don't have."""
    known = set(recipe.tops())
    for top in given:
        if top not in known:
            open_tops = list(dict.fromkeys(recipe.open_tops()))
            raise InputError(
                [Option("input_shape"), f" names top {top!r}, which no layer of the net has"],
                hint=did_you_mean(top, open_tops)
                or f"It can give the size of {', '.join(open_tops)}.",
            )


def _also_missing(
    net: Path,
    solver: str | Path | None,
    rules: Registry,
    given: Mapping[str, Given],
    batch_size: int | None,
) -> tuple[Option, ...]:
    """What to say besides that unknown fields are skipped."""
    with warnings.catch_warnings(), suppress(InputError, OSError):
        warnings.simplefilter("ignore")
        recipe = read_recipe(net, solver, allow_unknown_fields=True, rules=rules)
        return missing_options(recipe, Sources(recipe.directories, given, batch_size))
    return ()


def _check_types(hints: TypeHints, recipe: Recipe) -> None:
    """Raises an InputError for a hint about a type that the nets don't have."""
    kinds = {kind(layer) for file in (recipe.train, *recipe.tests) for layer in file.message.layer}
    kinds |= {f"{PYTHON}{each.rpartition('.')[2]}" for each in kinds if each.startswith(PYTHON)}
    for option, layer_type in hints.named():
        if layer_type not in kinds:
            unknown = sorted(each for each in kinds if each not in recipe.train.rules)
            raise InputError(
                [option, f" names type {layer_type!r}, which no layer of the net has"],
                hint=did_you_mean(layer_type, sorted(kinds))
                or f"Its types without a rule: {', '.join(unknown) or 'none'}.",
            )


def _is_template(net: str) -> bool:
    """Whether NET isn't a file but the name of a template.

    Raises:
        InputError: It is neither, but looks like a template's name.
    """
    known = [] if os.path.exists(net) else names()
    near = None if net in known or "." in net else did_you_mean(net, known)
    if near:
        raise InputError(f"{net}: there is no such file, and no such template", hint=near)
    return net in known

"""The proof on real Caffe: (batch_size b, iter_size k) against (b*k, 1) on the user's own net.

Each variant starts from the same weights and sees the same samples. Four things are compared: the
gradient of the first update (clipped, divided by iter_size, before momentum, weight decay and
learning rate), the loss of that update, the weights after three updates of the recipe's own solver,
and the smoothed loss at that point. Two more runs are the control: the whole batch again, with its
gradients perturbed by the error that is tolerated in them (verification.py explains why). The
engine's worker computes all of this on the CPU.

Random draws of the net are held equal in all of these runs, or turned off (held_draws.py). Three
more runs, in which they are free, show the effect of the draws alone: the whole batch, the whole
batch with another seed, and the micro-batches.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from caffe_batch import engines
from caffe_batch.engines.base import Engine
from caffe_batch.engines.work import VariantRun, VerificationRequest
from caffe_batch.errors import DoesNotFitError, NetError, Option, ShapeError, Text, TrainingError
from caffe_batch.experiments.held_draws import Ruled, can_draw, how_held
from caffe_batch.experiments.rounding import gradient_terms, loss_terms
from caffe_batch.experiments.variants import (
    UPDATES,
    DataUse,
    Variant,
    data_use,
    draw_feeds,
    feeds,
    make_variant,
    write_variant,
)
from caffe_batch.experiments.verification import (
    FLOOR,
    TOLERANCE,
    Difference,
    Draws,
    Errors,
    Losses,
    ParameterErrors,
    Verification,
    largest,
    relative_errors,
    vanishing,
)
from caffe_batch.experiments.worker import WorkerEnd, explained, run_worker
from caffe_batch.jobs.ending import EndReason
from caffe_batch.jobs.job_files import working_directory
from caffe_batch.layers.base import Shape
from caffe_batch.layers.registry import Registry
from caffe_batch.memory import MemoryModel
from caffe_batch.planning.audit.findings import Cause, Finding, Verdict
from caffe_batch.planning.edits.changes import Change, batch_changes
from caffe_batch.planning.planner import check_has_loss
from caffe_batch.runtimes.base import Runtime
from caffe_batch.runtimes.machine import free_host_bytes
from caffe_batch.sizes import format_size
from caffe_batch.solver.checks import check_solver
from caffe_batch.training.checks import check_layer_types

#: Passes of an update: not a power of two, so that a factor k can't hide in a float's exponent.
ITER_SIZE = 3
#: Batch sizes to try: the first is taken that the net and the memory allow; the net's own is last.
BATCH_SIZES = (4, 2, 6, 8, 3, 1)

#: The largest whole batch of the files' own split, in predicted bytes, that a CPU does in seconds.
MOST_OWN_BYTES = 512 << 20

#: What to try where Caffe fails, by reason.
_HINTS: Mapping[EndReason, Text] = {
    EndReason.HOST_MEMORY: [
        "Try a smaller ", Option("batch_size"), ", or close other programs.",
    ],
    EndReason.KILLED: [
        "Usually the kernel's out-of-memory killer: see `dmesg`. Try a smaller ",
        Option("batch_size"), ", or close other programs.",
    ],
    EndReason.PYTHON_ERROR: "A Python layer's module is found through PYTHONPATH or in the "
    "working directory.",
}  # fmt: skip

#: The runs of the whole batch whose gradients are perturbed, and by how much.
_CONTROLS = {"above": TOLERANCE, "below": -TOLERANCE}

#: Gives the findings of the audit for a batch_size and an iter_size.
Audit = Callable[[int, int], Sequence[Finding]]


@dataclass(frozen=True)
class _Run:
    """One training for Caffe to run.

    Attributes:
        variant: What is trained.
        disturbance: The relative perturbation of its gradients.
        base: Name of the run that it is compared with.
        holds: Whether its random draws are held equal.
        seed: A number to add to its random_seed.
    """

    variant: Variant
    disturbance: float = 0.0
    base: str = "whole"
    holds: bool = True
    seed: int = 0


@dataclass(frozen=True)
class _Split:
    """The variants to compare, at one batch_size and iter_size."""

    findings: tuple[Finding, ...]
    whole: Variant
    compensated: Variant
    plain: Variant | None
    plain_refused: str = ""
    notes: tuple[str, ...] = ()
    controls: bool = True

    @cached_property
    def held(self) -> tuple[str, ...]:
        """How random draws are held equal, one phrase each."""
        windows = [
            f"made-up windows in {finding.layer!r}"
            for finding in self.findings
            if finding.cause is Cause.WINDOW_DATA and finding.verdict is Verdict.APPROXIMATE
        ]
        return (*how_held(self._ruled()), *windows)

    @property
    def frees(self) -> bool:
        """Whether there are draws that Caffe's CPU code can make."""
        return bool(self.held) and can_draw(self._ruled())

    def _ruled(self) -> list[Ruled]:
        return [(layer, rule) for _, layer, rule in self.whole.model.recipe.train.known()]

    @cached_property
    def runs(self) -> dict[str, _Run]:
        """The trainings for Caffe to run, by name."""
        runs = {"whole": _Run(self.whole), "compensated": _Run(self.compensated)}
        if not self.controls:
            return runs
        for name, disturbance in _CONTROLS.items():
            runs[name] = _Run(self.whole, disturbance)
        if self.plain is not None:
            runs["plain"] = _Run(self.plain)
        if self.frees:
            runs["drawn"] = _Run(self.whole, base="drawn", holds=False)
            runs["drawn again"] = _Run(self.whole, base="drawn", holds=False, seed=1)
            runs["drawn apart"] = _Run(self.compensated, base="drawn", holds=False)
        return runs


def verify(
    model: MemoryModel,
    runtime: Runtime,
    audit: Audit,
    *,
    batch_size: int | None = None,
    iter_size: int | None = None,
    controls: bool = True,
) -> Verification:
    """Train a recipe with and without accumulation, and compare.

    Args:
        model: The recipe, with a solver.
        runtime: The Python with caffe to run on.
        audit: Gives the effects of accumulation at a split, and what the plan changes for them.
        batch_size: Samples of a micro-batch; if None, the first of ``BATCH_SIZES`` that the net and
            the memory of this machine allow.
        iter_size: Micro-batches of an update; ``ITER_SIZE`` if None.
        controls: Whether to run more than the two trainings that are compared: the controls, the
            variant without changes, and free draws. If not, ``TOLERANCE`` applies to everything.

    Returns:
        What was measured at that split. If neither number is given and the files accumulate
        already, it includes what was measured at the files' own split.

    Raises:
        InputError: The files can't be trained, or Caffe would refuse the net.
        DoesNotFitError: Not even the smallest batch fits the memory of this machine.
        TrainingError: Caffe failed; the message has its reason and the last lines of its log.
    """
    check_solver(model.recipe.solver, model.recipe.solver_path, needs_length=False)
    check_has_loss(model)
    check_layer_types([model.recipe.train], engines.find(model.engine), runtime, fed=True)
    split = _choose(model, audit, batch_size, iter_size or ITER_SIZE)
    engines.find(model.engine).check_net(split.whole.net)
    split = replace(split, controls=controls)
    found = _measured(model, runtime, split)
    if batch_size is not None or iter_size is not None or model.recipe.solver.iter_size < 2:
        return found
    own, note = _own_split(model, audit)
    if own is not None and (own.compensated.batch_size, own.compensated.iter_size) != (
        found.batch_size,
        found.iter_size,
    ):
        return replace(found, own=_measured(model, runtime, own))
    return replace(found, notes=(*found.notes, note) if note else found.notes)


def _measured(model: MemoryModel, runtime: Runtime, split: _Split) -> Verification:
    """Measure one split."""
    directory = working_directory(model.recipe, model.sources).resolve()
    uses = data_use(model, directory)
    held = {index: _held_use(use, split.findings) for index, use in uses.items()}
    names = list(split.runs)
    engine = engines.find(model.engine)
    with TemporaryDirectory(prefix="caffe-batch-") as name:
        own = Path(name).resolve()
        folders = {each: own / each.replace(" ", "_") for each in names}
        free = feeds(split.whole, split.compensated, uses)
        given = [*feeds(split.whole, split.compensated, held), *draw_feeds(split.whole)]
        for each, run in split.runs.items():
            folders[each].mkdir()
            write_variant(
                run.variant,
                held if run.holds else uses,
                folders[each],
                holds=run.holds,
                seed=run.seed,
            )
        request = VerificationRequest(
            variants=[
                VariantRun(
                    folders[each],
                    run.variant.iter_size,
                    run.disturbance,
                    base=names.index(run.base),
                    feeds=[feed.json() for feed in (given if run.holds else free)],
                )
                for each, run in split.runs.items()
            ],
            updates=UPDATES,
            average_loss=max(model.recipe.solver.average_loss, 1),
            floor=FLOOR,
            result=own / "result.json",
        )
        rules = model.recipe.train.rules
        found = run_verification(runtime, engine, request, own, directory, rules)
        where_it_lies = partial(explained, model=model, directory=directory)
        refused = (
            _refusal(engine, folders, split, found["statuses"], where_it_lies)
            or split.plain_refused
        )
    return Verification(
        batch_size=split.compensated.batch_size,
        iter_size=split.compensated.iter_size,
        updates=UPDATES,
        solver_type=model.recipe.solver.type,
        parameters=tuple(_parameters(found, split)),
        statistics=tuple(_statistics(found, split)),
        first_losses=_losses(found["first_losses"], found["loss_sizes"][0], split),
        losses=_losses(found["losses"], found["loss_sizes"][1], split),
        data=tuple(held.values()),
        findings=split.findings,
        notes=split.notes,
        plain_refused=refused,
        held=split.held,
        draws=_draws(found, split) if "drawn" in split.runs else None,
    )


def _held_use(use: DataUse, findings: Sequence[Finding]) -> DataUse:
    """Replace windows that each run would draw for itself by made-up samples."""
    drawn = any(
        finding.cause is Cause.WINDOW_DATA
        and finding.layer == use.layer
        and finding.verdict is Verdict.APPROXIMATE
        for finding in findings
    )
    if use.made or not drawn:
        return use
    return DataUse(use.layer, True, "each run would draw different windows")


def _own_split(model: MemoryModel, audit: Audit) -> tuple[_Split | None, str]:
    """The split that the files have, or None and a note on why it isn't measured.

    Where its whole batch takes much memory, and so much time, fewer passes show the same.
    """
    size, count = model.batch_size, model.recipe.solver.iter_size
    free_bytes = free_host_bytes()
    limit = MOST_OWN_BYTES if free_bytes is None else min(MOST_OWN_BYTES, free_bytes)
    notes: tuple[str, ...] = ()
    try:
        if model.at(size * count).peak_bytes > limit:
            passes = min(count, 2)
            notes = (f"The files' iter_size is {count}; {passes} passes are measured.",)
            count = passes
        return _split(model, audit, size, count, free_bytes, notes), ""
    except (ShapeError, DoesNotFitError) as error:
        return None, f"The files' own batch_size {size} is not measured: {error.message}"


def _choose(model: MemoryModel, audit: Audit, batch_size: int | None, iter_size: int) -> _Split:
    """The first split that can be built and fits the memory of this machine.

    Raises:
        ShapeError: No split can be built; the message says why the first one can't.
        DoesNotFitError: No split that can be built fits.
    """
    own = model.batch_size  # raises an error where there is no batch size to set
    sizes = list(dict.fromkeys([*BATCH_SIZES, own])) if batch_size is None else [batch_size]
    free_bytes = free_host_bytes()
    notes: list[str] = []
    problems: list[ShapeError | DoesNotFitError] = []
    for size in sizes:
        try:
            return _split(model, audit, size, iter_size, free_bytes, tuple(notes))
        except (ShapeError, DoesNotFitError) as error:
            notes.append(f"batch_size {size} isn't possible: {error.message}")
            problems.append(error)
    raise nearest(problems)


def nearest(problems: Sequence[ShapeError | DoesNotFitError]) -> ShapeError | DoesNotFitError:
    """Of what is wrong with some batch sizes, what lacks least memory; else the first."""
    short = [problem for problem in problems if isinstance(problem, DoesNotFitError)]
    return min(short, key=lambda problem: problem.missing_bytes) if short else problems[0]


def _split(
    model: MemoryModel,
    audit: Audit,
    size: int,
    iter_size: int,
    free_bytes: int | None,
    notes: tuple[str, ...],
) -> _Split:
    findings = tuple(audit(size, iter_size))
    changes = _changes(model, findings, size)
    whole_changes = _changes(model, audit(size * iter_size, 1), size * iter_size)
    whole = make_variant(model, size * iter_size, 1, whole_changes)
    compensated = make_variant(model, size, iter_size, changes)
    if whole.net.params != compensated.net.params:
        raise NetError(
            "the net's parameters depend on its batch size, so at another batch size it would be "
            "another net",
            hint="The cause is an InnerProduct with axis: 0, or a Parameter layer with the batch "
            "in its shape.",
        )
    needed = whole.model.at().peak_bytes
    if free_bytes is not None and needed > free_bytes:
        raise _too_large(size * iter_size, needed, free_bytes)
    plain, refused = None, ""
    if changes:
        try:
            plain = make_variant(model, size, iter_size, ())
            plain.model.train_net()
        except NetError as error:
            plain, refused = None, str(error.message)
    return _Split(findings, whole, compensated, plain, refused, notes)


def _too_large(batch: int, needed: int, free_bytes: int) -> DoesNotFitError:
    """The error for a batch that this machine has no memory for."""
    return DoesNotFitError(
        f"a batch of {batch} needs {format_size(needed)}, and this machine has "
        f"{format_size(free_bytes)} free",
        missing_bytes=needed - free_bytes,
        hint=[
            "Try a smaller ",
            Option("batch_size"),
            " or ",
            Option("iter_size", 2),
            ", or close other programs.",
        ],
    )


def _changes(model: MemoryModel, findings: Sequence[Finding], size: int) -> list[Change]:
    """What the audit changes beyond what every variant of that batch size needs."""
    own = batch_changes(model.recipe, model.train_layers, size)
    every = [change for finding in findings for change in finding.changes]
    return [change for change in every if change not in own]


def run_verification(
    runtime: Runtime,
    engine: Engine,
    request: VerificationRequest,
    folder: Path,
    directory: Path,
    rules: Registry,
) -> dict[str, Any]:
    """Run the worker and read its result.

    Raises:
        TrainingError: The worker ended without a result.
    """
    nets = [variant.folder / "net.prototxt" for variant in request.variants]
    work = engine.verification(request)
    end = run_worker(runtime, engine, work, folder, directory, nets=nets, rules=rules)
    if end.ending.reason is not EndReason.FINISHED:
        raise worker_failure(f"{engine.title} did not start", end)
    content: dict[str, Any] = json.loads(request.result.read_text(encoding="utf-8"))
    return content


def _refusal(
    engine: Engine,
    folders: Mapping[str, Path],
    split: _Split,
    statuses: Sequence[int],
    explain: Callable[[WorkerEnd], WorkerEnd],
) -> str:
    """Why Caffe didn't run the variant without changes; empty if it did.

    Raises:
        TrainingError: Caffe didn't run one of the other variants.
    """
    for (name, folder), status in zip(folders.items(), statuses, strict=True):
        if not status:
            continue
        lines = log_lines(folder / "caffe.log")
        ending = engine.classify(status, None, lines)
        if name == "plain":
            return ending.detail
        variant = split.runs[name].variant
        where = f"batch_size {variant.batch_size}, iter_size {variant.iter_size}"
        end = WorkerEnd(ending, tuple(engine.last_lines(lines)))
        raise worker_failure(f"{engine.title} stopped at {where}", explain(end))
    return ""


def worker_failure(what: str, end: WorkerEnd) -> TrainingError:
    """The error for a worker, or a run in it, that failed."""
    shown = "".join(f"\n  {line}" for line in end.log)
    ending = end.ending
    return TrainingError(
        f"{what}: {ending.reason.value}: {ending.detail}\nThe last lines of its log:{shown}",
        hint=_HINTS.get(ending.reason),
    )


def log_lines(log: Path) -> list[str]:
    """The lines of a run's log; none if it has none."""
    return log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []


def _losses(values: Sequence[Any], size: float, split: _Split) -> Losses:
    by_name = dict(zip(split.runs, values, strict=True))
    return Losses(
        by_name["whole"],
        by_name["compensated"],
        by_name.get("plain"),
        tuple(by_name[name] for name in _CONTROLS if name in by_name),
        size,
        loss_terms(split.whole.net) + loss_terms(split.compensated.net),
    )


def _draws(found: Mapping[str, Any], split: _Split) -> Draws:
    """The effect of the draws alone: with another seed, and in micro-batches."""
    gradient, weights = (_columns(found[what], split) for what in ("gradient", "weights"))
    losses = dict(zip(split.runs, found["first_losses"], strict=True))
    before = losses["drawn"]

    def difference(name: str) -> Difference:
        size = max(abs(before), FLOOR * found["loss_sizes"][0])
        return Difference(
            largest(gradient[name]), largest(weights[name]), abs(losses[name] - before) / size
        )

    return Draws(again=difference("drawn again"), apart=difference("drawn apart"))


def _parameters(found: Mapping[str, Any], split: _Split) -> Iterator[ParameterErrors]:
    frozen = {(p.layer, p.index) for p in split.whole.net.params if p.lr_mult == 0}
    gradients, weights = found["gradient"], found["weights"]
    small = vanishing(_shapes(gradients), [row["norms"][0] for row in gradients])
    terms = gradient_terms(split.whole.net)
    columns = (weights, _errors(gradients, split), _errors(weights, split), small)
    for row, gradient, weight, vanishes in zip(*columns, strict=True):
        layer, index = row["name"]
        learned = gradient if (layer, index) not in frozen else None
        shape, added = tuple(row["shape"]), terms.get((layer, index), 0)
        yield ParameterErrors(layer, index, shape, learned, weight, vanishes, added)


def _statistics(found: Mapping[str, Any], split: _Split) -> Iterator[ParameterErrors]:
    rows = found["statistics"]
    for row, errors in zip(rows, _errors(rows, split), strict=True):
        layer, index = row["name"]
        yield ParameterErrors(layer, index, tuple(row["shape"]), None, errors)


def _shapes(rows: Sequence[Mapping[str, Any]]) -> list[Shape]:
    return [tuple(row["shape"]) for row in rows]


def _columns(rows: Sequence[Mapping[str, Any]], split: _Split) -> dict[str, list[float]]:
    """The errors of all of the worker's rows, for each run that has them."""
    shapes = _shapes(rows)
    columns: dict[str, list[float]] = {}
    for place, name in enumerate(split.runs):
        norms, differences = ([row[what][place] for row in rows] for what in _MEASURES)
        if None not in differences:
            columns[name] = relative_errors(shapes, norms, differences)
    return columns


_MEASURES = ("norms", "differences")


def _errors(rows: Sequence[Mapping[str, Any]], split: _Split) -> list[Errors]:
    """The errors of each row, with the draws held equal."""
    columns = _columns(rows, split)

    def errors(number: int) -> Errors:
        own = {name: column[number] for name, column in columns.items()}
        controls = [own[name] for name in _CONTROLS if name in own]
        return Errors(own["compensated"], own.get("plain"), largest(controls))

    return [errors(number) for number in range(len(rows))]

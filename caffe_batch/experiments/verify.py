"""The proof on real Caffe: (batch_size b, iter_size k) against (b*k, 1) on the user's own net.

Each variant starts from the same weights and sees the same samples. Compared are the gradient of
the first update (clipped, divided by iter_size, before momentum, weight decay and learning rate),
the loss of that update, the weights after three updates of the recipe's own solver, and the
smoothed loss then. Two more runs are the control: the whole batch again, its gradients disturbed by
the error that is tolerated of them (comparison.py says what for). An engine's worker calculates it,
on the CPU.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from caffe_batch import engines
from caffe_batch.engines.base import Engine
from caffe_batch.engines.work import VariantRun, VerificationRequest
from caffe_batch.errors import DoesNotFitError, NetError, ShapeError, TrainingError
from caffe_batch.experiments.comparison import (
    FLOOR,
    TOLERANCE,
    Errors,
    Losses,
    ParameterErrors,
    Verification,
    largest,
    relative_errors,
    vanishing,
)
from caffe_batch.experiments.variants import (
    UPDATES,
    Variant,
    data_use,
    feeds,
    make_variant,
    write_variant,
)
from caffe_batch.experiments.worker import WorkerEnd, run_worker
from caffe_batch.jobs.ending import EndReason
from caffe_batch.jobs.job_files import working_directory
from caffe_batch.layers.base import Shape
from caffe_batch.memory import MemoryModel
from caffe_batch.planning.audit.findings import Finding
from caffe_batch.planning.edits.changes import Change, batch_changes
from caffe_batch.planning.planner import check_has_loss
from caffe_batch.runtimes.base import Runtime
from caffe_batch.runtimes.machine import free_host_bytes
from caffe_batch.sizes import format_size
from caffe_batch.solver.checks import check_solver

#: Passes of an update: no power of two, so that a factor k can't hide in a float's exponent.
ITER_SIZE = 3
#: Batch sizes to try, the first that the net and the memory allow; the net's own comes last.
BATCH_SIZES = (4, 2, 6, 8, 3, 1)

#: What to try where Caffe fails, by reason.
_HINTS = {
    EndReason.HOST_MEMORY: "Try a smaller --batch-size, or close other programs.",
    EndReason.KILLED: "Usually the kernel's out-of-memory killer: see `dmesg`. Try a smaller "
    "--batch-size, or close other programs.",
    EndReason.PYTHON_ERROR: "A Python layer's module is found through PYTHONPATH or in the "
    "working directory.",
}

#: The runs of the whole batch whose gradients are disturbed, and by how much.
_CONTROLS = {"above": TOLERANCE, "below": -TOLERANCE}

#: What the audit says of a batch_size and an iter_size.
Audit = Callable[[int, int], Sequence[Finding]]


@dataclass(frozen=True)
class _Split:
    """The variants to compare, at one batch_size and iter_size."""

    findings: tuple[Finding, ...]
    whole: Variant
    compensated: Variant
    plain: Variant | None
    plain_refused: str = ""
    notes: tuple[str, ...] = ()

    @property
    def variants(self) -> dict[str, Variant]:
        """Those that Caffe is to run; the others are compared with the first."""
        every = {
            "whole": self.whole,
            "compensated": self.compensated,
            **dict.fromkeys(_CONTROLS, self.whole),
            "plain": self.plain,
        }
        return {name: variant for name, variant in every.items() if variant is not None}


def verify(
    model: MemoryModel,
    runtime: Runtime,
    audit: Audit,
    *,
    batch_size: int | None = None,
    iter_size: int = ITER_SIZE,
) -> Verification:
    """Runs a recipe with and without accumulation, and compares.

    Args:
        model: The recipe, with a solver.
        runtime: The Python with caffe to run on.
        audit: Says what accumulation does at a split, and what the plan changes for it.
        batch_size: Samples of a micro-batch; the first of ``BATCH_SIZES`` that the net and the
            memory of this machine allow, if None.
        iter_size: Micro-batches of an update.

    Raises:
        InputError: The files are no base for training, or Caffe would refuse the net.
        DoesNotFitError: Not even the smallest batch fits the memory of this machine.
        TrainingError: Caffe failed; the message has its reason and the last lines of its log.
    """
    check_solver(model.recipe.solver, model.recipe.solver_path)
    check_has_loss(model)
    split = _choose(model, audit, batch_size, iter_size)
    directory = working_directory(model.recipe, model.sources).resolve()
    uses = data_use(model, directory)
    engine = engines.find(model.engine)
    with TemporaryDirectory(prefix="caffe-batch-") as name:
        own = Path(name).resolve()
        folders = {each: own / each for each in split.variants}
        for each, folder in folders.items():
            folder.mkdir()
            write_variant(split.variants[each], uses, folder)
        request = VerificationRequest(
            variants=[
                VariantRun(folders[each], variant.iter_size, _CONTROLS.get(each, 0))
                for each, variant in split.variants.items()
            ],
            feeds=[feed.json() for feed in feeds(split.whole, split.compensated, uses)],
            updates=UPDATES,
            average_loss=max(model.recipe.solver.average_loss, 1),
            floor=FLOOR,
            result=own / "result.json",
        )
        found = _run_worker(runtime, engine, request, own, directory)
        refused = _refusal(engine, folders, split.variants, found["statuses"])
        refused = refused or split.plain_refused
    return Verification(
        batch_size=split.compensated.batch_size,
        iter_size=iter_size,
        updates=UPDATES,
        solver_type=model.recipe.solver.type,
        parameters=tuple(_parameters(found, split)),
        statistics=tuple(_statistics(found, split)),
        first_losses=_losses(found["first_losses"], found["loss_sizes"][0], split),
        losses=_losses(found["losses"], found["loss_sizes"][1], split),
        data=tuple(uses.values()),
        findings=split.findings,
        notes=split.notes,
        plain_refused=refused,
    )


def _choose(model: MemoryModel, audit: Audit, batch_size: int | None, iter_size: int) -> _Split:
    """The first split that can be built and fits the memory of this machine.

    Raises:
        ShapeError: None can be built; says why not the first.
        DoesNotFitError: None of those that can be built fits.
    """
    own = model.batch_size  # raises an error where there is none to set
    sizes = list(dict.fromkeys([*BATCH_SIZES, own])) if batch_size is None else [batch_size]
    free_bytes = free_host_bytes()
    notes: list[str] = []
    problems: list[ShapeError | DoesNotFitError] = []
    for size in sizes:
        try:
            return _split(model, audit, size, iter_size, free_bytes, tuple(notes))
        except (ShapeError, DoesNotFitError) as error:
            notes.append(f"batch_size {size} is not taken: {error.message}")
            problems.append(error)
    short = [problem for problem in problems if isinstance(problem, DoesNotFitError)]
    raise min(short, key=lambda problem: problem.missing_bytes) if short else problems[0]


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
            "the net's parameters depend on its batch size, so the training at another batch size "
            "is not that of the same net",
            hint="An InnerProduct with axis: 0, or a Parameter layer with the batch in its shape, "
            "does that.",
        )
    needed = whole.model.at().peak_bytes
    if free_bytes is not None and needed > free_bytes:
        raise DoesNotFitError(
            f"a batch of {size * iter_size} needs {format_size(needed)}, and this machine has "
            f"{format_size(free_bytes)} free",
            missing_bytes=needed - free_bytes,
            hint="Try a smaller --batch-size or --iter-size 2, or close other programs.",
        )
    plain, refused = None, ""
    if changes:
        try:
            plain = make_variant(model, size, iter_size, ())
            plain.model.train_net()
        except NetError as error:
            plain, refused = None, str(error.message)
    return _Split(findings, whole, compensated, plain, refused, notes)


def _changes(model: MemoryModel, findings: Sequence[Finding], size: int) -> list[Change]:
    """What the audit changes beyond what any variant of that batch size has to."""
    own = batch_changes(model.recipe, model.train_layers, size)
    every = [change for finding in findings for change in finding.changes]
    return [change for change in every if change not in own]


def _run_worker(
    runtime: Runtime, engine: Engine, request: VerificationRequest, folder: Path, directory: Path
) -> dict[str, Any]:
    """What the worker found.

    Raises:
        TrainingError: It ended without a result.
    """
    nets = [variant.folder / "net.prototxt" for variant in request.variants]
    end = run_worker(runtime, engine, engine.verification(request), folder, directory, nets=nets)
    if end.ending.reason is not EndReason.FINISHED:
        raise _failure(f"{engine.title} did not start", end)
    content: dict[str, Any] = json.loads(request.result.read_text(encoding="utf-8"))
    return content


def _refusal(
    engine: Engine,
    folders: Mapping[str, Path],
    variants: Mapping[str, Variant],
    statuses: Sequence[int],
) -> str:
    """Why Caffe didn't run the variant without changes; empty if it did.

    Raises:
        TrainingError: It didn't run one of the others.
    """
    for (name, folder), status in zip(folders.items(), statuses, strict=True):
        if not status:
            continue
        lines = _lines(folder / "caffe.log")
        ending = engine.classify(status, None, lines)
        if name == "plain":
            return ending.detail
        variant = variants[name]
        where = f"batch_size {variant.batch_size}, iter_size {variant.iter_size}"
        end = WorkerEnd(ending, tuple(engine.last_lines(lines)))
        raise _failure(f"{engine.title} stopped at {where}", end)
    return ""


def _failure(what: str, end: WorkerEnd) -> TrainingError:
    shown = "".join(f"\n  {line}" for line in end.log)
    ending = end.ending
    return TrainingError(
        f"{what}: {ending.reason.value}: {ending.detail}\nThe last lines of its log:{shown}",
        hint=_HINTS.get(ending.reason),
    )


def _lines(log: Path) -> list[str]:
    return log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []


def _losses(values: Sequence[Any], size: float, split: _Split) -> Losses:
    by_name = dict(zip(split.variants, values, strict=True))
    return Losses(
        by_name["whole"],
        by_name["compensated"],
        by_name.get("plain"),
        tuple(by_name[name] for name in _CONTROLS),
        size,
    )


def _parameters(found: Mapping[str, Any], split: _Split) -> Iterator[ParameterErrors]:
    frozen = {(p.layer, p.index) for p in split.whole.net.params if p.lr_mult == 0}
    gradients, weights = found["gradient"], found["weights"]
    small = vanishing(_shapes(gradients), [row["norm"] for row in gradients])
    columns = (weights, _errors(gradients, split), _errors(weights, split), small)
    for row, gradient, weight, vanishes in zip(*columns, strict=True):
        layer, index = row["name"]
        learned = gradient if (layer, index) not in frozen else None
        yield ParameterErrors(layer, index, tuple(row["shape"]), learned, weight, vanishes)


def _statistics(found: Mapping[str, Any], split: _Split) -> Iterator[ParameterErrors]:
    rows = found["statistics"]
    for row, errors in zip(rows, _errors(rows, split), strict=True):
        layer, index = row["name"]
        yield ParameterErrors(layer, index, tuple(row["shape"]), None, errors)


def _shapes(rows: Sequence[Mapping[str, Any]]) -> list[Shape]:
    return [tuple(row["shape"]) for row in rows]


def _errors(rows: Sequence[Mapping[str, Any]], split: _Split) -> list[Errors]:
    """The errors of each row of the worker's, in every variant that has them."""
    shapes, norms = _shapes(rows), [row["norm"] for row in rows]
    columns: dict[str, list[float]] = {}
    for place, name in enumerate(list(split.variants)[1:]):
        differences = [row["differences"][place] for row in rows]
        if None not in differences:
            columns[name] = relative_errors(shapes, norms, differences)

    def errors(number: int) -> Errors:
        own = {name: column[number] for name, column in columns.items()}
        controls = [own[name] for name in _CONTROLS if name in own]
        return Errors(own["compensated"], own.get("plain"), largest(controls))

    return [errors(number) for number in range(len(rows))]

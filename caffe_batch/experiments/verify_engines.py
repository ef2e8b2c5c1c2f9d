"""The proof on two engines: the same recipe, weights and samples on both, for a few updates.

One of the two engines can calculate in double precision: it also trains the reference and the
controls (engine_verification.py). The other one fills the weights, and all start from those. Random
draws are held equal or turned off, as in ``verify`` (held_draws.py): Dropout drops nothing, random
numbers are given. Where a data layer would draw after a random filler, and so at another place of
the engines' generators, its samples are made up.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from caffe_batch.engines.base import Engine
from caffe_batch.engines.work import VariantRun, VerificationRequest
from caffe_batch.errors import DoesNotFitError, InputError, Option, ShapeError
from caffe_batch.experiments import verify as splits
from caffe_batch.experiments.engine_verification import (
    ArrayErrors,
    EngineErrors,
    EngineLosses,
    EngineVerification,
)
from caffe_batch.experiments.held_draws import fillers_of, how_held, is_random
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
from caffe_batch.experiments.verification import FLOOR, largest, relative_errors, vanishing
from caffe_batch.experiments.worker import WorkerEnd, explained
from caffe_batch.jobs.job_files import working_directory
from caffe_batch.layers.base import Rule
from caffe_batch.memory import MemoryModel
from caffe_batch.net.convert import fillers, read_settings
from caffe_batch.planning.audit.findings import Finding
from caffe_batch.planning.planner import check_has_loss
from caffe_batch.planning.precision import Precision
from caffe_batch.runtimes.base import Runtime
from caffe_batch.runtimes.machine import free_host_bytes
from caffe_batch.schema import caffe_pb2
from caffe_batch.sizes import format_size
from caffe_batch.solver.checks import check_solver
from caffe_batch.training.checks import check_layer_types

#: The most passes of an update that are measured by default.
MOST_PASSES = 3

#: Seeds of the controls.
_SEEDS = (1, 2, 3)
#: The variants of the judge, by their place: the reference, its own, the controls, the other's.
_REFERENCE, _OWN, _CONTROLS, _OTHER = 0, 1, slice(2, 2 + len(_SEEDS)), 2 + len(_SEEDS)


@dataclass(frozen=True)
class Side:
    """An engine, and what it runs in."""

    engine: Engine
    runtime: Runtime


def verify_engines(
    model: MemoryModel,
    one: Side,
    other: Side,
    findings: Sequence[Finding] = (),
    *,
    batch_size: int | None = None,
    iter_size: int | None = None,
    precision: Precision = Precision.FLOAT32,
) -> EngineVerification:
    """Train a recipe on two engines, and compare.

    Args:
        model: The recipe, with a solver.
        one: What is verified.
        other: What it is verified against.
        findings: What the audit says about the engines.
        batch_size: Samples of a micro-batch; if None, the first of ``BATCH_SIZES`` that the net and
            the memory of this machine allow.
        iter_size: Micro-batches of an update; those of the solver if None, but not more than
            ``MOST_PASSES``.
        precision: How exactly the judge calculates when it isn't the reference.

    Raises:
        InputError: The files can't be trained, an engine lacks a layer type, or neither can judge.
        DoesNotFitError: Not even the smallest batch fits the memory of this machine.
        TrainingError: An engine failed; the message has its reason and the last lines of its log.
    """
    judge = next((side for side in (one, other) if side.engine.judges), None)
    if judge is None:
        raise InputError(
            f"neither {one.engine.title} nor {other.engine.title} can calculate in double precision"
        )
    check_solver(model.recipe.solver, model.recipe.solver_path, needs_length=False)
    check_has_loss(model)
    for side in (one, other):
        check_layer_types([model.recipe.train], side.engine, side.runtime, fed=True)
    own = model.recipe.solver.iter_size
    passes = iter_size or min(own, MOST_PASSES)
    variant, whole, notes = _choose(model, batch_size, passes)
    for side in (one, other):
        side.engine.check_net(variant.net)
    if iter_size is None and passes < own:
        notes = (*notes, f"The files' iter_size is {own}; {passes} passes are measured.")
    second = other if judge is one else one
    directory = working_directory(model.recipe, model.sources).resolve()
    uses = {
        index: _held_use(use, model, index) for index, use in data_use(model, directory).items()
    }
    given = [each.json() for each in (*feeds(whole, variant, uses), *draw_feeds(whole))]
    with TemporaryDirectory(prefix="caffe-batch-") as name:
        folder = Path(name).resolve()
        folders = [folder / f"{number}" for number in range(_OTHER + 1)]
        for each in folders:
            each.mkdir()
            write_variant(variant, uses, each)
        run = partial(VariantRun, iter_size=variant.iter_size, feeds=given)

        def request(variants: Sequence[VariantRun], result: str) -> VerificationRequest:
            return VerificationRequest(
                variants=variants,
                updates=UPDATES,
                average_loss=max(model.recipe.solver.average_loss, 1),
                floor=FLOOR,
                result=folder / result,
                precision=precision if judge is one else Precision.FLOAT32,
            )

        theirs = [run(folders[_OTHER])]
        _measure(second, request(theirs, "theirs.json"), model, folder, directory, variant)
        hand_over(folders[_OTHER], folders[_REFERENCE])
        variants = [
            run(folders[_REFERENCE], double=True),
            run(folders[_OWN]),
            *(
                run(each, double=True, rounding=seed)
                for each, seed in zip(folders[_CONTROLS], _SEEDS, strict=True)
            ),
            run(folders[_OTHER], ran=True),
            run(folders[_OTHER], ran=True, base=_OWN),
        ]
        found = _measure(judge, request(variants, "result.json"), model, folder, directory, variant)
    return EngineVerification(
        engines=(one.engine.name, other.engine.name),
        titles=(one.engine.title, other.engine.title),
        batch_size=variant.batch_size,
        iter_size=variant.iter_size,
        updates=UPDATES,
        solver_type=model.recipe.solver.type,
        precision=precision,
        parameters=tuple(_parameters(found, variant, swapped=judge is other)),
        statistics=tuple(_statistics(found, swapped=judge is other)),
        first_loss=_loss(found, "first_losses", 0, swapped=judge is other),
        loss=_loss(found, "losses", 1, swapped=judge is other),
        data=tuple(uses.values()),
        held=how_held([(layer, rule) for _, layer, rule in model.recipe.train.known()]),
        findings=tuple(findings),
        notes=notes,
    )


def hand_over(source: Path, target: Path) -> None:
    """Let the runs of a folder start from the weights of another's."""
    shutil.copyfile(source / "initial.npz", target / "initial.npz")


def _choose(
    model: MemoryModel, batch_size: int | None, iter_size: int
) -> tuple[Variant, Variant, tuple[str, ...]]:
    """The first split that can be built and fits the memory of this machine.

    Returns:
        The split, the whole batch whose samples it gets, and why other sizes weren't taken.
    """
    free_bytes = free_host_bytes()
    notes: list[str] = []
    problems: list[ShapeError | DoesNotFitError] = []
    sizes = [*splits.BATCH_SIZES, model.batch_size] if batch_size is None else [batch_size]
    for size in dict.fromkeys(sizes):
        try:
            variant = make_variant(model, size, iter_size, ())
            whole = make_variant(model, size * iter_size, 1, ())
            _check_fits(size, variant.model.at().peak_bytes, free_bytes)
            _ = whole.net
        except (ShapeError, DoesNotFitError) as error:
            notes.append(f"batch_size {size} isn't possible: {error.message}")
            problems.append(error)
        else:
            return variant, whole, tuple(notes)
    raise splits.nearest(problems)


def _check_fits(size: int, single_bytes: int, free_bytes: int | None) -> None:
    """Refuse a micro-batch whose run in double precision this machine has no memory for.

    Args:
        size: Its samples.
        single_bytes: What it needs in single precision.
        free_bytes: What is free; None if the system doesn't say.

    Raises:
        DoesNotFitError: There isn't twice as much.
    """
    needed = 2 * single_bytes
    if free_bytes is not None and needed > free_bytes:
        raise DoesNotFitError(
            f"a micro-batch of {size} needs {format_size(single_bytes)}, twice that "
            f"({format_size(needed)}) in the double precision of the reference, and this machine "
            f"has {format_size(free_bytes)} free",
            missing_bytes=needed - free_bytes,
            hint=[
                *(
                    ["Try a smaller ", Option("batch_size"), ", or close"]
                    if size > 1
                    else ["Close"]
                ),
                " other programs.",
            ],
        )


def _held_use(use: DataUse, model: MemoryModel, index: int) -> DataUse:
    """Replace samples that a layer draws after random fillers by made-up ones."""
    filled = False
    for place, layer, rule in model.recipe.train.known():
        if place == index:
            drawn = filled and not use.made and rule.draws(read_settings(layer, rule, {}), "TRAIN")
            why = "it draws after a filler whose numbers depend on the engine"
            return DataUse(use.layer, True, why) if drawn else use
        filled = filled or _fills_at_random(layer, rule)
    return use


def _fills_at_random(layer: caffe_pb2.LayerParameter, rule: Rule) -> bool:
    return any(map(is_random, (*fillers(layer), *fillers_of(layer, rule))))


def _measure(
    side: Side,
    request: VerificationRequest,
    model: MemoryModel,
    folder: Path,
    directory: Path,
    variant: Variant,
) -> dict[str, Any]:
    """Run a worker and read its result.

    Raises:
        TrainingError: A run failed.
    """
    engine = side.engine
    rules = model.recipe.train.rules
    found = splits.run_verification(side.runtime, engine, request, folder, directory, rules)
    for run, status in zip(request.variants, found["statuses"], strict=True):
        if status:
            lines = splits.log_lines(run.folder / "caffe.log")
            ending = engine.classify(status, None, lines)
            end = WorkerEnd(ending, tuple(engine.last_lines(lines)))
            where = f"batch_size {variant.batch_size}, iter_size {variant.iter_size}"
            raise splits.worker_failure(
                f"{engine.title} stopped at {where}", explained(end, model, directory)
            )
    return found


def _errors(rows: Sequence[Mapping[str, Any]], *, swapped: bool) -> list[EngineErrors]:
    """The errors of each row of what the judge found."""
    shapes = [tuple(row["shape"]) for row in rows]
    columns = [
        relative_errors(
            shapes,
            [row["norms"][place] for row in rows],
            [row["differences"][place] for row in rows],
        )
        for place in range(_OTHER + 2)
    ]
    return [
        EngineErrors(
            _in_order(own[_OWN], own[_OTHER], swapped=swapped),
            own[_OTHER + 1],
            largest(own[_CONTROLS]),
        )
        for own in zip(*columns, strict=True)
    ]


def _in_order(judge: float, other: float, *, swapped: bool) -> tuple[float, float]:
    return (other, judge) if swapped else (judge, other)


def _parameters(found: Mapping[str, Any], variant: Variant, *, swapped: bool) -> list[ArrayErrors]:
    frozen = {(p.layer, p.index) for p in variant.net.params if p.lr_mult == 0}
    gradients, weights = found["gradient"], found["weights"]
    small = vanishing(
        [tuple(row["shape"]) for row in gradients], [row["norms"][_REFERENCE] for row in gradients]
    )
    errors = [
        error.scaled(FLOOR) if vanishes else error
        for error, vanishes in zip(_errors(gradients, swapped=swapped), small, strict=True)
    ]
    rows = zip(
        weights,
        errors,
        _errors(weights, swapped=swapped),
        small,
        strict=True,
    )
    return [
        ArrayErrors(
            row["name"][0],
            row["name"][1],
            tuple(row["shape"]),
            None if tuple(row["name"]) in frozen else gradient,
            weight,
            vanishes,
        )
        for row, gradient, weight, vanishes in rows
    ]


def _statistics(found: Mapping[str, Any], *, swapped: bool) -> list[ArrayErrors]:
    rows = found["statistics"]
    return [
        ArrayErrors(row["name"][0], row["name"][1], tuple(row["shape"]), None, errors)
        for row, errors in zip(rows, _errors(rows, swapped=swapped), strict=True)
    ]


def _loss(found: Mapping[str, Any], which: str, place: int, *, swapped: bool) -> EngineLosses:
    values: list[float] = found[which]
    exact, own, other = values[_REFERENCE], values[_OWN], values[_OTHER]
    size = max(abs(exact), FLOOR * found["loss_sizes"][place])

    def error(value: float, base: float) -> float:
        return 0.0 if value == base else abs(value - base) / size if size else float("inf")

    controls = [error(value, exact) for value in values[_CONTROLS]]
    return EngineLosses(
        exact,
        _in_order(own, other, swapped=swapped),
        EngineErrors(
            _in_order(error(own, exact), error(other, exact), swapped=swapped),
            error(other, own),
            largest(controls),
        ),
    )

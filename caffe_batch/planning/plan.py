"""The plan: which batch_size and iter_size, what they cost, and what changes for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from caffe_batch.errors import DoesNotFitError, InputError, NetError
from caffe_batch.layers.base import Layer
from caffe_batch.memory.engine import Engine
from caffe_batch.memory.ledger import LayerBytes
from caffe_batch.memory.predict import Model
from caffe_batch.net.recipe import Recipe
from caffe_batch.planning.budget import Budget
from caffe_batch.planning.changes import (
    Change,
    batch_changes,
    iter_size_change,
    test_iter_changes,
)
from caffe_batch.planning.split import Candidate, choose, count_rounding, exact_candidates
from caffe_batch.sizes import format_size


@dataclass(frozen=True)
class Plan:
    """A split of the effective batch that fits, and everything that changes for it.

    Attributes:
        requested_effective_batch: Samples per update that were asked for.
        chosen: The split; its effective_batch is the plan's.
        gpus: GPUs that share each update.
        budget: The memory allowed on each GPU.
        mode: ``"gpu"`` or ``"cpu"``: whose memory the prediction counts.
        engine: The build of Caffe that the prediction is for.
        divides_batch: Whether a batch_size is for all GPUs together, as NVCaffe has it.
        rounding_bytes: What cudaMalloc adds to the predicted peak.
        uncertain_bytes: How much of the predicted peak may turn out not to be taken.
        candidates: Every exact split, largest batch_size first.
        changes: The fields that the plan sets in the user's files.
        train_records: Records of the train source, or None if unknown.
        lower_bound: Whether the prediction leaves unknown layers out.
    """

    requested_effective_batch: int
    chosen: Candidate
    gpus: int
    budget: Budget
    mode: str
    engine: Engine
    divides_batch: bool
    rounding_bytes: int
    uncertain_bytes: int
    candidates: tuple[Candidate, ...]
    changes: tuple[Change, ...]
    train_records: int | None
    lower_bound: bool

    @property
    def batch_size(self) -> int:
        """As the files have it: samples of one pass on each GPU, or on all if it is divided."""
        return self.chosen.batch_size

    @property
    def batch_size_per_gpu(self) -> int:
        """Samples of one forward/backward pass on one GPU."""
        return self.batch_size // self.gpus if self.divides_batch else self.batch_size

    @property
    def iter_size(self) -> int:
        """Passes accumulated into one update."""
        return self.chosen.iter_size

    @property
    def effective_batch(self) -> int:
        """Samples per update."""
        return self.chosen.effective_batch

    @property
    def predicted_peak_bytes(self) -> int:
        """What Caffe will ask for on each GPU."""
        return self.chosen.predicted_peak_bytes or 0

    def summary(self) -> str:
        """The plan in one line."""
        each = f" x {self.gpus} GPUs" if self.gpus > 1 and not self.divides_batch else ""
        together = f" (over {self.gpus} GPUs)" if self.gpus > 1 and self.divides_batch else ""
        return (
            f"effective batch {self.effective_batch} = batch_size {self.batch_size}{together} x "
            f"iter_size {self.iter_size}{each}, {self._bound}"
            f"{format_size(self.predicted_peak_bytes)} of "
            f"{format_size(self.budget.usable_bytes)} usable"
        )

    @property
    def _bound(self) -> str:
        if self.engine is Engine.NVCAFFE:
            return "about "
        if self.lower_bound:
            return "at least "
        return "at most " if self.uncertain_bytes else ""

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know about the figures, a sentence or two each."""
        notes = []
        larger = [each.predicted_peak_bytes or 0 for each in self.candidates if not each.fits]
        if any(0 < peak <= self.budget.usable_bytes for peak in larger):
            notes.append(
                f"cudaMalloc rounds Caffe's requests up by {format_size(self.rounding_bytes)} in "
                "all; without that a larger batch_size would fit."
            )
        if self.engine is Engine.CUDNN and self.uncertain_bytes:
            least = self.predicted_peak_bytes - self.uncertain_bytes
            notes.append(
                f"The peak is at least {format_size(least)}: cuDNN's workspaces depend on the "
                "algorithms it chooses, and are counted at Caffe's limit."
            )
        if self.engine is Engine.NVCAFFE:
            notes.append(
                "For NVCaffe the peak is an estimate. Its convolutions share one workspace, which "
                "isn't counted: it takes what is free, up to half of the GPU's memory."
            )
            meaning = (
                "is for all GPUs together" if self.divides_batch else "is for each GPU"
                " (it stands in literal shapes, which NVCaffe doesn't divide)"
            )  # fmt: skip
            notes.append(f"batch_size {meaning}.")
        return tuple(notes)

    def json(self) -> dict[str, Any]:
        """The JSON of ``caffe-batch plan`` and plan.json (keys as in the design)."""
        return {
            "effective_batch": self.effective_batch,
            "requested_effective_batch": self.requested_effective_batch,
            "batch_size": self.batch_size,
            "iter_size": self.iter_size,
            "gpus": self.gpus,
            "batch_size_per_gpu": self.batch_size_per_gpu,
            "mode": self.mode,
            "engine": self.engine.value,
            "budget_bytes": self.budget.budget_bytes,
            "reserve_bytes": self.budget.reserve_bytes,
            "predicted_peak_bytes": self.predicted_peak_bytes,
            "predicted_peak_lower_bytes": self.predicted_peak_bytes - self.uncertain_bytes,
            "rounding_bytes": self.rounding_bytes,
            "lower_bound": self.lower_bound,
            "notes": list(self.notes),
            "train_records": self.train_records,
            "candidates": [
                {
                    "batch_size": candidate.batch_size,
                    "iter_size": candidate.iter_size,
                    "effective_batch": candidate.effective_batch,
                    "predicted_peak_bytes": candidate.predicted_peak_bytes,
                    "fits": candidate.fits,
                    **({"refused": candidate.refused} if candidate.refused else {}),
                }
                for candidate in self.candidates
            ],
            "audit": None,  # of what accumulation changes: not made yet
            "changes": [change.json() for change in self.changes],
        }


def make_plan(
    model: Model,
    budget: Budget,
    *,
    effective_batch: int | None = None,
    train_records: int | None = None,
) -> Plan:
    """The largest batch_size that fits and divides the effective batch exactly over the GPUs.

    Args:
        model: The memory model of the recipe.
        budget: The memory allowed on each GPU.
        effective_batch: Samples per update; the files' own batch_size x iter_size x GPUs if None
            (for NVCaffe without the GPUs).
        train_records: Records of the train source, where known.

    Raises:
        DoesNotFitError: Not even batch_size 1 fits.
        InputError: The effective batch can't be shared by the GPUs, or the net has no loss.
    """
    recipe, layers, gpus = model.recipe, model.train_layers, model.gpus
    own_size, own_iter = model.batch_size, recipe.solver.iter_size
    own_batch = own_size * own_iter * (1 if model.divides_batch else gpus)
    wanted = own_batch if effective_batch is None else effective_batch
    if effective_batch is None and own_iter < 1:
        raise InputError(
            f"the solver has iter_size {own_iter}, and an update takes at least one pass",
            hint="Correct it, or give --effective-batch N: the plan sets iter_size.",
        )
    candidates = exact_candidates(
        wanted, gpus, budget.usable_bytes, model.peaks, divided=model.divides_batch
    )
    built = [candidate for candidate in candidates if candidate.predicted_peak_bytes is not None]
    smallest = (built or candidates)[-1].batch_size
    if not built:
        model.at(smallest)  # raises what Caffe refuses at every size
    check_has_loss(model)
    candidates, prediction = count_rounding(candidates, budget.usable_bytes, model.at)
    chosen = choose(candidates)
    if chosen is None or prediction is None:
        raise does_not_fit(model, budget, smallest)
    return Plan(
        requested_effective_batch=wanted,
        chosen=chosen,
        gpus=gpus,
        budget=budget,
        mode=model.mode,
        engine=model.engine,
        divides_batch=model.divides_batch,
        rounding_bytes=prediction.rounding_bytes,
        uncertain_bytes=prediction.uncertain_bytes,
        candidates=tuple(candidates),
        changes=plan_changes(recipe, layers, own_size, chosen),
        train_records=train_records,
        lower_bound=bool(prediction.unknown_layers),
    )


def plan_changes(
    recipe: Recipe, layers: Sequence[Layer], own_size: int, chosen: Candidate
) -> tuple[Change, ...]:
    """Everything that a split changes in the files of the recipe."""
    return (
        *batch_changes(recipe, layers, chosen.batch_size),
        *iter_size_change(recipe.solver, chosen.iter_size),
        *test_iter_changes(recipe, own_size, chosen.batch_size),
    )


def check_has_loss(model: Model) -> None:
    """Raises a NetError if nothing in the train net is a loss: there is nothing to train."""
    if not model.has_loss:
        raise NetError(
            "the TRAIN net has no loss, so there is nothing to train",
            hint="Add a loss layer such as SoftmaxWithLoss, or a loss_weight; is this a deploy "
            "file? Training needs the train_val one.",
        )


def does_not_fit(model: Model, budget: Budget, size: int) -> DoesNotFitError:
    """The error for a budget that not even the smallest batch fits, with the costliest layers."""
    prediction = model.at(size)
    missing = prediction.allocated_bytes - budget.usable_bytes
    costly = sorted(prediction.layers, key=lambda layer: layer.bytes, reverse=True)[:5]
    test = ", a smaller TEST batch_size" if model.recipe.tests else ""
    lines = "".join(f"\n  {_cost(layer, prediction.peak_bytes)}" for layer in costly)
    return DoesNotFitError(
        f"batch_size {size} needs {format_size(prediction.allocated_bytes)}, "
        f"{format_size(missing)} ({missing:,} bytes) more than the "
        f"{format_size(budget.usable_bytes)} that the budget of "
        f"{format_size(budget.budget_bytes)} leaves for Caffe. "
        f"The layers that cost most:{lines}",
        missing_bytes=missing,
        hint=f"Try more memory, smaller input images{test}, or see all layers with "
        "`caffe-batch memory`.",
    )


def _cost(layer: LayerBytes, total: int) -> str:
    where = "" if layer.net == "train" else f", {layer.net} net"
    share = layer.bytes / total if total else 0.0
    return f"{layer.name} ({layer.type}{where}): {format_size(layer.bytes)}, {share:.0%}"

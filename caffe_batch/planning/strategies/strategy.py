"""What every way to train is derived from, and what is known about a way.

The formulas are those of :mod:`caffe_batch.planning.strategies.strategies`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any

from caffe_batch.memory.base import MemoryModel
from caffe_batch.planning.budget import Budget
from caffe_batch.planning.edits.changes import Change, applied
from caffe_batch.planning.options import PlanOptions
from caffe_batch.planning.plan import Plan
from caffe_batch.planning.planner import make_plan
from caffe_batch.planning.split.candidates import SplitOptions
from caffe_batch.solver.numbers import as_float32
from caffe_batch.solver.updates import AVERAGING


@dataclass(frozen=True)
class Strategy:
    """One way to train.

    Attributes:
        name: For options and directories.
        title: What it is, in a sentence.
        plan: Its plan; None if it isn't possible.
        learning_rate: base_lr.
        momentum: As in the solver.
        updates_per_epoch: Updates to see every record once, with the first stage's batch; None if
            the number of records is unknown.
        updates: The updates of the whole run (max_iter); 0 without a plan.
        noise: The noise scale relative to the recipe's; None if the formula doesn't hold.
        warnings: What to know before choosing it, a sentence or two each.
        why_not: Why it isn't possible; empty if it is.
    """

    name: str
    title: str
    plan: Plan | None
    learning_rate: float
    momentum: float
    updates_per_epoch: float | None
    updates: int
    noise: float | None
    warnings: tuple[str, ...] = ()
    why_not: str = ""

    def json(self) -> dict[str, Any]:
        """For other programs; what needs a plan is None without one."""
        plan = self.plan
        return {
            "name": self.name,
            "title": self.title,
            "possible": plan is not None,
            "why_not": self.why_not or None,
            "effective_batch": plan and plan.effective_batch,
            "batch_size": plan and plan.batch_size,
            "iter_size": plan and plan.iter_size,
            "learning_rate": self.learning_rate,
            "momentum": self.momentum,
            "updates_per_epoch": self.updates_per_epoch,
            "updates": self.updates or None,
            "mode": plan and plan.mode,
            "predicted_peak_bytes": plan and plan.predicted_peak_bytes,
            "noise_relative": self.noise,
            "verdict": plan and plan.verdict(),
            "warnings": list(self.warnings),
            "changes": [change.json() for change in plan.changes] if plan else [],
        }


@dataclass(frozen=True)
class Setting:
    """What the ways start from.

    Attributes:
        model: The memory model of the recipe.
        budget: The memory allowed.
        options: The plan asked for: effective batch, schedule, records.
        host_bytes: Memory of this machine that Caffe's CPU mode could use, None if unknown.
        accumulated: The plan that keeps the recipe's batch by accumulation.
    """

    model: MemoryModel
    budget: Budget
    options: PlanOptions
    host_bytes: int | None
    accumulated: Plan

    @property
    def batch(self) -> int:
        """N: samples per update of the recipe."""
        return self.accumulated.effective_batch

    @property
    def passes(self) -> int:
        """k: how many small batches make up one of the recipe's."""
        return self.accumulated.iter_size

    @property
    def learning_rate(self) -> float:
        """eps: the recipe's base_lr."""
        return as_float32(self.model.recipe.solver.base_lr)

    @property
    def momentum(self) -> float:
        """m: the recipe's momentum."""
        return as_float32(self.model.recipe.solver.momentum)

    @property
    def averages(self) -> bool:
        """Whether the update rule is one that the formulas hold for."""
        return self.model.recipe.solver.type in AVERAGING

    @cached_property
    def options_of_batch(self) -> PlanOptions:
        """The options with the recipe's batch and schedule made explicit."""
        schedule = replace(self.options.schedule, recipe_batch=self.accumulated.recipe_batch)
        return replace(self.options, effective_batch=self.batch, schedule=schedule)

    @cached_property
    def full_batch_bytes(self) -> int | None:
        """What the whole batch takes in one pass; None if Caffe refuses it."""
        largest = self.accumulated.candidates[0]
        return largest.predicted_peak_bytes if largest.iter_size == 1 else None

    def noise(self, learning_rate: float, momentum: float, batch: int) -> float | None:
        """The noise scale of an update rule relative to the recipe's."""
        if not self.averages:
            return None
        own = self.learning_rate / (self.batch * (1 - self.momentum))
        return float(f"{learning_rate / (batch * (1 - momentum)) / own:.6g}")

    def small_plan(self, changes: tuple[Change, ...] = (), remarks: tuple[str, ...] = ()) -> Plan:
        """The plan that updates after each small batch, with these changes of the solver."""
        options, batch = self.options_of_batch, self.accumulated.batch_size
        schedule = options.schedule
        if schedule.epochs is not None and options.train_records:
            # As many samples as the accumulated plan sees, including its rounding.
            samples = updates_of(self.model, self.accumulated) * self.batch
            schedule = replace(schedule, epochs=Fraction(samples, options.train_records))
        options = replace(
            options,
            effective_batch=batch,
            split=SplitOptions(batch_size=batch, iter_size=1),
            schedule=schedule,
            summed_iter=self.passes,  # in a sum, a sample weighs as much as in the recipe's batch
        )
        model = self.model.with_recipe(applied(self.model.recipe, changes))
        plan = make_plan(model, self.budget, options)
        return replace(plan, changes=(*changes, *plan.changes), remarks=remarks)

    def strategy(
        self,
        name: str,
        title: str,
        plan: Plan,
        *,
        learning_rate: float | None = None,
        momentum: float | None = None,
        warnings: tuple[str, ...] = (),
    ) -> Strategy:
        """A way, with what follows from its plan; if None, rate and momentum are the recipe's."""
        rate = self.learning_rate if learning_rate is None else learning_rate
        kept = self.momentum if momentum is None else momentum
        batch, records = plan.effective_batch, plan.train_records
        return Strategy(
            name=name,
            title=title,
            plan=plan,
            learning_rate=rate,
            momentum=kept,
            updates_per_epoch=records / batch if records else None,
            updates=updates_of(self.model, plan),
            noise=1.0 if batch == self.batch else self.noise(rate, kept, batch),
            warnings=warnings,
        )


def updates_of(model: MemoryModel, plan: Plan) -> int:
    """The updates of a plan: max_iter, that of the last stage."""
    changes = plan.stages[-1].changes if plan.stages else plan.changes
    return applied(model.recipe, changes).solver.max_iter

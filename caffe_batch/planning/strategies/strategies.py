"""The ways to train if only a small batch fits into memory, derived from one recipe.

The recipe makes an update of N samples with the rate eps and the momentum m. The memory holds
b = N/k samples in one pass. What updating after each small batch does to the training follows from
what SGD with momentum averages (sgd_solver.cpp: h = m h + eps g, w -= h).

**The window of the average.** h is eps times the sum of m^j g_j over the past, so each step
follows the average of the gradients with the weights (1-m) m^j, times eps/(1-m). The weights reach
back over about 1/(1-m) updates, that is, B/(1-m) samples for updates of B samples.

**The step per sample.** In the long run an update moves the weights by eps/(1-m) gradients,
so each sample moves them by eps / (B (1-m)).

**The noise scale** of Smith and Le (ICLR 2018, arXiv:1710.06451) is the step per sample times the
number R of records in the training set: g = eps R / (B (1-m)), for B well below R. Equal noise
scales give roughly equal random fluctuations of the weights.

With B = N/k instead of N:

==================  ===========  ============  ===============  ==========
way                 rate         momentum      window, samples  noise
==================  ===========  ============  ===============  ==========
as it is            eps          m             1/k              k times
rate / sqrt(k)      eps/sqrt(k)  m             1/k              sqrt(k)
rate / k (linear)   eps/k        m             1/k              the same
momentum alone      eps          1 - (1-m)/k   the same         k^2 times
rate and momentum   eps/k^2      1 - (1-m)/k   the same         the same
==================  ===========  ============  ===============  ==========

The window stays the same if B/(1-m) does: (1-m') = (1-m)/k. Then eps' / (B (1-m')) is the recipe's
if eps' = eps/k^2: a higher momentum averages as many samples as the recipe does, but only with the
rate divided by k^2 do the steps stay as long. At the recipe's own rate the noise grows by k from
the smaller batch and by k again from the higher momentum.

All this is for SGD and Nesterov. Adam, RMSProp, AdaGrad and AdaDelta divide each gradient by its
own size, so the noise scale above doesn't hold for them; their rates are usually scaled by sqrt(B)
(Malladi et al. 2022, arXiv:2205.10287).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any

from caffe_batch.errors import CaffeBatchError, InputError
from caffe_batch.memory.base import MemoryModel
from caffe_batch.planning.budget import NO_LIMIT, Budget
from caffe_batch.planning.edits.changes import Change
from caffe_batch.planning.options import PlanOptions
from caffe_batch.planning.planner import make_plan
from caffe_batch.planning.schedule.growth import Schedule
from caffe_batch.planning.split.candidates import SplitOptions
from caffe_batch.planning.strategies.input_size import largest_input
from caffe_batch.planning.strategies.strategy import Setting, Strategy
from caffe_batch.solver.numbers import as_float32
from caffe_batch.solver.updates import ADAPTIVE

#: At this momentum and above, its drawbacks are worth a warning: Smith et al. (ICLR 2018, table 2)
#: lost a percent of accuracy at 0.98, with the noise scale kept.
HIGH_MOMENTUM = 0.98


@dataclass(frozen=True)
class Strategies:
    """All ways, and what they start from.

    Attributes:
        setting: What they start from.
        ways: In the order in which they are worth considering.
    """

    setting: Setting
    ways: tuple[Strategy, ...]

    def json(self) -> dict[str, Any]:
        """For other programs."""
        setting, budget = self.setting, self.setting.budget
        full = setting.full_batch_bytes
        return {
            "recipe": {
                "effective_batch": setting.batch,
                "learning_rate": setting.learning_rate,
                "momentum": setting.momentum,
                "solver_type": setting.model.recipe.solver.type,
                "train_records": setting.accumulated.train_records,
                "predicted_peak_bytes": full,
                "budget_bytes": budget.budget_bytes,
                "reserve_bytes": budget.reserve_bytes,
                "fits": setting.passes == 1,
            },
            "strategies": [way.json() for way in self.ways],
        }


def find_strategies(
    model: MemoryModel, budget: Budget, options: PlanOptions, host_bytes: int | None = None
) -> Strategies:
    """Every way to train the recipe within a budget.

    Args:
        model: The memory model of the recipe, on one GPU or in CPU mode.
        budget: The memory allowed.
        options: Effective batch, schedule and records; each way has its own split and scaling of
            the rate.
        host_bytes: Memory of this machine that Caffe's CPU mode could use, None if unknown.

    Raises:
        DoesNotFitError: Not even one sample fits.
        InputError: No plan is possible at all.
    """
    setting = Setting(model, budget, options, host_bytes, make_plan(model, budget, options))
    return Strategies(setting, tuple(_try(setting, *way) for way in WAYS.items()))


def _try(setting: Setting, name: str, way: tuple[str, Way]) -> Strategy:
    """A way, or why it isn't possible."""
    title, derive = way
    try:
        return derive(setting, name, title)
    except CaffeBatchError as error:
        return Strategy(
            name=name,
            title=title,
            plan=None,
            learning_rate=setting.learning_rate,
            momentum=setting.momentum,
            updates_per_epoch=None,
            updates=0,
            noise=None,
            why_not=str(error.message),
        )


def _accumulate(setting: Setting, name: str, title: str) -> Strategy:
    return setting.strategy(name, title, setting.accumulated)


def _small(setting: Setting, name: str, title: str) -> Strategy:
    _check_small(setting)
    k = setting.passes
    warnings = (f"For reference: {k} times as many updates, each as long as the recipe's.",)
    return setting.strategy(name, title, setting.small_plan(remarks=(title,)), warnings=warnings)


def _linear(setting: Setting, name: str, title: str) -> Strategy:
    return _other_rate(setting, name, title, setting.passes, f"1/{setting.passes} of the rate")


def _sqrt(setting: Setting, name: str, title: str) -> Strategy:
    factor = sqrt(setting.passes)
    return _other_rate(setting, name, title, factor, f"1/sqrt({setting.passes}) of the rate")


def _other_rate(setting: Setting, name: str, title: str, divisor: float, reason: str) -> Strategy:
    _check_small(setting)
    rate = as_float32(setting.learning_rate / divisor)
    changes = (_rate_change(setting, rate, f"{reason} for 1/{setting.passes} of the batch"),)
    plan = setting.small_plan(changes, (title,))
    return setting.strategy(name, title, plan, learning_rate=rate)


def _momentum(setting: Setting, name: str, title: str) -> Strategy:
    _check_small(setting)
    _check_averages(setting)
    k = setting.passes
    rate, momentum = as_float32(setting.learning_rate / k**2), raised_momentum(setting.momentum, k)
    reason = f"1/{k}^2 of the rate: a sample moves the weights as far as in the recipe"
    changes = (_rate_change(setting, rate, reason), _momentum_change(setting, momentum))
    return setting.strategy(
        name, title, setting.small_plan(changes, (title,)),
        learning_rate=rate, momentum=momentum, warnings=_momentum_warnings(momentum),
    )  # fmt: skip


def _momentum_alone(setting: Setting, name: str, title: str) -> Strategy:
    _check_small(setting)
    _check_averages(setting)
    k, momentum = setting.passes, raised_momentum(setting.momentum, setting.passes)
    plan = setting.small_plan((_momentum_change(setting, momentum),), (title,))
    warnings = (
        f"Not a remedy: at the recipe's rate a higher momentum makes each step {k} times as long, "
        f"and the noise {k}^2 times as large as the recipe's.",
        *_momentum_warnings(momentum),
    )
    return setting.strategy(name, title, plan, momentum=momentum, warnings=warnings)


def _smaller_input(setting: Setting, name: str, title: str) -> Strategy:
    if setting.passes == 1:
        raise InputError("the whole batch fits as it is")
    found = largest_input(setting.model, setting.budget, setting.options_of_batch)
    (height, width), (own_height, own_width) = found.size, found.own
    warning = f"Images of {height} x {width} instead of {own_height} x {own_width}: another task."
    return setting.strategy(name, title, found.plan, warnings=(warning, *found.notes))


def _grow(setting: Setting, name: str, title: str) -> Strategy:
    plan = make_plan(
        setting.model, setting.budget, replace(setting.options_of_batch, growth=Schedule.GROW)
    )
    last = plan.stages[-1].stage
    said = f"Up to {last.effective_batch} samples an update; the noise falls as in the recipe."
    return setting.strategy(name, title, plan, warnings=(said,))


def _cpu(setting: Setting, name: str, title: str) -> Strategy:
    if setting.model.mode == "cpu":
        raise InputError("the plan already uses the host's memory")
    model = setting.model.on_the_host()
    budget = NO_LIMIT if setting.host_bytes is None else Budget(setting.host_bytes, 0)
    options = replace(setting.options_of_batch, split=SplitOptions(iter_size=1))
    plan = make_plan(model, budget, options)
    said = ["Many times slower than a GPU; time is what it costs."]
    if setting.host_bytes is None:
        said.append("How much memory this machine has isn't known.")
    return setting.strategy(name, title, plan, warnings=tuple(said))


Way = Callable[[Setting, str, str], Strategy]

#: Every way by name: what it is, and how it is derived.
WAYS: dict[str, tuple[str, Way]] = {
    "accumulate": (
        "Accumulate the gradients of small batches: the recipe's own update",
        _accumulate,
    ),
    "small": ("An update after each small batch, nothing else changed", _small),
    "small-linear": ("Small batch, rate scaled in proportion", _linear),
    "small-sqrt": ("Small batch, rate scaled by the square root", _sqrt),
    "small-momentum": ("Small batch, momentum raised and rate lowered to match", _momentum),
    "momentum-alone": ("Small batch, momentum raised at the recipe's rate", _momentum_alone),
    "smaller-input": ("Smaller input images, the whole batch in one pass", _smaller_input),
    "grow": ("The batch grows where the recipe drops the rate", _grow),
    "cpu": ("The whole batch in one pass in CPU memory", _cpu),
}


def raised_momentum(momentum: float, passes: int) -> float:
    """The momentum that averages over as many samples, in batches ``passes`` times smaller.

    >>> raised_momentum(0.9, 8)
    0.9875
    """
    return as_float32(1 - (1 - momentum) / passes)


def _check_small(setting: Setting) -> None:
    if setting.passes == 1:
        raise InputError("the whole batch fits in one pass")


def _check_averages(setting: Setting) -> None:
    solver = setting.model.recipe.solver
    if setting.averages:
        return
    if solver.type == "Adam":
        raise InputError("Adam's momentum is beta1, the average of gradients that it then rescales")
    if solver.type in ADAPTIVE:
        raise InputError(f"{solver.type} takes no momentum")
    raise InputError(f"what momentum does in a solver of type {solver.type!r} isn't known")


def _rate_change(setting: Setting, rate: float, reason: str) -> Change:
    return Change("solver", ("base_lr",), setting.learning_rate, rate, reason)


def _momentum_change(setting: Setting, momentum: float) -> Change:
    solver = setting.model.recipe.solver
    before = setting.momentum if solver.HasField("momentum") else None
    reason = f"(1 - momentum) / {setting.passes}: the average covers as many samples as before"
    return Change("solver", ("momentum",), before, momentum, reason)


def _momentum_warnings(momentum: float) -> tuple[str, ...]:
    if momentum < HIGH_MOMENTUM:
        return ()
    reach = round(1 / (1 - momentum))
    return (
        f"Momentum {momentum:g} averages {reach} updates. The first {reach} steps are too short, "
        "since the average starts at zero and Caffe doesn't correct for that, and a bad step is "
        "felt for as long.",
    )

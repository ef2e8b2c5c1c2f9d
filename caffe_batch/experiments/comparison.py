"""How far two trainings are apart, parameter by parameter, and whether the audit's word holds.

Two runs of the same training differ by rounding, since their sums have another order. In the
gradient and the loss of the first update that is far below ``TOLERANCE``, and to that they are
held. What comes after some updates is another matter: a high rate, or a rule that divides each
element of a gradient by its own size (AdaGrad, RMSProp, AdaDelta, Adam), can make a large
difference of a small one. How large, a control shows: the whole batch twice more, with each
update's gradient put off by ``TOLERANCE`` on purpose (verify_worker.py, Run.disturb), the second
time the other way, as a neuron at the edge of its activation is pushed over it by one of the two.
Gradients that agree as far as is demanded of them make no more of the weights than that. Where the
control errs by at most ``MARGIN`` times ``TOLERANCE``, nothing is amplified, and weights, averages
and smoothed loss are held to ``TOLERANCE`` too; else to ``MARGIN`` times the control's error.

Random draws are held equal in all of these runs (held_draws.py), so that what differs is what
accumulation does. What the draws do is measured by itself and shown beside it.

Where the training itself ends in numbers that are none, only its first update is judged.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from caffe_batch.experiments.variants import DataUse
from caffe_batch.layers.base import Shape, count
from caffe_batch.planning.audit.findings import SAME, Cause, Finding, Scope, Verdict

#: The largest relative L2 error between trainings that are the same. Caffe's numbers have 24 bits
#: (6e-8), and the order of a sum of a few thousand of them makes some 1e-7 to 1e-6.
TOLERANCE = 1e-5

#: How much larger than the control's an error may be: two controls don't show the worst of all.
MARGIN = 2

#: An array counts as no smaller than with this share of the net's RMS (:func:`relative_errors`).
FLOOR = 0.1


@dataclass(frozen=True, slots=True)
class Errors:
    """Relative L2 errors against the training with the whole batch.

    Attributes:
        compensated: Of (b, k) with the changes that the audit makes.
        plain: Of (b, k) without them; None if there are none, or if Caffe refuses it.
        control: Of the whole batch again with disturbed gradients; 0 for what is there before the
            first update.
    """

    compensated: float
    plain: float | None = None
    control: float = 0.0


@dataclass(frozen=True, slots=True)
class ParameterErrors:
    """One array of numbers compared.

    Attributes:
        layer: Name of its layer.
        index: Which of the layer's parameters; of BatchNorm's averages 0 is the mean and 1 the
            variance.
        shape: Its shape.
        gradient: Of the first update, clipped, before momentum, decay and rate; None where there
            is none.
        weights: Of its values after the updates.
        vanishing: Whether its gradient is so small that it may all be rounding (below
            ``TOLERANCE`` of the net's RMS). What an adaptive rule makes of it is then chance.
    """

    layer: str
    index: int
    shape: Shape
    gradient: Errors | None
    weights: Errors
    vanishing: bool = False


@dataclass(frozen=True, slots=True)
class Losses:
    """A loss with the whole batch, in the variants of :class:`Errors`, and in the controls.

    Attributes:
        size: The sum of the absolute values of its terms with the whole batch. Terms that cancel
            each other out leave a small loss with their rounding, so a loss counts as no smaller
            than a share of it.
    """

    whole: float
    compensated: float
    plain: float | None = None
    controls: tuple[float, ...] = ()
    size: float = 0.0

    @property
    def errors(self) -> Errors:
        """The relative errors of the losses."""

        def error(loss: float) -> float:
            return _ratio(abs(loss - self.whole), max(abs(self.whole), FLOOR * self.size))

        return Errors(
            error(self.compensated),
            None if self.plain is None else error(self.plain),
            largest([error(loss) for loss in self.controls]),
        )


@dataclass(frozen=True, slots=True)
class Difference:
    """How far two trainings are apart: the worst relative errors.

    Attributes:
        gradient: Of the first update.
        weights: After the updates.
        loss: Of the first update.
    """

    gradient: float
    weights: float
    loss: float


@dataclass(frozen=True, slots=True)
class Draws:
    """What random draws do by themselves, beside a run of the whole batch that draws.

    Attributes:
        again: The whole batch again, with another random_seed.
        apart: The micro-batches, with the same one.
    """

    again: Difference
    apart: Difference


@dataclass(frozen=True)
class Verification:
    """(b, k) against (b*k, 1), measured on real Caffe.

    Attributes:
        batch_size, iter_size: b and k.
        updates: How many updates the weights and the loss are compared after.
        solver_type: Caffe's name of the update rule.
        parameters: What is learned.
        statistics: The averages of BatchNorm layers, as a TEST net would use them.
        first_losses: The loss of the first update, before it.
        losses: The smoothed loss after the updates.
        data: Where the samples came from, a layer each.
        findings: What the audit says of this split.
        notes: What the user should know about the choice of the split.
        plain_refused: Why there is no training without the changes; empty if there is, or if
            there are no changes.
        held: How random draws are the same in all runs, a phrase each; empty where nothing is
            drawn.
        draws: What they do by themselves; None where nothing is drawn, or Caffe can't on a CPU.
        own: What was measured at the files' own split, where that was asked for as well.
    """

    batch_size: int
    iter_size: int
    updates: int
    solver_type: str
    parameters: tuple[ParameterErrors, ...]
    statistics: tuple[ParameterErrors, ...]
    first_losses: Losses
    losses: Losses
    data: tuple[DataUse, ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()
    plain_refused: str = ""
    held: tuple[str, ...] = ()
    draws: Draws | None = None
    own: Verification | None = None

    @property
    def gradient(self) -> Errors:
        """The worst errors of any gradient."""
        return _worst([row.gradient for row in self.parameters if row.gradient is not None])

    @property
    def weights(self) -> Errors:
        """The worst errors of any weights, without those whose gradient vanishes."""
        return _worst([row.weights for row in self.parameters if not row.vanishing])

    @property
    def averages(self) -> Errors:
        """The worst errors of any average of a BatchNorm layer."""
        return _worst([row.weights for row in self.statistics])

    @property
    def loss_is_comparable(self) -> bool:
        """Whether no layer's loss is counted in a way of its own in Caffe's sum of losses."""
        return not any(f.scope is Scope.LOG and f.layer is not None for f in self.findings)

    @property
    def _after(self) -> list[Errors]:
        """What is compared after the updates."""
        losses = [self.losses.errors] if self.loss_is_comparable else []
        return [self.weights, self.averages, *losses]

    @property
    def diverges(self) -> bool:
        """Whether the whole batch itself, or its control, ends in numbers that are none."""
        return not all(math.isfinite(each.control) for each in self._after)

    @property
    def tolerance(self) -> float:
        """The largest error of weights, averages and smoothed loss that counts as agreement."""
        control = max(each.control for each in self._after)
        return TOLERANCE if control <= MARGIN * TOLERANCE else MARGIN * control

    @property
    def agrees(self) -> bool:
        """Whether all errors are within the tolerances; an error that is no number is not."""
        first = [self.first_losses.errors] if self.loss_is_comparable else []
        return all(each.compensated <= TOLERANCE for each in (self.gradient, *first)) and (
            self.diverges or all(each.compensated <= self.tolerance for each in self._after)
        )

    def json(self) -> dict[str, Any]:
        """The JSON of ``caffe-batch verify``; numbers that are none are null."""
        verdict = judge(self)
        return {
            "batch_size": self.batch_size,
            "iter_size": self.iter_size,
            "effective_batch": self.batch_size * self.iter_size,
            "updates": self.updates,
            "solver_type": self.solver_type,
            "tolerance": {"gradient": TOLERANCE, "weights": _finite(self.tolerance)},
            "diverges": self.diverges,
            "promised": verdict.promised,
            "held": verdict.held,
            "verdict": verdict.sentence,
            "gradient": _json(self.gradient),
            "weights": _json(self.weights),
            "batch_norm_averages": _json(self.averages) if self.statistics else None,
            "first_loss": _losses_json(self.first_losses),
            "loss": _losses_json(self.losses),
            "parameters": [_row_json(row) for row in self.parameters],
            "statistics": [_row_json(row) for row in self.statistics],
            "data": [use.json() for use in self.data],
            "audit": [finding.json() for finding in self.findings],
            "notes": list(self.notes),
            "plain_refused": self.plain_refused or None,
            "draws": self._draws_json(),
            "own_split": None if self.own is None else self.own.json(),
        }

    def _draws_json(self) -> dict[str, Any] | None:
        if not self.held:
            return None
        ways = {} if self.draws is None else asdict(self.draws)
        sizes = {
            name: {what: _finite(error) for what, error in difference.items()}
            for name, difference in ways.items()
        }
        return {"held": list(self.held), "again": sizes.get("again"), "apart": sizes.get("apart")}


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a measurement says of the audit.

    Attributes:
        promised: Whether the audit says that it is the same training: every finding that touches
            the training is exact or compensated, but for random draws, which are held equal.
        held: Whether what it promised came true; True where it promised nothing.
        sentence: That in words, with the numbers.
    """

    promised: bool
    held: bool
    sentence: str


def judge(found: Verification) -> Judgement:
    """Whether the audit's promise holds: what it calls the same agrees within the tolerances."""
    b, k = found.batch_size, found.iter_size
    pair = f"batch_size {b} x iter_size {k} and batch_size {b * k}"
    sizes = (
        f"relative errors: gradient {found.gradient.compensated:.1e}, first loss "
        f"{found.first_losses.errors.compensated:.1e}, "
    )
    if found.diverges:
        sizes += f"no weights to compare: within {found.updates} updates the training diverges"
    else:
        sizes += (
            f"weights after {found.updates} updates {found.weights.compensated:.1e}, "
            f"loss {found.losses.errors.compensated:.1e}"
        )
    others = expected_differences(found.findings, held=bool(found.held))
    given = ", given the same draws" if found.held else ""
    if not others and found.agrees:
        return Judgement(True, True, f"The same training{given}: {pair} agree ({sizes})")
    if not others:
        return Judgement(
            True,
            False,
            f"NOT the same training{given}, though the audit says so: {pair} differ ({sizes})",
        )
    causes = ", ".join(dict.fromkeys(f"{f.cause.value} ({f.verdict.value})" for f in others))
    if found.agrees:
        text = f"No difference here between {pair} ({sizes}); the audit expects one: {causes}"
    else:
        text = f"Another training, as the audit says: {causes}; {pair} differ ({sizes})"
    return Judgement(False, True, text)


def expected_differences(findings: Iterable[Finding], *, held: bool) -> list[Finding]:
    """What the audit expects to make another training.

    Args:
        findings: The audit's.
        held: Whether random draws are held equal, so that they make none.
    """
    return [
        finding for finding in findings
        if finding.scope is Scope.TRAINING
        and finding.verdict not in SAME
        and not (held and _is_draw(finding))
    ]  # fmt: skip


def _is_draw(finding: Finding) -> bool:
    """Whether it is about draws alone."""
    drawn = (Cause.RANDOM_DRAWS, Cause.WINDOW_DATA)
    return finding.verdict is Verdict.APPROXIMATE and finding.cause in drawn


def relative_errors(
    shapes: Sequence[Shape], norms: Sequence[float], differences: Sequence[float]
) -> list[float]:
    """|x - ref| / |ref| of each array, where |ref| counts at least as a small share of the net's.

    Some gradients are zero in theory: the bias before a BatchNorm, weights that no sample of the
    batch reaches. Caffe computes rounding noise for them, of which any two runs have different
    ones, so |x - ref| / |ref| would be about 1. That noise is as large as that of every other
    gradient, some 3e-7 of the RMS of all elements of the net. Hence an array counts as no smaller
    than one of its size with ``FLOOR`` of that RMS. What this can hide is a difference below
    ``FLOOR * TOLERANCE`` (1e-6) of the RMS: a few last bits of a float.

    Args:
        shapes: Of the arrays.
        norms: |ref|, one an array.
        differences: |x - ref|, one an array.

    Returns:
        One error an array; 0 where both are equal, nan where one holds numbers that are none.
    """
    floor = FLOOR * _rms(shapes, norms)
    return [
        _ratio(difference, max(norm, floor * math.sqrt(count(shape))))
        for shape, norm, difference in zip(shapes, norms, differences, strict=True)
    ]


def vanishing(shapes: Sequence[Shape], norms: Sequence[float]) -> list[bool]:
    """Which arrays are below ``TOLERANCE`` of the net's RMS, so that they may be all rounding."""
    rms = _rms(shapes, norms)
    return [
        norm < TOLERANCE * rms * math.sqrt(count(shape))
        for shape, norm in zip(shapes, norms, strict=True)
    ]


def _rms(shapes: Sequence[Shape], norms: Sequence[float]) -> float:
    """Root mean square over all elements of all arrays."""
    elements = sum(map(count, shapes))
    return math.sqrt(sum(norm * norm for norm in norms) / elements) if elements else 0.0


def _ratio(difference: float, norm: float) -> float:
    if difference == 0:
        return 0.0
    return difference / norm if norm else math.inf


def _worst(errors: Sequence[Errors]) -> Errors:
    plain = [error.plain for error in errors if error.plain is not None]
    return Errors(
        largest([error.compensated for error in errors]),
        largest(plain) if plain else None,
        largest([error.control for error in errors]),
    )


def largest(values: Sequence[float]) -> float:
    """The largest one, or nan if there is one; 0 of none."""
    return math.nan if any(map(math.isnan, values)) else max(values, default=0.0)


def _row_json(row: ParameterErrors) -> dict[str, Any]:
    return {
        "layer": row.layer,
        "index": row.index,
        "shape": list(row.shape),
        "gradient": None if row.gradient is None else _json(row.gradient),
        "weights": _json(row.weights),
        "vanishing": row.vanishing,
    }


def _losses_json(losses: Losses) -> dict[str, Any]:
    return {
        "whole": _finite(losses.whole),
        "compensated": _finite(losses.compensated),
        "plain": _finite(losses.plain),
        "errors": _json(losses.errors),
    }


def _json(errors: Errors) -> dict[str, float | None]:
    return {name: _finite(value) for name, value in asdict(errors).items()}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None

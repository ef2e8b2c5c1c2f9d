"""How much two trainings differ, parameter by parameter, and whether the audit is right.

Two runs of the same training differ by rounding, because they add in a different order. In the
gradient and the loss of the first update that difference is far below ``TOLERANCE``, so these must
agree to within ``TOLERANCE``. Later updates are another matter: a high learning rate, or a rule
that divides each element of a gradient by its own size (AdaGrad, RMSProp, AdaDelta, Adam), can
turn a small difference into a large one. A control measures how large: the whole batch is trained
twice more with each update's gradient perturbed by ``TOLERANCE`` (inside/verify.py), up in one run
and down in the other, since only one direction pushes a neuron at the edge of its activation over
it. Gradients that agree to within ``TOLERANCE`` change the weights by no more than that. Where the
control's error is at most ``MARGIN`` times ``TOLERANCE``, nothing is amplified, and weights,
averages and smoothed loss must agree to within ``TOLERANCE`` too; otherwise to within ``MARGIN``
times the control's error.

Random draws are held equal in all of these runs (held_draws.py), so that only the effect of
accumulation remains. The effect of the draws is measured and shown separately.

Long sums round by more: a loss may differ by what adding up its terms one by one can do, and a
gradient by what its BLAS's sums can (rounding.py).

Where the training itself ends in inf or nan, only its first update is judged.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from caffe_batch.experiments.rounding import in_parts, one_by_one
from caffe_batch.experiments.variants import DataUse
from caffe_batch.layers.base import Shape, count
from caffe_batch.planning.audit.findings import SAME, Cause, Finding, Scope, Verdict

#: The largest relative L2 error between trainings that are the same. Caffe's numbers have 24 bits
#: (6e-8); adding a few thousand of them in another order changes the sum by 1e-7 to 1e-6.
TOLERANCE = 1e-5

#: How much larger than the control's an error may be: two controls don't show the worst case.
MARGIN = 2

#: The norm of an array counts as at least this share of the net's RMS (:func:`relative_errors`).
FLOOR = 0.1


@dataclass(frozen=True, slots=True)
class Errors:
    """Relative L2 errors against the training with the whole batch.

    Attributes:
        compensated: The error of (b, k) with the changes that the audit makes.
        plain: The error of (b, k) without them; None if there are none, or if Caffe refuses it.
        control: The error of the whole batch with perturbed gradients; 0 for what is measured
            before the first update.
    """

    compensated: float
    plain: float | None = None
    control: float = 0.0


@dataclass(frozen=True, slots=True)
class ParameterErrors:
    """The errors of one array of numbers.

    Attributes:
        layer: Name of its layer.
        index: Which of the layer's parameters; for BatchNorm's averages 0 is the mean and 1 the
            variance.
        shape: Its shape.
        gradient: The errors of the gradient of the first update, clipped, before momentum, decay
            and rate; None where there is no gradient.
        weights: The errors of its values after the updates.
        vanishing: Whether its gradient is so small that it may be nothing but rounding (below
            ``TOLERANCE`` of the net's RMS). What an adaptive rule makes of it is then chance.
        terms: How many numbers the whole batch adds up for an element of its gradient.
    """

    layer: str
    index: int
    shape: Shape
    gradient: Errors | None
    weights: Errors
    vanishing: bool = False
    terms: int = 0

    @property
    def tolerance(self) -> float:
        """The largest error of the first gradient that counts as agreement."""
        return max(TOLERANCE, in_parts(self.terms))


@dataclass(frozen=True, slots=True)
class Losses:
    """A loss with the whole batch, in the variants of :class:`Errors`, and in the controls.

    Attributes:
        whole: With the whole batch.
        compensated, plain: As in :class:`Errors`.
        controls: In each control.
        size: The sum of the absolute values of its terms with the whole batch. Where terms cancel
            out, the loss is small but has the rounding of the terms, so it counts as at least the
            share ``FLOOR`` of this sum.
        terms: How many numbers one layer adds up for it, in the whole batch and in a micro-batch
            together.
    """

    whole: float
    compensated: float
    plain: float | None = None
    controls: tuple[float, ...] = ()
    size: float = 0.0
    terms: int = 0

    @property
    def rounding(self) -> float:
        """The relative error that the rounding of both sums can make at most."""
        return _ratio(one_by_one(self.terms) * max(abs(self.whole), self.size), self._counts_as)

    @property
    def _counts_as(self) -> float:
        """What errors are relative to."""
        return max(abs(self.whole), FLOOR * self.size)

    @property
    def errors(self) -> Errors:
        """The relative errors of the losses."""

        def error(loss: float) -> float:
            return _ratio(abs(loss - self.whole), self._counts_as)

        return Errors(
            error(self.compensated),
            None if self.plain is None else error(self.plain),
            largest([error(loss) for loss in self.controls]),
        )


@dataclass(frozen=True, slots=True)
class Difference:
    """How much two trainings differ: the worst relative errors.

    Attributes:
        gradient: Of the gradients of the first update.
        weights: Of the weights after the updates.
        loss: Of the loss of the first update.
    """

    gradient: float
    weights: float
    loss: float


@dataclass(frozen=True, slots=True)
class Draws:
    """The effect of random draws alone, relative to a run of the whole batch that draws.

    Attributes:
        again: The whole batch again, with another random_seed.
        apart: The micro-batches, with the same random_seed.
    """

    again: Difference
    apart: Difference


@dataclass(frozen=True)
class Verification:
    """(b, k) against (b*k, 1), measured on real Caffe.

    Attributes:
        batch_size, iter_size: b and k.
        updates: The number of updates after which weights and loss are compared.
        solver_type: Caffe's name of the update rule.
        parameters: The errors of the learned parameters.
        statistics: The errors of the averages of BatchNorm layers, as a TEST net would use them.
        first_losses: The loss of the first update, before the weights change.
        losses: The smoothed loss after the updates.
        data: Where the samples came from, one entry for each layer.
        findings: What the audit says about this split.
        notes: What the user should know about the choice of the split.
        plain_refused: Why there is no training without the changes; empty if there is one, or if
            there are no changes.
        held: How random draws are held equal in all runs, one phrase each; empty where nothing is
            drawn.
        draws: The effect of the draws alone; None where nothing is drawn, or where Caffe can't
            draw on a CPU.
        own: The verification at the files' own split, where that was measured as well.
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
        """The worst errors of any weights, except those whose gradient vanishes."""
        return _worst([row.weights for row in self.parameters if not row.vanishing])

    @property
    def averages(self) -> Errors:
        """The worst errors of any average of a BatchNorm layer."""
        return _worst([row.weights for row in self.statistics])

    @property
    def loss_is_comparable(self) -> bool:
        """Whether Caffe's sum of losses counts the loss of every layer in the same way."""
        return not any(f.scope is Scope.LOG and f.layer is not None for f in self.findings)

    @property
    def _after(self) -> list[Errors]:
        """The errors of what is compared after the updates."""
        losses = [self.losses.errors] if self.loss_is_comparable else []
        return [self.weights, self.averages, *losses]

    @property
    def diverges(self) -> bool:
        """Whether the whole batch itself, or its control, ends in inf or nan."""
        return not all(math.isfinite(each.control) for each in self._after)

    @property
    def tolerance(self) -> float:
        """The largest error of weights, averages and smoothed loss that counts as agreement."""
        control = max(each.control for each in self._after)
        return TOLERANCE if control <= MARGIN * TOLERANCE else MARGIN * control

    @property
    def agrees(self) -> bool:
        """Whether all errors are within the tolerances; nan never is."""
        first = [(row.gradient, row.tolerance) for row in self.parameters if row.gradient]
        after = [(row.weights, self.tolerance) for row in self.statistics]
        for row in self.parameters:
            if not row.vanishing:
                after.append((row.weights, max(self.tolerance, row.tolerance)))
        if self.loss_is_comparable:
            first.append((self.first_losses.errors, self.loss_tolerance(self.first_losses)))
            after.append((self.losses.errors, self.loss_tolerance(self.losses)))
        pairs = first if self.diverges else [*first, *after]
        return all(errors.compensated <= limit for errors, limit in pairs)

    def loss_tolerance(self, losses: Losses) -> float:
        """The largest error of the first loss, or of the smoothed one, that counts as agreement."""
        least = TOLERANCE if losses is self.first_losses else self.tolerance
        return max(least, losses.rounding)

    def json(self) -> dict[str, Any]:
        """The JSON of ``caffe-batch verify``; inf and nan are null."""
        verdict = judge(self)
        return {
            "batch_size": self.batch_size,
            "iter_size": self.iter_size,
            "effective_batch": self.batch_size * self.iter_size,
            "updates": self.updates,
            "solver_type": self.solver_type,
            "tolerance": {
                "gradient": TOLERANCE,
                "weights": _finite(self.tolerance),
                "first_loss": _finite(self.loss_tolerance(self.first_losses)),
                "loss": _finite(self.loss_tolerance(self.losses)),
            },
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
    """What a measurement says about the audit.

    Attributes:
        promised: Whether the audit calls it the same training: every finding that affects the
            training is exact or compensated, apart from random draws, which are held equal.
        held: Whether the promise was kept; True where nothing was promised.
        sentence: The judgement in words, with the numbers.
    """

    promised: bool
    held: bool
    sentence: str


def judge(found: Verification) -> Judgement:
    """Judge the audit: what it calls the same training must agree within the tolerances."""
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
            f"NOT the same training{given}, though the audit says it is: {pair} differ ({sizes})",
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
    """Whether a finding is about random draws alone."""
    drawn = (Cause.RANDOM_DRAWS, Cause.WINDOW_DATA)
    return finding.verdict is Verdict.APPROXIMATE and finding.cause in drawn


def relative_errors(
    shapes: Sequence[Shape], norms: Sequence[float], differences: Sequence[float]
) -> list[float]:
    """|x - ref| / |ref| of each array, where |ref| is at least a small share of the net's.

    Some gradients are zero in theory: those of a bias before a BatchNorm, or of weights that no
    sample of the batch reaches. For them Caffe computes rounding noise, which differs between any
    two runs, so that |x - ref| / |ref| would be about 1. The noise is as large as that of all other
    gradients, about 3e-7 of the RMS of all elements of the net. Hence the norm of an array counts
    as at least that of an array of its size with ``FLOOR`` times this RMS. This can hide only
    differences below ``FLOOR * TOLERANCE`` (1e-6) of the RMS: the last few bits of a float.

    Args:
        shapes: The shapes of the arrays.
        norms: |ref| of each array.
        differences: |x - ref| of each array.

    Returns:
        One error for each array; 0 where both are equal, nan where one contains nan.
    """
    floor = FLOOR * _rms(shapes, norms)
    return [
        _ratio(difference, max(norm, floor * math.sqrt(count(shape))))
        for shape, norm, difference in zip(shapes, norms, differences, strict=True)
    ]


def vanishing(shapes: Sequence[Shape], norms: Sequence[float]) -> list[bool]:
    """Which arrays are below ``TOLERANCE`` of the net's RMS, so may be nothing but rounding."""
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
    """The largest value, or nan if there is any; 0 if there are no values."""
    return math.nan if any(map(math.isnan, values)) else max(values, default=0.0)


def _row_json(row: ParameterErrors) -> dict[str, Any]:
    return {
        "layer": row.layer,
        "index": row.index,
        "shape": list(row.shape),
        "gradient": None if row.gradient is None else _json(row.gradient),
        "weights": _json(row.weights),
        "vanishing": row.vanishing,
        "tolerance": row.tolerance,
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

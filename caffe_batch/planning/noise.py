"""The gradient noise scale, and what it says about an effective batch.

The simple noise scale of a net at its present weights is ``tr(Sigma) / |G|^2``: the variance of
one sample's gradient, summed over the parameters, over the squared norm of the mean gradient. Its
unit is samples. It is estimated from the micro-batches of gradient accumulation.

Source: McCandlish, Kaplan, Amodei, OpenAI Dota Team, "An Empirical Model of Large-Batch Training",
2018, arXiv:1812.06162: section 2 for what it says about the batch, appendix A.1 for the estimates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean
from typing import Any

from caffe_batch.errors import InputError

#: Probability that the interval of an estimate holds the true value.
CONFIDENCE = 0.95

#: Fewer groups than this say too little about their own spread.
MIN_GROUPS = 5

#: Above this many times the noise scale, a bigger batch gains next to nothing.
FAR_ABOVE = 10


@dataclass(frozen=True, slots=True)
class Observation:
    """The gradients of one group of micro-batches, all at the same weights.

    Attributes:
        batch_size: Samples of a micro-batch, b.
        passes: Micro-batches of the group, k; at least 2.
        micro_norm_squared: Mean over the micro-batches of ``|g_i|^2``.
        mean_norm_squared: ``|(g_1 + ... + g_k) / k|^2``.
    """

    batch_size: int
    passes: int
    micro_norm_squared: float
    mean_norm_squared: float

    @property
    def gradient_norm_squared(self) -> float:
        """An unbiased estimate of ``|G|^2``; chance can make it negative.

        The expected ``|g|^2`` of a mean over n samples is ``|G|^2 + tr(Sigma) / n``; there are two
        of them here, at n = b and n = b k.
        """
        k = self.passes
        return (k * self.mean_norm_squared - self.micro_norm_squared) / (k - 1)

    @property
    def trace(self) -> float:
        """An unbiased estimate of ``tr(Sigma)``."""
        scale = self.batch_size * self.passes / (self.passes - 1)
        return scale * (self.micro_norm_squared - self.mean_norm_squared)


@dataclass(frozen=True, slots=True)
class NoiseScale:
    """An estimate of the noise scale, in samples.

    Attributes:
        observations: How many groups it is made from.
        gradient_norm_squared: ``|G|^2``, the mean over the observations; may be negative.
        trace: ``tr(Sigma)``, the mean over the observations.
        value: Their ratio, or None if ``|G|^2`` is not significantly above zero: then only a
            lower bound is known.
        standard_error: That of the value, or None without one.
        low, high: The 95 % confidence interval; ``high`` is None if there is no upper bound.
    """

    observations: int
    gradient_norm_squared: float
    trace: float
    value: float | None
    standard_error: float | None
    low: float
    high: float | None

    def __str__(self) -> str:
        """For display: ``21.4 samples (95%: 19.8 to 23.3)``."""
        if self.value is None or self.high is None:
            return f"at least {_number(self.low)} samples"
        return (
            f"{_number(self.value)} samples ({CONFIDENCE:.0%}: {_number(self.low)} to "
            f"{_number(self.high)})"
        )

    def json(self) -> dict[str, Any]:
        """The estimate for other programs."""
        return {
            "noise_scale": self.value,
            "standard_error": self.standard_error,
            "low": self.low,
            "high": self.high,
            "gradient_norm_squared": self.gradient_norm_squared,
            "trace": self.trace,
        }


def estimate_noise_scale(observations: Sequence[Observation]) -> NoiseScale:
    """The noise scale from several groups of micro-batches.

    ``|G|^2`` and ``tr(Sigma)`` are averaged over the groups separately, since a mean of ratios
    would be biased. The interval is that of Fieller's theorem for a ratio of two means (Fieller,
    "Some Problems in Interval Estimation", 1954) with Student's t, the standard error that of the
    delta method; both take the groups as independent. If ``|G|^2`` is not significantly above zero
    the interval has no upper end; its lower end is then the trace over the largest ``|G|^2``
    consistent with the observations.

    >>> group = Observation(batch_size=8, passes=4, micro_norm_squared=2.0, mean_norm_squared=1.25)
    >>> str(estimate_noise_scale([group] * 5))
    '8 samples (95%: 8 to 8)'

    Raises:
        InputError: There are fewer than MIN_GROUPS groups, a group has one micro-batch, or the
            gradients aren't finite, or are all zero.
    """
    _check(observations)
    gradients = [each.gradient_norm_squared for each in observations]
    traces = [each.trace for each in observations]
    gradient, trace = fmean(gradients), fmean(traces)
    var_gradient = _covariance_of_means(gradients, gradients)
    var_trace = _covariance_of_means(traces, traces)
    covariance = _covariance_of_means(traces, gradients)
    t = _student_t(len(observations) - 1)
    reach = t * math.sqrt(var_gradient)
    value = error = high = None
    if gradient <= reach:
        low = trace / (max(gradient, 0.0) + reach)
    else:
        value = trace / gradient
        spread = var_trace - 2 * value * covariance + value**2 * var_gradient
        error = math.sqrt(max(spread, 0.0)) / gradient
        # Where (trace - r * gradient)^2 is t^2 times its variance: a r^2 - 2 b r + c = 0.
        a = gradient**2 - t**2 * var_gradient
        b = gradient * trace - t**2 * covariance
        c = trace**2 - t**2 * var_trace
        root = math.sqrt(max(b**2 - a * c, 0.0))
        low, high = max((b - root) / a, 0.0), (b + root) / a
    return NoiseScale(len(observations), gradient, trace, value, error, low, high)


@dataclass(frozen=True, slots=True)
class Advice:
    """What a noise scale says about an effective batch.

    By the paper's model (section 2), with the best learning rate for each batch, training with N
    samples per update takes ``1 + B/N`` times the fewest possible updates and ``1 + N/B`` times
    the fewest possible samples, B being the noise scale.

    Attributes:
        effective_batch: N, samples per update.
        noise_scale: B, in samples; a lower bound if ``is_bound``.
        is_bound: Whether the noise scale may be arbitrarily large.
    """

    effective_batch: int
    noise_scale: float
    is_bound: bool = False

    def updates(self, batch: float | None = None) -> float:
        """Updates to reach the same loss, divided by the fewest possible."""
        return 1 + self.noise_scale / (batch or self.effective_batch)

    def samples(self, batch: float | None = None) -> float | None:
        """Samples to reach the same loss, divided by the fewest possible; None without noise."""
        n = batch or self.effective_batch
        return 1 + n / self.noise_scale if self.noise_scale else None

    def change(self, factor: float) -> tuple[float, float]:
        """Updates and samples with ``factor`` times the effective batch, relative to now."""
        updates = self.updates(factor * self.effective_batch) / self.updates()
        return updates, factor * updates

    @property
    def text(self) -> str:
        """Two sentences of advice."""
        n, noise = self.effective_batch, self.noise_scale
        updates, samples = self.change(2)
        fewer = f"{1 - updates:.0%} fewer updates"
        if self.is_bound:
            start = (
                "The mean gradient can't be distinguished from zero: the noise scale may be "
                "arbitrarily large."
            )
            if n >= noise:
                return f"{start} Whether the effective batch of {n:,} is below it is not known."
            return (
                f"{start} The effective batch of {n:,} is below it: {2 * n:,} would take at least "
                f"{fewer} to reach the same loss."
            )
        where = "below the noise scale"
        if n >= noise:
            where = "above the noise scale"
        if n >= FAR_ABOVE * noise:
            where = "far above the noise scale, where a bigger one gains next to nothing"
        doubled = f"{fewer} and {samples - 1:.0%} more samples"
        updates, samples = self.change(0.5)
        halved = f"{updates - 1:.0%} more updates and {1 - samples:.0%} fewer samples"
        return (
            f"The effective batch of {n:,} is {where}: {2 * n:,} would take {doubled} to reach the "
            f"same loss. Half of it would take {halved}."
        )

    def json(self) -> dict[str, Any]:
        """The advice for other programs; updates and samples relative to the present batch."""
        doubled, halved = (
            dict(zip(("updates", "samples"), self.change(factor), strict=True))
            for factor in (2, 0.5)
        )
        return {
            "effective_batch": self.effective_batch,
            "updates_over_fewest": self.updates(),
            "samples_over_fewest": self.samples(),
            "doubled": doubled,
            "halved": halved,
            "is_bound": self.is_bound,
            "text": self.text,
        }


def advise(noise: NoiseScale, effective_batch: int) -> Advice:
    """What the estimate says about training with ``effective_batch`` samples per update."""
    if noise.value is None:
        return Advice(effective_batch, noise.low, is_bound=True)
    return Advice(effective_batch, noise.value)


def _check(observations: Sequence[Observation]) -> None:
    if len(observations) < MIN_GROUPS:
        raise InputError(
            f"a noise scale with an interval takes {MIN_GROUPS} groups of micro-batches, not "
            f"{len(observations)}",
            hint="Measure more of them.",
        )
    if min(each.passes for each in observations) < 2:
        raise InputError(
            "groups of one micro-batch can't tell the gradient from its noise",
            hint="Measure at least two micro-batches per group.",
        )
    norms = [each.micro_norm_squared for each in observations]
    if not all(map(math.isfinite, norms)):
        raise InputError(
            "the gradients are not finite, so they have no noise scale",
            hint="The training has diverged, or the data or the weights contain nan or inf.",
        )
    if not any(norms):
        raise InputError(
            "the gradient of every parameter is zero, so there is no noise scale",
            hint="Is anything trained? A loss_weight or every lr_mult may be 0.",
        )


def _covariance_of_means(xs: Sequence[float], ys: Sequence[float]) -> float:
    """The covariance of the means of two samples drawn in pairs."""
    x, y, n = fmean(xs), fmean(ys), len(xs)
    return math.fsum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) / (n - 1) / n


def _student_t(freedom: int) -> float:
    """The two-sided quantile of Student's t for CONFIDENCE.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.5; within 0.3 % from 4
    degrees of freedom on.
    """
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return math.fsum(term / freedom**power for power, term in enumerate(terms))


def _number(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{float(f'{value:.3g}'):,.0f}" if value >= 100 else f"{value:.3g}"

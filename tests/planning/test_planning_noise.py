"""The noise scale: estimates without bias, intervals that hold, and the advice."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.random import Generator

from caffe_batch.errors import InputError
from caffe_batch.planning.noise import (
    Advice,
    NoiseScale,
    Observation,
    advise,
    estimate_noise_scale,
)

#: Of the synthetic gradients: 7 parameters of different variance.
MEAN = np.array([0.5, -0.25, 0.0, 1.0, 0.125, 0.0, -0.5])
VARIANCES = np.array([1.0, 3.0, 0.5, 2.0, 7.0, 0.25, 5.0])
SQUARED = float(MEAN @ MEAN)
TRACE = float(VARIANCES.sum())


def draw(
    random: Generator,
    batch_size: int,
    passes: int,
    mean: np.ndarray[tuple[int], np.dtype[np.float64]] = MEAN,
) -> Observation:
    """A group of micro-batches of Gaussian gradients."""
    noise = random.standard_normal((passes, len(mean))) * np.sqrt(VARIANCES / batch_size)
    gradients = mean + noise
    middle = gradients.mean(axis=0)
    return Observation(
        batch_size, passes, float((gradients**2).sum(axis=1).mean()), float(middle @ middle)
    )


def test_two_gradients_by_hand() -> None:
    # g = (3, 0) and (1, 2): mean (2, 1); |g|^2 = 9 and 5; g1 . g2 = 3; variance 2 + 2.
    seen = Observation(batch_size=6, passes=2, micro_norm_squared=7.0, mean_norm_squared=5.0)
    assert seen.gradient_norm_squared == pytest.approx(3.0)
    assert seen.trace == pytest.approx(6 * 4.0)


@pytest.mark.parametrize(("batch_size", "passes"), [(1, 2), (3, 2), (5, 7), (32, 4)])
def test_both_estimates_are_without_bias(batch_size: int, passes: int) -> None:
    random = np.random.default_rng(batch_size)
    seen = [draw(random, batch_size, passes) for _ in range(20_000)]
    for values, truth in (
        ([each.gradient_norm_squared for each in seen], SQUARED),
        ([each.trace for each in seen], TRACE),
    ):
        error = np.std(values) / math.sqrt(len(values))
        assert abs(np.mean(values) - truth) < 4 * error
        assert 4 * error < 0.2 * truth


def test_groups_of_different_sizes_may_be_mixed() -> None:
    random = np.random.default_rng(2)
    sizes = [(2, 16), (8, 4), (32, 8)]
    noise = estimate_noise_scale([draw(random, *sizes[i % 3]) for i in range(6000)])
    assert noise.value == pytest.approx(TRACE / SQUARED, rel=0.05)


@pytest.mark.parametrize("groups", [5, 10, 50])
def test_the_interval_holds_the_truth_as_often_as_it_says(groups: int) -> None:
    random = np.random.default_rng(groups)
    trials = 1000
    hits = 0
    for _ in range(trials):
        noise = estimate_noise_scale([draw(random, 16, 10) for _ in range(groups)])
        hits += noise.low <= TRACE / SQUARED and (
            noise.high is None or noise.high >= TRACE / SQUARED
        )
    assert 0.93 <= hits / trials <= 0.98


def test_the_standard_error_is_the_spread_of_the_estimate() -> None:
    random = np.random.default_rng(3)
    estimates = [estimate_noise_scale([draw(random, 64, 8) for _ in range(40)]) for _ in range(400)]
    spread = np.std([each.value for each in estimates if each.value is not None])
    told = np.mean([each.standard_error for each in estimates if each.standard_error is not None])
    assert told == pytest.approx(spread, rel=0.15)


def test_without_a_mean_gradient_there_is_only_a_lower_bound() -> None:
    random = np.random.default_rng(4)
    nowhere = np.zeros_like(MEAN)
    estimates = [
        estimate_noise_scale([draw(random, 4, 5, nowhere) for _ in range(20)]) for _ in range(200)
    ]
    bounds = [each for each in estimates if each.value is None]
    assert len(bounds) >= 190  # 97.5 % of them, on average
    assert any(each.gradient_norm_squared < 0 for each in bounds)
    for each in bounds:
        assert each.high is each.standard_error is None
        assert 0 < each.low < math.inf
        assert str(each).startswith("at least ")


def test_micro_batches_that_are_all_alike() -> None:
    noise = estimate_noise_scale([Observation(8, 2, 4.0, 4.0)] * 5)
    assert (noise.value, noise.standard_error, noise.low, noise.high) == (0.0, 0.0, 0.0, 0.0)
    advice = advise(noise, 8)
    assert advice.samples() is None
    assert advice.change(2) == (1.0, 2.0)
    assert "far above" in advice.text


def test_numbers_for_people_and_programs() -> None:
    noise = NoiseScale(10, 0.5, 617.25, 1234.5, 0.25, 98.76, 4567.8)
    assert str(noise) == "1,230 samples (95%: 98.8 to 4,570)"
    assert noise.json() == {
        "noise_scale": 1234.5,
        "standard_error": 0.25,
        "low": 98.76,
        "high": 4567.8,
        "gradient_norm_squared": 0.5,
        "trace": 617.25,
    }


@pytest.mark.parametrize(
    ("observations", "message"),
    [
        ([Observation(8, 2, 2.0, 1.5)] * 4, "takes 5 groups of micro-batches, not 4"),
        ([], "not 0"),
        ([Observation(8, 1, 2.0, 2.0)] * 5, "groups of one micro-batch"),
        ([Observation(8, 2, 0.0, 0.0)] * 5, "the gradient of every parameter is zero"),
        (
            [Observation(8, 2, 2.0, 1.5)] * 4 + [Observation(8, 2, math.nan, math.nan)],
            "the gradients are not finite",
        ),
        ([Observation(8, 2, math.inf, math.inf)] * 5, "the gradients are not finite"),
    ],
)
def test_what_gives_no_estimate(observations: list[Observation], message: str) -> None:
    with pytest.raises(InputError, match=message):
        estimate_noise_scale(observations)


# The advice


def test_at_the_noise_scale_both_are_twice_the_least() -> None:
    advice = Advice(300, 300.0)
    assert advice.updates() == advice.samples() == 2.0
    assert advice.change(2) == pytest.approx((0.75, 1.5))
    assert advice.change(0.5) == pytest.approx((1.5, 0.75))
    assert advice.change(1) == (1.0, 1.0)


@pytest.mark.parametrize("batch", [1, 7, 512, 100_000])
def test_the_trade_of_updates_against_samples(batch: int) -> None:
    """Equation 2.11 of the paper: (S / S_min - 1) (E / E_min - 1) = 1."""
    advice = Advice(batch, 640.0)
    assert (advice.updates() - 1) * ((advice.samples() or 0) - 1) == pytest.approx(1.0)
    updates, samples = advice.change(3)
    other = Advice(3 * batch, 640.0)
    assert updates == pytest.approx(other.updates() / advice.updates())
    assert samples == pytest.approx((other.samples() or 0) / (advice.samples() or 0))


@pytest.mark.parametrize(
    ("batch", "text"),
    [
        (
            100,
            "The effective batch of 100 is below the noise scale: 200 would take 45% fewer updates "
            "and 9% more samples to reach the same loss. Half of it would take 91% more updates "
            "and 5% fewer samples.",
        ),
        (
            2000,
            "The effective batch of 2,000 is above the noise scale: 4,000 would take 17% fewer "
            "updates and 67% more samples to reach the same loss. Half of it would take 33% more "
            "updates and 33% fewer samples.",
        ),
        (
            20_000,
            "The effective batch of 20,000 is far above the noise scale, where a bigger one gains "
            "next to nothing: 40,000 would take 2% fewer updates and 95% more samples to reach the "
            "same loss. Half of it would take 5% more updates and 48% fewer samples.",
        ),
    ],
)
def test_advice_in_words(batch: int, text: str) -> None:
    assert Advice(batch, 1000.0).text == text


def test_advice_from_a_lower_bound() -> None:
    bound = NoiseScale(10, -0.01, 5.0, None, None, 1000.0, None)
    start = (
        "The mean gradient can't be distinguished from zero: the noise scale may be arbitrarily "
        "large. "
    )
    assert advise(bound, 1000).text == (
        f"{start}Whether the effective batch of 1,000 is below it is not known."
    )
    below = advise(bound, 500)
    assert below.text == (
        f"{start}The effective batch of 500 is below it: 1,000 would take at least 33% fewer "
        "updates to reach the same loss."
    )
    assert below.json() == {
        "effective_batch": 500,
        "updates_over_fewest": 3.0,
        "samples_over_fewest": 1.5,
        "doubled": {"updates": pytest.approx(2 / 3), "samples": pytest.approx(4 / 3)},
        "halved": {"updates": pytest.approx(5 / 3), "samples": pytest.approx(5 / 6)},
        "is_bound": True,
        "text": below.text,
    }

"""Schedules that grow the batch: the paper's counts, the invariants, what can't grow."""

from __future__ import annotations

import re
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from caffe_batch.errors import InputError
from caffe_batch.planning.schedule.growth import Schedule, Stage, grow
from caffe_batch.planning.split.candidates import Sharing
from caffe_batch.schema import caffe_pb2
from caffe_batch.solver.decay import StepDecay, step_decay
from caffe_batch.solver.numbers import as_written

RECORDS = 50_000


def solver_of(**fields: Any) -> caffe_pb2.SolverParameter:
    """The recipe of Smith et al. for CIFAR-10: 200 epochs of 391 updates, drops at 60, 120, 160."""
    recipe = {
        "base_lr": 0.1, "momentum": 0.9, "lr_policy": "multistep", "gamma": 0.2,
        "stepvalue": [23460, 46920, 62560], "max_iter": 78200,
    }  # fmt: skip
    return caffe_pb2.SolverParameter(**{**recipe, **fields})


PAPER = step_decay(solver_of(), RECORDS, 128)


def updates(stages: tuple[Stage, ...]) -> list[int]:
    return [stage.last_update - stage.first_update for stage in stages]


def test_the_epochs_of_a_recipe() -> None:
    assert (PAPER.updates_per_epoch, int(PAPER.epochs)) == (391, 200)
    assert list(PAPER.drops) == [60, 120, 160]
    assert (PAPER.gamma, PAPER.base_lr) == (Fraction(1, 5), Fraction(1, 10))
    stepped = solver_of(lr_policy="step", stepvalue=[], stepsize=23460)
    assert list(step_decay(stepped, RECORDS, 128).drops) == [60, 120, 180]


def test_drops_at_the_end_and_beyond_do_not_count() -> None:
    late = solver_of(stepvalue=[23460, 78200, 90000])
    assert list(step_decay(late, RECORDS, 128).drops) == [60]
    stepped = solver_of(lr_policy="step", stepvalue=[], stepsize=39100)
    assert list(step_decay(stepped, RECORDS, 128).drops) == [100]


def test_multistep_drops_once_an_update() -> None:
    """As in sgd_solver.cpp: a stepvalue that is passed already waits for the next update."""
    twice = solver_of(stepvalue=[391, 391, 100])
    drops = step_decay(twice, RECORDS, 128).drops
    assert [drop * 391 for drop in drops] == [391, 392, 393]


@pytest.mark.parametrize(
    ("text", "fraction"),
    [(0.2, (1, 5)), (0.1, (1, 10)), (1 / 3, (1, 3)), (0.96, (24, 25)), (0.00015, (3, 20000))],
)
def test_a_float_means_the_simplest_fraction(text: float, fraction: tuple[int, int]) -> None:
    assert as_written(caffe_pb2.SolverParameter(gamma=text).gamma) == Fraction(*fraction)


@pytest.mark.parametrize(
    ("schedule", "batch", "counts"),
    [
        (Schedule.DECAY, 128, [23460, 23460, 15640, 15640]),  # 78200
        (Schedule.GROW, 128, [23460, 4740, 640, 400]),  # 29240
        (Schedule.GROW, 640, [4740, 960, 400, 400]),  # 6500
        (Schedule.GROW, 3200, [960, 600, 400, 400]),  # 2360
        (Schedule.HYBRID, 128, [23460, 4740, 3160, 3160]),  # 34520
    ],
)
def test_the_update_counts_of_the_paper(schedule: Schedule, batch: int, counts: list[int]) -> None:
    stages = grow(PAPER, effective_batch=batch, pass_samples=64, schedule=schedule, max_batch=5120)
    assert updates(stages) == counts
    total = {128: {"decay": 78200, "grow": 29240, "hybrid": 34520}, 640: {"grow": 6500},
             3200: {"grow": 2360}}  # fmt: skip
    assert stages[-1].last_update == total[batch][schedule.value]


def test_batches_and_rates_of_the_paper() -> None:
    stages = grow(PAPER, effective_batch=128, pass_samples=64, max_batch=5120)
    assert [stage.effective_batch for stage in stages] == [128, 640, 3200, 5120]
    assert [stage.iter_size for stage in stages] == [2, 10, 50, 80]
    assert [stage.learning_rate for stage in stages] == [0.1, 0.1, 0.1, 0.032]
    assert [stage.first_epoch for stage in stages] == [0, 60, 120, 160]
    assert [stage.reason for stage in stages[1:]] == [
        "epoch 60, where the recipe divides the rate by 5: the batch grows by 5 instead",
        "epoch 120, where the recipe divides the rate by 5: the batch grows by 5 instead",
        "epoch 160, where the recipe divides the rate by 5: the batch grows by 1.6, and the rate "
        "is divided by 3.125 (5120 is the largest batch)",
    ]
    hybrid = grow(
        PAPER, effective_batch=128, pass_samples=64, schedule=Schedule.HYBRID, max_batch=5120
    )
    assert [stage.effective_batch for stage in hybrid] == [128, 640, 640, 640]
    assert [stage.learning_rate for stage in hybrid] == [0.1, 0.1, 0.02, 0.004]
    assert hybrid[2].reason == (
        "epoch 120, where the recipe divides the rate by 5: so does the schedule, at the same batch"
    )


def test_the_largest_batch_is_a_tenth_of_the_records() -> None:
    stages = grow(PAPER, effective_batch=128, pass_samples=64)
    assert stages[-1].effective_batch == 4992  # the multiple of 64 below 5000
    assert stages[-1].learning_rate == pytest.approx(0.1 / 125 * 4992 / 128)


def test_a_batch_that_is_not_a_multiple_of_a_pass_corrects_the_rate() -> None:
    third = step_decay(solver_of(gamma=1 / 3, stepvalue=[39100]), RECORDS, 128)
    first, second = grow(third, effective_batch=80, pass_samples=40)
    assert (second.effective_batch, second.learning_rate) == (240, 0.1)
    most = step_decay(solver_of(gamma=0.4, stepvalue=[39100]), RECORDS, 128)
    first, second = grow(most, effective_batch=100, pass_samples=100)
    assert (second.effective_batch, second.iter_size) == (200, 2)  # not 250
    assert second.learning_rate == pytest.approx(0.08)
    assert second.reason == (
        "epoch 100, where the recipe divides the rate by 2.5: the batch grows by 2, and the rate "
        "is divided by 1.25 (whole passes only)"
    )
    assert first.learning_rate == 0.1


decays = st.builds(
    lambda records, own, epochs, drops, gamma: StepDecay(
        records=records,
        updates_per_epoch=-(-records // own),
        epochs=Fraction(epochs),
        drops=tuple(sorted(drop * epochs for drop in drops)),
        gamma=gamma,
        base_lr=Fraction(1, 10),
    ),
    records=st.integers(1000, 10**6),
    own=st.integers(1, 500),
    epochs=st.integers(20, 300),
    drops=st.sets(st.integers(1, 19).map(lambda part: Fraction(part, 20)), min_size=1, max_size=6),
    gamma=st.sampled_from([Fraction(1, n) for n in (2, 3, 5, 10)] + [Fraction(19, 20)]),
)


@given(
    decay=decays,
    pass_samples=st.integers(1, 60),
    iter_size=st.integers(1, 9),
    limit=st.integers(2, 1000),
    schedule=st.sampled_from(Schedule),
)
def test_what_every_schedule_keeps(
    decay: StepDecay, pass_samples: int, iter_size: int, limit: int, schedule: Schedule
) -> None:
    batch = pass_samples * iter_size
    assume(batch + pass_samples <= limit <= decay.records)
    try:
        stages = grow(
            decay, effective_batch=batch, pass_samples=pass_samples, schedule=schedule,
            max_batch=limit,
        )  # fmt: skip
    except InputError:  # all growth there is comes to less than half a pass
        drops = 1 if schedule is Schedule.HYBRID else len(decay.drops)
        assert batch / decay.gamma**drops - batch <= Fraction(pass_samples, 2)
        return
    assert stages[0].effective_batch == batch
    assert schedule is Schedule.DECAY or stages[-1].effective_batch > batch
    assert stages[0].learning_rate == float(decay.base_lr)
    batches = [stage.effective_batch for stage in stages]
    assert batches == sorted(batches)
    assert max(batches) <= (batch if schedule is Schedule.DECAY else limit)
    assert all(stage.iter_size * pass_samples == stage.effective_batch for stage in stages)
    # The noise scale, rate / batch, falls by gamma at each drop.
    noise = [stage.learning_rate / stage.effective_batch for stage in stages]
    for before, after in pairwise(noise):
        assert after == pytest.approx(before * decay.gamma)
    # The epochs are those of the recipe, one stage after the other.
    assert [stage.first_epoch for stage in stages] == [0, *decay.drops]
    assert sum(stage.epochs for stage in stages) == decay.epochs
    assert stages[0].first_update == 0
    assert all(after.first_update == before.last_update for before, after in pairwise(stages))
    # Its updates see every record in each of its epochs, and less than a batch an epoch more.
    for stage in stages:
        samples = (stage.last_update - stage.first_update) * stage.effective_batch
        wanted = stage.epochs * decay.records
        assert samples >= wanted - stage.effective_batch / 2
        assert samples < wanted + (stage.epochs + Fraction(1, 2)) * stage.effective_batch


def test_a_stage_has_at_least_one_update() -> None:
    close = step_decay(solver_of(stepvalue=[23460, 23461]), RECORDS, 128)
    assert updates(grow(close, effective_batch=128, pass_samples=64))[1] == 1


@pytest.mark.parametrize("policy", ["fixed", "exp", "inv", "poly", "sigmoid"])
def test_policies_without_drops(policy: str) -> None:
    why = "the rate never drops" if policy == "fixed" else "a little with every update"
    with pytest.raises(InputError, match=f"lr_policy '{policy}': .*{why}.*\n.*step or multistep"):
        step_decay(solver_of(lr_policy=policy), RECORDS, 128)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"gamma": 1.0}, r"gamma is 1, and only a rate that drops"),
        ({"gamma": 0.0}, r"gamma is 0, and only a rate that drops"),
        ({"gamma": 2.0}, r"gamma is 2, and only a rate that drops"),
        ({"gamma": float("nan")}, r"gamma is nan, and only a rate that drops"),
        ({"max_iter": 0}, r"the solver has no max_iter, so where the last stage"),
        ({"stepvalue": []}, r"doesn't drop before max_iter 78200"),
        ({"stepvalue": [78200]}, r"doesn't drop before max_iter 78200"),
        ({"stepvalue": [0, 10]}, r"stepvalue 0 drops the rate before the first update"),
        ({"lr_policy": "step", "stepsize": 0}, r"needs a stepsize above 0, found 0"),
        ({"lr_policy": "step", "stepsize": 1}, r"drops 78,199 times, and each stage"),
        ({"lr_policy": "steps"}, r"lr_policy 'steps': Caffe has no such policy"),
    ],
)
def test_recipes_whose_drops_cannot_be_used(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        step_decay(solver_of(**fields), RECORDS, 128)


def test_a_schedule_needs_the_records() -> None:
    with pytest.raises(InputError, match=r"number of training records isn't known\n.*train_r"):
        step_decay(solver_of(), None, 128)


@pytest.mark.parametrize(
    ("batch", "samples", "limit", "message"),
    [
        (60_000, 100, None, r"batch of 60000 is more than the 50000 records"),
        (128, 64, 60_000, r"max_batch is 60000, more than the 50000 records"),
        (
            128,
            64,
            100,
            r"of 128 can't grow: the largest batch asked for is 100, .*\n.*at least 192",
        ),
        (
            128,
            64,
            191,
            r"of 128 can't grow: the largest batch asked for is 191, .*multiples of 64 samples",
        ),
        (5000, 50, None, r"of 5000 can't grow: a tenth of the 50000 records is 5000"),
        (130, 64, None, r"of 130 is not a multiple of the 64 samples of a pass"),
    ],
)
def test_batches_that_cannot_grow(
    batch: int, samples: int, limit: int | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        grow(PAPER, effective_batch=batch, pass_samples=samples, max_batch=limit)


@pytest.mark.parametrize(
    ("gamma", "batch", "samples", "message", "hint"),
    [
        (0.95, 128, 64, "drops ask for at most 149.293 samples", "batch_size=32: .* grows to 160"),
        (0.9, 128, 128, "drops ask for at most 175.583 samples", "batch_size=64: .* grows to 192"),
        (
            0.999,
            128,
            1,
            "drops ask for at most 128.385 samples",
            '="decay": gamma is too close to 1',
        ),
    ],
)
def test_a_gamma_too_near_1_says_so(
    gamma: float, batch: int, samples: int, message: str, hint: str
) -> None:
    slow = step_decay(solver_of(gamma=gamma), RECORDS, 128)
    with pytest.raises(InputError, match=f"of {batch} can't grow: .*{message}.*\n.*{hint}"):
        grow(slow, effective_batch=batch, pass_samples=samples)


def test_the_advice_for_a_batch_in_one_pass() -> None:
    """A tenth of the 1,437 records is 143: one pass of 128 can't grow, passes of 8 can."""
    decay = step_decay(solver_of(gamma=0.5, stepvalue=[60], max_iter=120), 1437, 128)
    with pytest.raises(InputError, match="tenth of the 1437 records is 143") as caught:
        grow(decay, effective_batch=128, pass_samples=128)
    assert caught.value.hint == (
        "Give batch_size=8: in passes of 8 samples it grows to 136; or a max_batch of at least "
        "256; or a smaller effective_batch."
    )
    assert grow(decay, effective_batch=128, pass_samples=8)[-1].effective_batch == 136
    with pytest.raises(InputError, match="batch_size=4: in passes of 8 samples"):
        grow(decay, effective_batch=128, pass_samples=128, sharing=Sharing(gpus=2))


@given(
    decay=decays,
    pass_samples=st.integers(1, 60),
    iter_size=st.integers(1, 9),
    gpus=st.sampled_from([1, 2, 3]),
)
def test_the_batch_size_advised_grows(
    decay: StepDecay, pass_samples: int, iter_size: int, gpus: int
) -> None:
    batch, sharing = pass_samples * iter_size * gpus, Sharing(gpus)
    assume(batch < decay.records / 10)
    try:
        grow(decay, effective_batch=batch, pass_samples=pass_samples * gpus, sharing=sharing)
    except InputError as error:
        advised = re.search(r"batch_size=(\d+)", error.hint or "")
        if advised:
            smaller = int(advised[1])
            assert smaller < pass_samples
            stages = grow(decay, effective_batch=batch, pass_samples=smaller * gpus)
            assert stages[-1].effective_batch > batch

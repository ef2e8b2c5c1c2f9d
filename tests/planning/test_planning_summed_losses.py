"""Losses that are sums: what another effective batch does to them, and a batch that grows."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from caffe_batch.errors import InputError
from caffe_batch.memory import CaffeMemory
from caffe_batch.net import Sources, read_recipe
from caffe_batch.planning import (
    Budget,
    LrScaling,
    Plan,
    PlanOptions,
    ScheduleOptions,
    SplitOptions,
    make_plan,
)
from caffe_batch.planning.audit.summed_losses import summed_losses
from caffe_batch.planning.schedule.growth import Schedule
from caffe_batch.planning.strategies.strategies import find_strategies

NET = """
layer {{ name: "data" type: "Input" top: "data" top: "label"
  input_param {{ shape {{ dim: 12 dim: 6 }} shape {{ dim: 12 }} }} }}
layer {{ name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param {{ num_output: 4 }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss"
  loss_param {{ normalization: {normalization} }} }}
layer {{ name: "size" type: "Reduction" bottom: "ip" top: "size"
  {weight} reduction_param {{ operation: SUMSQ }} }}
"""
SOLVER = """
net: "net.prototxt" base_lr: 0.1 lr_policy: "step" gamma: 0.5 stepsize: 100 max_iter: 300
momentum: 0.9
"""


def model(folder: Path, normalization: str, weight: str = "") -> CaffeMemory:
    net = NET.format(normalization=normalization, weight=weight)
    (folder / "net.prototxt").write_text(net)
    (folder / "solver.prototxt").write_text(SOLVER)
    return CaffeMemory(read_recipe(folder / "solver.prototxt"), Sources((folder,)))


def planned(of: CaffeMemory, **options: Any) -> Plan:
    return make_plan(of, Budget(2**30, 0), PlanOptions(train_records=1200, **options))


@pytest.mark.parametrize(
    ("normalization", "weight", "names"),
    [
        ("VALID", "", ()),
        ("NONE", "", ("loss",)),
        ("BATCH_SIZE", "loss_weight: 0.1", ("size",)),
        ("NONE", "loss_weight: 0.1", ("loss", "size")),
    ],
)
def test_which_are_sums(
    tmp_path: Path, normalization: str, weight: str, names: tuple[str, ...]
) -> None:
    recipe = model(tmp_path, normalization, weight)
    assert summed_losses(recipe, 12) == names
    # Ten times the batch, in one pass or in two: it is told where, and only where, it matters.
    for iter_size in (1, 2):
        plan = planned(recipe, effective_batch=120, split=SplitOptions(iter_size=iter_size))
        told = [note for note in plan.notes if "is a sum over the batch" in note]
        assert len(told) == bool(names)
        if names:
            assert f"The loss of {', '.join(names)} is" in told[0]
            assert "10 times the recipe's batch" in told[0]
        # Advice to raise the rate as well would double what the sum does already.
        assert any("(lr_scaling linear)" in note for note in plan.notes) == (not names)
    same = planned(recipe)
    assert not any("is a sum" in note for note in same.notes)


def test_with_a_scaled_rate_both_are_reported(tmp_path: Path) -> None:
    plan = planned(
        model(tmp_path, "NONE"),
        effective_batch=24,
        schedule=ScheduleOptions(lr_scaling=LrScaling.LINEAR),
    )
    notes = " ".join(plan.notes)
    assert "is a sum over the batch" in notes
    assert "base_lr is scaled (linear)" in notes


def test_a_batch_that_grows_keeps_the_step_of_a_sum(tmp_path: Path) -> None:
    """Per sample the loss weighs what it did in the first stage, else growth would be a rate."""
    plan = planned(model(tmp_path, "NONE"), split=SplitOptions(batch_size=6), growth=Schedule.GROW)
    weights = [
        {change.after for change in stage.changes if change.path == ("loss_weight", 0)}
        for stage in plan.stages
    ]
    assert [stage.stage.iter_size for stage in plan.stages] == [2, 4, 8]
    # Caffe takes the mean over the passes of sums over 6: weight / 6 a sample in every stage.
    assert weights == [{2.0}, {2.0}, {2.0}]


def test_small_batches_keep_what_a_sample_weighs(tmp_path: Path) -> None:
    """Else their steps would be half as large, and the noise listed would be another."""
    budget = Budget(2**30, 0)
    options = PlanOptions(train_records=1200, split=SplitOptions(batch_size=6))
    found = find_strategies(model(tmp_path, "NONE"), budget, options)
    weights = {
        way.name: [c.after for c in way.plan.changes if c.path == ("loss_weight", 0)]
        for way in found.ways
        if way.plan is not None and not way.plan.stages
    }
    # Two passes of 6, or one update after each 6: twice the weight of the sum over 12.
    assert weights["accumulate"] == [2.0]
    small = ("small", "small-linear", "small-sqrt", "small-momentum", "momentum-alone")
    assert [weights[name] for name in small] == [[2.0]] * 5
    assert weights["cpu"] == []  # the whole batch in one pass
    means = find_strategies(model(tmp_path, "VALID"), budget, options)
    assert [way.noise for way in means.ways] == [way.noise for way in found.ways]


def test_a_schedule_beyond_what_caffe_counts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="more than Caffe can count"):
        planned(
            model(tmp_path, "VALID"),
            split=SplitOptions(batch_size=6),
            growth=Schedule.GROW,
            schedule=ScheduleOptions(epochs=Fraction(10**12)),
        )

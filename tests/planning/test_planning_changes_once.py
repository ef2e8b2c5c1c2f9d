"""No change is listed twice, however many nets share the layer that it is in."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffe_batch.memory import CaffeMemory
from caffe_batch.net import Sources, read_recipe
from caffe_batch.planning import Budget, PlanOptions, SplitOptions, make_plan
from caffe_batch.planning.schedule.growth import Schedule
from tests.planned_jobs import NET, RECORDS, write_lmdb

RESHAPE = """layer {
  name: "flat" type: "Reshape" bottom: "data" top: "flat"
  reshape_param { shape { dim: 12 dim: -1 } }
}
layer {
  name: "ip1" type: "InnerProduct" bottom: "flat" top: "ip1\""""
SOLVER = """
net: "net.prototxt"  max_iter: 240  momentum: 0.9  clip_gradients: 35
base_lr: 0.1  lr_policy: "multistep"  gamma: 0.5  stepvalue: [120, 180]
test_iter: 7  test_state { stage: "a" }  test_iter: 7  test_state { stage: "b" }
test_interval: 60
"""


@pytest.mark.parametrize("growth", [Schedule.DECAY, Schedule.GROW])
def test_a_layer_that_three_nets_share(tmp_path: Path, growth: Schedule) -> None:
    """The train net, both test nets and the audit ask for the 0 in the Reshape layer."""
    net = NET.format(data=write_lmdb(tmp_path / "data"), batch_size=12, width=8)
    net = net.replace("batch_size: 10", "batch_size: 12").replace(
        'layer {\n  name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1"', RESHAPE
    )
    (tmp_path / "net.prototxt").write_text(net)
    (tmp_path / "solver.prototxt").write_text(SOLVER)
    recipe = read_recipe(tmp_path / "solver.prototxt")
    plan = make_plan(
        CaffeMemory(recipe, Sources(recipe.directories)),
        Budget(2**31, 0),
        PlanOptions(
            effective_batch=12, train_records=RECORDS, test_records=(RECORDS, RECORDS),
            split=SplitOptions(batch_size=4), growth=growth, max_batch=40,
        ),
    )  # fmt: skip
    for changes in [plan.changes, *(each.changes for each in plan.stages)]:
        places = [change.place for change in changes]
        assert len(places) == len(set(places))
        (reshape,) = [change for change in changes if change.layer_name == "flat"]
        assert (reshape.before, reshape.after) == (12, 0)

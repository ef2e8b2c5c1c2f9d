"""A classifier that learns nothing is said to."""

from __future__ import annotations

import io
import math
from contextlib import closing
from pathlib import Path

import pytest
from rich.console import Console

from caffe_batch.reporting.status_view import status_lines
from caffe_batch.reporting.training_view import TrainingView
from caffe_batch.runtimes import Runtime
from caffe_batch.training.chance import ChanceWatch
from caffe_batch.training.following import RunFollower
from caffe_batch.training.supervisor import train
from tests.both_engines import runtime as runtime
from tests.planned_jobs import NET
from tests.training.test_training_recovery import planned

#: All weights and biases begin at 0: nothing but the last bias ever gets a gradient.
DEAD = NET.replace('weight_filler {{ type: "xavier" }}', "").replace("{width}", "8")


@pytest.mark.parametrize("dead", [True, False])
def test_of_a_training(runtime: Runtime, tmp_path: Path, dead: bool) -> None:
    net = DEAD if dead else NET.replace("{width}", "8")
    job = planned(
        tmp_path, net.replace("{batch_size}", "70"), "max_iter: 150", "--gpu-memory", "1GiB"
    )
    assert job.read_plan().chance_loss == pytest.approx(math.log(4))
    shown = io.StringIO()
    train(job, runtime, observer=TrainingView(Console(file=shown, width=1000)))
    with closing(RunFollower(job)) as follower:
        status = follower.status()
    said = "The loss has stayed at 1.386 for 150 updates"
    assert (said in status.progress.remark) is dead
    assert (said in "\n".join(status_lines(job, status))) is dead
    assert shown.getvalue().count("The loss has stayed at 1.386") == dead
    assert (status.json()["remark"] is None) is not dead


@pytest.mark.parametrize(
    ("losses", "stands"),
    [
        ([math.log(10)] * 99, False),
        ([math.log(10)] * 101, True),
        ([math.log(10) * (1 + 0.05 * (-1) ** n) for n in range(200)], True),
        ([math.log(10) * 0.999**n for n in range(200)], False),
        ([87.3, *[math.log(10)] * 400], True),
        ([*[math.log(10)] * 150, *[1.0] * 20], False),
        ([*[math.log(10)] * 150, math.nan], False),
        ([1.0] * 300, False),
    ],
)
def test_how_long_it_must_stand(losses: list[float], stands: bool) -> None:
    watch, unknown = ChanceWatch(math.log(10), 300), ChanceWatch(None, 300)
    for update, loss in enumerate(losses, 1):
        watch.add(update, loss)
        unknown.add(update, loss)
    assert bool(watch.remark) is stands
    assert unknown.remark == ""

"""``caffe-batch train NET --as-is``, and jobs that go on for longer, as a user runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from array import array
from pathlib import Path

import pytest

from caffe_batch.engines.caffe.snapshots import list_snapshots
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.metrics import UpdateMetrics, read_metrics
from caffe_batch.prototxt import read_solver
from caffe_batch.schema import caffe_pb2
from tests.holding import PATIENCE_S
from tests.planned_jobs import NET, write_lmdb

PROGRAM = str(Path(sys.executable).with_name("caffe-batch"))

pytestmark = pytest.mark.usefixtures("runtime")

SOLVER = """net: "net.prototxt"  # the net
base_lr: 0.1 lr_policy: "fixed"
momentum: 0.9
iter_size: 2
max_iter: 12
snapshot: 5
snapshot_prefix: "mine"
random_seed: 3
solver_mode: CPU
"""

#: A net whose data comes from a Python layer: nothing of it can be planned.
FOREIGN = """
layer { name: "pairs" type: "Python" top: "data" top: "label"
  python_param { module: "pairs" layer: "Pairs" } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
PAIRS = """
import caffe

class Pairs(caffe.Layer):
    def setup(self, bottom, top):
        self.passes = 0
    def reshape(self, bottom, top):
        top[0].reshape(5, 7)
        top[1].reshape(5)
    def forward(self, bottom, top):
        self.passes += 1
        for row in range(5):
            label = (row + self.passes) % 3
            top[0].data[row] = label - 0.1 * row
            top[1].data[row] = label
    def backward(self, top, propagate_down, bottom):
        pass
"""


def run(
    *args: object, cwd: Path, status: int = 0, **variables: str
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [PROGRAM, *map(str, args)],
        env={**os.environ, **variables},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == status, done.stderr
    return done


def foreign(folder: Path) -> Path:
    folder.joinpath("net.prototxt").write_text(FOREIGN)
    folder.joinpath("pairs.py").write_text(PAIRS)
    folder.joinpath("solver.prototxt").write_text(SOLVER)
    return folder


def learned(weights: Path) -> list[bytes]:
    net = caffe_pb2.NetParameter()
    net.ParseFromString(weights.read_bytes())
    return [array("f", blob.data).tobytes() for layer in net.layer for blob in layer.blobs]


def test_a_python_data_layer_is_trained_as_caffe_does(tmp_path: Path) -> None:
    """The weights are those of plain pycaffe, bit by bit; the files stay what they were."""
    foreign(tmp_path)
    done = run("train", "solver.prototxt", "--as-is", cwd=tmp_path)
    assert done.stdout.splitlines() == [
        "Finished: 12 of 12 updates.",
        "plan:  the files as they are; nothing was planned or predicted",
        f"files: {tmp_path / 'solver.job'}",
        "model: snapshots/snapshot_iter_12.caffemodel",
        "next:  `caffe-batch test solver.job` tests it by class, `caffe-batch deploy solver.job "
        "--out DIR` makes a net for inference",
    ]
    assert "updates/s" in done.stderr
    assert "samples/s" not in done.stderr
    assert "epoch" not in done.stderr
    job = JobDirectory(tmp_path / "solver.job")
    assert job.net.read_text() == FOREIGN
    assert "# the net" in job.solver.read_text()
    plan = json.loads(job.plan.read_text())
    assert plan["as_is"] is True
    assert not {"effective_batch", "batch_size", "predicted_peak_bytes", "audit"} & plan.keys()
    lines = [line for line in read_metrics(job.metrics) if isinstance(line, UpdateMetrics)]
    assert {(line.samples, line.epoch, line.effective_batch) for line in lines} == {
        (None, None, None)
    }


def test_its_weights_are_those_of_plain_pycaffe(tmp_path: Path, pycaffe) -> None:  # type: ignore[no-untyped-def]
    foreign(tmp_path)
    run("train", "solver.prototxt", "--as-is", cwd=tmp_path)
    pycaffe(
        "import sys, caffe; sys.path.append('.'); caffe.set_mode_cpu();"
        "caffe.get_solver('solver.prototxt').solve()",
        cwd=tmp_path,
    )
    plain = learned(tmp_path / "mine_iter_12.caffemodel")
    snapshots = list_snapshots(tmp_path / "solver.job" / "snapshots")
    assert [snapshot.update for snapshot in snapshots] == [5, 10, 12]
    assert learned(snapshots[-1].weights) == plain


def test_status_report_and_a_longer_run(tmp_path: Path) -> None:
    foreign(tmp_path)
    run("train", "solver.prototxt", "--as-is", "--out", "job", cwd=tmp_path)
    status = json.loads(run("status", "job", "--json", cwd=tmp_path).stdout)
    assert (status["state"], status["update"], status["epoch"]) == ("finished", 12, None)
    assert status["samples_per_s"] is None
    assert status["updates_per_s"] > 0
    assert status["predicted_bytes"] is None
    run("report", "job", "--figures", "figures", cwd=tmp_path)
    page = (tmp_path / "job" / "report.html").read_text()
    assert "The files are trained as they are, and their memory is not predicted." in page
    assert 'value="samples"' not in page
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        "loss.png", "loss.svg", "schedule.png", "schedule.svg",
    }  # fmt: skip

    done = run("train", "job", "--updates", "+6", cwd=tmp_path)
    assert done.stdout.startswith("Finished: 18 of 18 updates.\n")
    assert "Whatever 'pairs' (Python) keeps or reads by its own code starts anew" in done.stderr
    refused = run("train", "job", "--epochs", "+1", cwd=tmp_path, status=2)
    assert "the length of an epoch is not known" in refused.stderr
    assert "--updates +1000" in refused.stderr


def test_the_module_of_a_python_layer_on_pythonpath(tmp_path: Path) -> None:
    foreign(tmp_path)
    modules = tmp_path / "modules"
    modules.mkdir()
    (tmp_path / "pairs.py").rename(modules / "pairs.py")
    lost = run("train", "solver.prototxt", "--as-is", "--out", "lost", cwd=tmp_path, status=4)
    assert "No module named 'pairs'" in lost.stderr
    assert "PYTHONPATH" in lost.stderr
    run("train", "solver.prototxt", "--as-is", cwd=tmp_path, PYTHONPATH=str(modules))


def test_a_net_that_can_be_planned(tmp_path: Path) -> None:
    """As it is, a run that goes on reads on from the next record of its own batches."""
    data = write_lmdb(tmp_path / "data")
    (tmp_path / "net.prototxt").write_text(NET.format(data=data, batch_size=6, width=8))
    text = SOLVER + "test_iter: 7 test_interval: 6\n"
    (tmp_path / "whole.prototxt").write_text(text)
    (tmp_path / "part.prototxt").write_text(text.replace("max_iter: 12", "max_iter: 5"))
    run("train", "whole.prototxt", "--as-is", cwd=tmp_path)
    run("train", "part.prototxt", "--as-is", cwd=tmp_path)
    done = run("train", "part.job", "--updates", "12", cwd=tmp_path)
    assert "test after update 12: accuracy" in done.stderr
    whole, part = (list_snapshots(tmp_path / f"{name}.job/snapshots") for name in ("whole", "part"))
    assert learned(part[-1].weights) == learned(whole[-1].weights)


def test_a_net_alone_gets_the_template_s_solver(tmp_path: Path) -> None:
    data = write_lmdb(tmp_path / "data")
    (tmp_path / "net.prototxt").write_text(NET.format(data=data, batch_size=35, width=8))
    done = run("train", "net.prototxt", "--as-is", cwd=tmp_path)
    assert "note: no solver was given; templates/solver.prototxt.j2 makes one" in done.stderr
    assert read_solver(tmp_path / "net.job" / "solver.prototxt").max_iter == 20
    assert done.stdout.startswith("Finished: 20 of 20 updates.\n")


def test_without_a_budget_both_ways_are_named(tmp_path: Path) -> None:
    data = write_lmdb(tmp_path / "data")
    (tmp_path / "net.prototxt").write_text(NET.format(data=data, batch_size=6, width=8))
    refused = run("train", "net.prototxt", cwd=tmp_path, status=2)
    assert "--gpu-memory 8GiB" in refused.stderr
    assert "--as-is" in refused.stderr
    assert not (tmp_path / "net.job").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--as-is", "--gpu-memory", "2GiB"], "--gpu-memory: --as-is trains the files as they are"),
        (["--as-is", "--batch-size", "4"], "--batch-size: --as-is"),
        (["--as-is", "--epochs", "3"], "--epochs: --as-is"),
        (["--as-is", "--updates", "+3"], "--updates and --epochs +N are for a job"),
        (["--gpu-memory", "2GiB", "--epochs", "+3"], "--updates and --epochs +N are for a job"),
        (
            ["--as-is", "--noise-scale"],
            "--noise-scale needs the number of samples in a micro-batch",
        ),
    ],
)
def test_options_without_an_effect(tmp_path: Path, options: list[str], message: str) -> None:
    foreign(tmp_path)
    refused = run("train", "solver.prototxt", *options, cwd=tmp_path, status=2)
    assert refused.stderr.startswith(f"caffe-batch: {message}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--as-is"], "--as-is: {job} is planned already"),
        (["--epochs", "3"], "--epochs 3: the job is planned already"),
        (["--epochs", "+x"], "--epochs: '+x' is not a number of epochs above 0"),
        (["--updates", "+1.5"], "--updates is '+1.5', but must be a whole number"),
        (["--updates", "+1", "--epochs", "+1"], "--epochs and --updates contradict each other"),
        (["--updates", "+1", "--restart"], "--updates and --restart contradict each other"),
    ],
)
def test_a_job_that_is_there(tmp_path: Path, options: list[str], message: str) -> None:
    foreign(tmp_path)
    run("train", "solver.prototxt", "--as-is", "--out", "job", cwd=tmp_path)
    before = {path: path.read_bytes() for path in (tmp_path / "job").iterdir() if path.is_file()}
    refused = run("train", "job", *options, cwd=tmp_path, status=2)
    assert refused.stderr.startswith("caffe-batch: " + message.format(job=tmp_path / "job"))
    assert {path: path.read_bytes() for path in before} == before

"""What a worker can't do is said in a sentence, before anything is trained."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import lmdb
import pytest
import torch

from caffe_batch.engines.torch.worker import tasks
from caffe_batch.engines.torch.worker.requests import Requests
from caffe_batch.schema import caffe_pb2
from tests.engines.torch.in_process import settings_of
from tests.planned_jobs import HEIGHT, NET, WIDTH, write_lmdb

SOLVER = """
net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 2 snapshot_prefix: "own"
test_iter: 1 test_interval: 10 random_seed: 1
"""


@pytest.fixture
def solver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Requests, "listen", lambda self: None)  # these are the tests' signals
    net = NET.format(data=write_lmdb(tmp_path / "data"), batch_size=6, width=8)
    (tmp_path / "net.prototxt").write_text(net)
    path = tmp_path / "solver.prototxt"
    path.write_text(SOLVER)
    return path


def run(solver: Path, event: str = "", **changes: Any) -> tuple[int, dict[str, Any]]:
    """The worker's exit status, and its last event, or the last of a kind."""
    reading, writing = os.pipe()
    settings = {**settings_of(solver), "task": "train", "events": writing, **changes}
    status = tasks.run(settings)
    os.close(writing)
    with os.fdopen(reading) as said:
        events = [json.loads(line) for line in said.read().splitlines()]
    return status, [each for each in events if event in ("", each["event"])][-1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="PyTorch sees a GPU here")
def test_a_gpu_that_is_not_there(solver: Path) -> None:
    status, said = run(solver, device="gpu", gpu=3)
    assert status == 1
    assert (said["event"], said["wants"]) == ("refused", "device")
    assert said["why"].startswith("training on GPU 3 is not possible: ")


def test_a_layer_that_does_not_run(solver: Path) -> None:
    net = solver.with_name("net.prototxt")
    pool = """layer { name: "pool" type: "Pooling" bottom: "data" top: "pool"
      pooling_param { kernel_size: 1 stride: 2 pad: 0 } }
    layer { name: "silence" type: "Silence" bottom: "pool" }"""
    net.write_text(net.read_text() + pool.replace("kernel_size: 1", "kernel_h: 1 kernel_w: 1"))
    status, said = run(solver)
    whole = said["event"] == "finished"  # 5 and 7 are odd: every window has a pixel
    assert (status, whole) == (0, True)
    net.write_text(net.read_text().replace("stride: 2", "stride: 3"))
    status, said = run(solver)
    assert status == 1
    assert (said["event"], said["wants"]) == ("refused", "net")
    assert said["why"].startswith("layer 'pool': its last window lies beyond the input")


def test_what_is_left_out_is_said(solver: Path) -> None:
    """The training is the same without."""
    assert run(solver)[0] == 0
    plain = solver.with_name("own_iter_2.caffemodel").read_bytes()
    solver.write_text(f"{SOLVER} debug_info: true")
    status, said = run(solver, event="started")
    assert status == 0
    assert said["choices"] == [
        "solver.prototxt says debug_info: PyTorch leaves that out, so the log doesn't list the "
        "mean absolute values of blobs and gradients.",
    ]
    assert solver.with_name("own_iter_2.caffemodel").read_bytes() == plain


def test_weights_of_another_net(solver: Path) -> None:
    assert run(solver)[0] == 0
    weights = solver.with_name("own_iter_2.caffemodel")
    net = solver.with_name("net.prototxt")
    net.write_text(net.read_text().replace("num_output: 8", "num_output: 9"))
    status, said = run(solver, weights=[str(weights)])
    assert status == 1
    assert (said["event"], said["wants"]) == ("refused", "weights")
    assert "parameter 0 of layer 'ip1' is 8 x 35 there and 9 x 35 in the net" in said["why"]


def test_a_record_that_can_not_be_read(solver: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with lmdb.open("data", map_size=1 << 24) as database, database.begin(write=True) as put:
        short = caffe_pb2.Datum(channels=1, height=HEIGHT, width=WIDTH, data=b"short")
        put.put(b"%08d" % 3, short.SerializeToString())
    status, said = run(solver)
    assert status == 1
    assert said["event"] != "refused"
    wanted = "layer 'data': record '00000003': it has 5 values for 1 x 5 x 7"
    assert wanted in capfd.readouterr().err

"""A run that changes its engine at a snapshot is the run that never did."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caffe_batch.engines.torch.snapshots import read_state, read_weights
from caffe_batch.net.data.blob_file import text
from tests.engines.torch.in_process import train_here
from tests.planned_jobs import RECORDS, write_lmdb

#: An update reads all records, so each starts at the first one: Caffe alone can't go on elsewhere.
NET = f"""
layer {{ name: "data" type: "Data" top: "data" top: "label"
  transform_param {{ scale: 0.00390625 }}
  data_param {{ source: "data" backend: LMDB batch_size: {RECORDS // 2} }} }}
layer {{ name: "conv" type: "Convolution" bottom: "data" top: "conv"
  param {{ lr_mult: 1 }} param {{ lr_mult: 2 decay_mult: 0 }} convolution_param {{
  num_output: 3 kernel_size: 3 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "tanh" type: "TanH" bottom: "conv" top: "conv" }}
layer {{ name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param {{
  pool: AVE kernel_size: 2 stride: 2 }} }}
layer {{ name: "frozen" type: "InnerProduct" bottom: "pool" top: "frozen"
  param {{ lr_mult: 0 }} param {{ lr_mult: 0 }} inner_product_param {{
  num_output: 7 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "ip" type: "InnerProduct" bottom: "frozen" top: "ip" inner_product_param {{
  num_output: 4 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }}
"""

#: By type: what it needs, beside a rate at which it learns.
TYPES = {
    "SGD": "base_lr: 0.05 momentum: 0.9",
    "Nesterov": "base_lr: 0.05 momentum: 0.9",
    "AdaGrad": "base_lr: 0.05",
    "RMSProp": "base_lr: 0.01 rms_decay: 0.9",
    "AdaDelta": "base_lr: 1 momentum: 0.95 delta: 1e-6",
    "Adam": "base_lr: 0.01 momentum: 0.9 momentum2: 0.999",
}

#: The types that are tried with both formats by default: one history, and two.
MIXED = ("SGD", "Adam")

#: Drops before, at and after the changes, and two at once.
SOLVER = """
net: "net.prototxt" type: "{type}" {settings} weight_decay: 0.01 iter_size: 2 clip_gradients: 1
lr_policy: "multistep" gamma: 0.5 stepvalue: 2 stepvalue: 2 stepvalue: 3 stepvalue: 7
snapshot: 3 snapshot_prefix: "{prefix}" snapshot_format: {form} max_iter: {last} random_seed: 3
"""

CAFFE = """
import sys, caffe
solver = caffe.get_solver("solver.prototxt")
solver.solve(*sys.argv[1:])
"""


class Runs:
    """Stretches of a training in one folder, on either engine."""

    def __init__(
        self, pycaffe: Callable[..., str], folder: Path, kind: str, form: str, monkeypatch: Any
    ) -> None:
        self.pycaffe, self.folder, self.kind, self.form = pycaffe, folder, kind, form
        self.end = ".h5" if form == "HDF5" else ""
        write_lmdb(folder / "data")
        (folder / "net.prototxt").write_text(NET)
        monkeypatch.chdir(folder)

    def state(self, prefix: str, update: int) -> Path:
        return self.folder / f"{prefix}_iter_{update}.solverstate{self.end}"

    def run(self, engine: str, prefix: str, last: int, resume: Path | None = None) -> None:
        solver = self.folder / "solver.prototxt"
        solver.write_text(
            SOLVER.format(
                type=self.kind, settings=TYPES[self.kind], prefix=prefix, form=self.form, last=last
            )
        )
        if engine == "caffe":
            self.pycaffe(CAFFE, *([str(resume)] if resume else []), cwd=self.folder)
            return
        done = read_state(resume).update if resume else 0
        status = train_here(
            solver, resume=str(resume) if resume else None, samples=[done * RECORDS]
        )
        assert status == 0

    def arrays(self, prefix: str, update: int) -> list[np.ndarray[Any, Any]]:
        """Weights, as their file lists them, and the history."""
        weights = self.folder / f"{prefix}_iter_{update}.caffemodel{self.end}"
        found = [values for layer in read_weights(weights).values() for _, values in layer.values()]
        return [*found, *read_state(self.state(prefix, update)).history]


def check_alike(mine: list[np.ndarray[Any, Any]], theirs: list[np.ndarray[Any, Any]]) -> None:
    assert len(mine) == len(theirs) > 8
    for number, (one, other) in enumerate(zip(mine, theirs, strict=True)):
        assert one.shape == other.shape
        size = float(np.linalg.norm(other))
        assert np.linalg.norm(one - other) <= 1e-6 * size, f"{number}: {text(one.shape)}"


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        pytest.param(kind, form, marks=[pytest.mark.slow] * (form == "HDF5" and kind not in MIXED))
        for kind in TYPES
        for form in ("BINARYPROTO", "HDF5")
    ],
)
def test_the_engine_may_change_at_a_snapshot(
    pycaffe: Callable[..., str],
    tmp_path: Path,
    kind: str,
    form: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs = Runs(pycaffe, tmp_path, kind, form, monkeypatch)
    runs.run("caffe", "whole", 9)
    runs.run("pytorch", "second", 6, runs.state("whole", 3))
    check_alike(runs.arrays("second", 6), runs.arrays("whole", 6))
    assert read_state(runs.state("second", 6)).current_step == 3
    runs.run("caffe", "third", 9, runs.state("second", 6))
    check_alike(runs.arrays("third", 9), runs.arrays("whole", 9))


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_it_may_begin_and_end_with_pytorch(
    pycaffe: Callable[..., str], tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = Runs(pycaffe, tmp_path, kind, "BINARYPROTO", monkeypatch)
    runs.run("pytorch", "whole", 9)
    runs.run("caffe", "second", 6, runs.state("whole", 3))
    runs.run("pytorch", "third", 9, runs.state("second", 6))
    check_alike(runs.arrays("third", 9), runs.arrays("whole", 9))


def test_with_a_seed_it_begins_with_caffes_own_numbers(
    pycaffe: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = Runs(pycaffe, tmp_path, "SGD", "BINARYPROTO", monkeypatch)
    runs.run("pytorch", "own", 3)
    runs.run("caffe", "caffes", 3)
    check_alike(runs.arrays("own", 3), runs.arrays("caffes", 3))

"""All layer types, forward and backward, on the GPU against the CPU.

The nets are the small ones of tests/data/gpu_memory.json and a few for the types that aren't there.
Both builds get the same inputs and parameters; every top, every gradient that Caffe needs and every
parameter's gradient is compared.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from caffe_batch import prototxt
from caffe_batch.memory import Model
from caffe_batch.net import Sources, read_recipe
from caffe_batch.runtimes import Runtime
from caffe_batch.schema import caffe_pb2

WORKER = Path(__file__).with_name("layer_worker.py")
MEASURED = Path(__file__).parents[2] / "tests" / "data" / "gpu_memory.json"

#: Relative L2 error that counts as the same.
TOLERANCE = 1e-4

#: Values that are zero in theory are rounding: errors are relative to this share, at least, of the
#: root mean square of the largest array of their kind.
FLOOR = 1e-3

#: Larger nets of the measured cases only repeat the layers of the small ones.
LARGEST_BYTES = 100 * 10**6

#: Types without a case, and why.
NOT_COMPARED = {
    "Data": "reads on the CPU; the demo trains with it",
    "HDF5Data": "copies what it has read on the CPU",
    "HDF5Output": "writes a file",
    "ImageData": "reads on the CPU",
    "Input": "its user fills it",
    "LSTMUnit": "inside LSTM, whose case runs it",
    "MemoryData": "copies what its user gives",
    "Python": "its code is the user's",
    "WindowData": "reads on the CPU",
}

#: What differs by nature where the two builds draw random numbers, or can't be compared.
LEFT_OUT = {"pool_stochastic": "Caffe has no CPU code for its backward pass"}
IN_TEST_PHASE = ("dropout", "dropout_inplace")  # in TRAIN the masks are drawn

#: Types that the measured cases lack.
MORE = {
    "filter": """
layer { name: "data" type: "DummyData" top: "data" top: "pick" top: "label" dummy_data_param {
  shape { dim: 6 dim: 5 } shape { dim: 6 } shape { dim: 6 dim: 5 }
  data_filler { type: "gaussian" } data_filler { type: "constant" value: 1 }
  data_filler { type: "gaussian" } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 5 } }
layer { name: "filter" type: "Filter" bottom: "ip" bottom: "label" bottom: "pick"
  top: "some" top: "wanted" }
layer { name: "loss" type: "EuclideanLoss" bottom: "some" bottom: "wanted" top: "loss" }
""",
    "infogain": """
layer { name: "data" type: "DummyData" top: "data" top: "label" top: "gain" dummy_data_param {
  shape { dim: 6 dim: 5 } shape { dim: 6 } shape { dim: 1 dim: 1 dim: 4 dim: 4 }
  data_filler { type: "gaussian" } data_filler { type: "constant" value: 3 }
  data_filler { type: "gaussian" } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 4 } }
layer { name: "loss" type: "InfogainLoss" bottom: "ip" bottom: "label" bottom: "gain" top: "loss" }
""",
}


@dataclass(frozen=True)
class Case:
    """A small net, and what is compared of it."""

    name: str
    net: str
    phase: str
    inputs: Mapping[str, tuple[float, float]]
    blobs: tuple[str, ...]
    diffs: tuple[str, ...]
    types: frozenset[str]

    def settings(self, folder: Path, seed: int) -> dict[str, Any]:
        """As layer_worker.py takes it; writes the net into ``folder``."""
        path = folder / f"{self.name}.prototxt"
        path.write_text(self.net)
        return {
            "name": self.name, "net": str(path), "phase": self.phase, "seed": seed,
            "inputs": self.inputs, "first": 1, "blobs": self.blobs, "diffs": self.diffs,
        }  # fmt: skip


def cases(folder: Path) -> list[Case]:
    """Every case; their nets are read in ``folder``."""
    measured: dict[str, str] = {}
    for each in json.loads(MEASURED.read_text(encoding="utf-8"))["cases"]:
        small = each["device_bytes"]["after_two_updates"] <= LARGEST_BYTES
        if small and not re.match("solver_|lmdb_", each["name"]):
            measured.setdefault(each["name"], each["net"])
    nets = {**measured, **MORE}
    return [_case(name, net, folder) for name, net in nets.items() if name not in LEFT_OUT]


def _case(name: str, text: str, folder: Path) -> Case:
    path = folder / f"{name}.prototxt"
    path.write_text(text)
    message = prototxt.parse_net(text)
    net = Model(read_recipe(path), Sources(())).train_net()
    needed = [
        net.blobs[blob].name
        for node in net.nodes
        for blob, need in zip(node.bottoms, node.site.bottom_need, strict=True)
        if need
    ]
    return Case(
        name=name,
        net=text,
        phase="TEST" if name in IN_TEST_PHASE else "TRAIN",
        inputs=dict(_inputs(message.layer[0])),
        blobs=tuple(dict.fromkeys(blob.name for blob in net.blobs)),
        diffs=tuple(dict.fromkeys(needed)),
        types=frozenset(node.layer.type for node in net.nodes),
    )


def _inputs(data: caffe_pb2.LayerParameter) -> Iterator[tuple[str, tuple[float, float]]]:
    """Bounds of the values of each top: whole numbers for what is constant in the case."""
    for top, filler in zip(data.top, data.dummy_data_param.data_filler, strict=True):
        yield top, (0, int(filler.value)) if filler.type == "constant" else (-1.5, 1.5)


def run(
    chosen: Sequence[Case], runtime: Runtime, folder: Path, mode: str, gpu: int = 0, seed: int = 1
) -> dict[str, dict[str, np.ndarray[Any, Any]]]:
    """What a runtime makes of some cases: arrays by name, by case; those it aborts are missing."""
    folder.mkdir()
    settings = {
        "mode": mode, "gpu": gpu, "folder": str(folder),
        "cases": [case.settings(folder, seed) for case in chosen],
    }  # fmt: skip
    given = folder / "settings.json"
    given.write_text(json.dumps(settings))
    with (folder / "worker.log").open("wb") as log:
        subprocess.run(
            runtime.command([str(WORKER), str(given)]),
            env=runtime.environment(), stdout=log, stderr=log, check=True,
        )  # fmt: skip
    found = {}
    for case in chosen:
        file = folder / f"{case.name}.npz"
        if file.exists():
            with np.load(file) as arrays:
                found[case.name] = dict(arrays)
    return found


def errors(
    expected: Mapping[str, np.ndarray[Any, Any]], found: Mapping[str, np.ndarray[Any, Any]]
) -> dict[str, float]:
    """The relative L2 error of each array; infinite where NaN, or a shape, is on one side only."""
    largest: dict[str, float] = {}
    for name, array in expected.items():
        kind = name.split("/")[0]
        largest[kind] = max(largest.get(kind, 0.0), _rms(array))
    return {
        name: _error(array, found[name], FLOOR * largest[name.split("/")[0]])
        for name, array in expected.items()
    }


def _rms(array: np.ndarray[Any, Any]) -> float:
    values = np.nan_to_num(array.astype(np.float64), posinf=0, neginf=0)
    return float(np.sqrt(np.mean(values**2))) if values.size else 0.0


def _error(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any], least_rms: float) -> float:
    if a.shape != b.shape or not np.array_equal(np.isnan(a), np.isnan(b)):
        return float("inf")
    same = (a == b) | np.isnan(a)
    difference = np.where(same, 0.0, a.astype(np.float64) - b.astype(np.float64))
    scale = max(_rms(a), least_rms) * np.sqrt(a.size)
    size = float(np.linalg.norm(difference))
    return size / float(scale) if scale else (float("inf") if size else 0.0)


def compare(
    chosen: Sequence[Case],
    expected: Mapping[str, Mapping[str, np.ndarray[Any, Any]]],
    found: Mapping[str, Mapping[str, np.ndarray[Any, Any]]],
) -> list[dict[str, Any]]:
    """A row for each case: its largest error and where; why not, where it didn't run."""
    rows = []
    for case in chosen:
        row: dict[str, Any] = {"case": case.name, "types": sorted(case.types)}
        missing = [
            side for side, ran in (("cpu", expected), ("gpu", found)) if case.name not in ran
        ]
        if missing:
            row |= {"same": False, "aborted_on": missing}
        else:
            each = errors(expected[case.name], found[case.name])
            worst = max(each, key=lambda name: each[name])
            row |= {"same": each[worst] <= TOLERANCE, "largest_error": each[worst], "of": worst}
        rows.append(row)
    return rows


def uncovered(chosen: Sequence[Case], layer_types: Sequence[str]) -> list[str]:
    """Types of a build that no case has and nothing excuses."""
    covered = set(NOT_COMPARED).union(*(case.types for case in chosen))
    return sorted(set(layer_types) - covered)

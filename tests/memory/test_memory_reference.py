"""The memory model against measured device memory: shapes, log line, bytes, for all 199 cases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lmdb
import pytest

from caffe_batch.memory import CaffeMemory
from caffe_batch.net import Sources, read_recipe
from caffe_batch.reporting.memory_table import memory_json
from caffe_batch.schema import caffe_pb2

CASES = json.loads((Path(__file__).parent.parent / "data" / "gpu_memory.json").read_text())["cases"]
IDS = [f"{case['name']}-{case['batch']}" for case in CASES]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The LMDB of the measured cases: 20 records of 3 x 19 x 23."""
    folder = tmp_path_factory.mktemp("records")
    with (
        lmdb.open(str(folder / "records_lmdb"), map_size=2**24) as env,
        env.begin(write=True) as transaction,
    ):
        datum = caffe_pb2.Datum(channels=3, height=19, width=23, data=bytes(3 * 19 * 23), label=1)
        for i in range(20):
            transaction.put(f"{i:08}".encode(), datum.SerializeToString())
    return folder


def predicted(case: dict[str, Any], folder: Path, data: Path) -> dict[str, Any]:
    """What ``caffe-batch memory --json`` says of a case."""
    (folder / "net.prototxt").write_text(case["net"])
    (folder / "solver.prototxt").write_text(case["solver"])
    recipe = read_recipe(folder / "net.prototxt", folder / "solver.prototxt")
    model = CaffeMemory(recipe, Sources((data,)))
    train, tests = model.train_net(), model.test_nets()
    return memory_json(train, tests, model.of(train, tests))


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_case_is_exact(case: dict[str, Any], tmp_path: Path, records: Path) -> None:
    found = predicted(case, tmp_path, records)
    assert {name: found["blobs"].get(name) for name in case["blob_shapes"]} == case["blob_shapes"]
    assert {name: found["params"].get(name) for name in case["param_shapes"]} == (
        case["param_shapes"]
    )
    # The log's last line is the test net's where there is one.
    lines = [found["log_memory_required_for_data"], *found["log_memory_required_for_data_tests"]]
    assert lines[-1] == case["log_memory_required_for_data"]
    assert found["device_bytes"]["after_build"] == case["device_bytes"]["after_build"]
    assert found["device_bytes"]["peak"] == case["device_bytes"]["after_two_updates"]


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_rows_sum_to_the_total(case: dict[str, Any], tmp_path: Path, records: Path) -> None:
    found = predicted(case, tmp_path, records)
    total = found["device_bytes"]["peak_with_tests"]
    assert sum(found["parts"].values()) == total
    assert sum(layer["bytes"] for layer in found["layers"]) == total
    kinds = [key for key in found["parts"] if key != "test_net"]
    for layer in found["layers"]:
        assert sum(layer[kind] for kind in kinds) == layer["bytes"]


def test_the_cases_are_all_there() -> None:
    assert len(CASES) == 199
    assert len({case["name"] for case in CASES}) == 107

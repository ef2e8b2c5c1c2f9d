"""The counting GPU, called as Caffe calls it; and the results of whole nets."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tools.count_gpu_memory.check import COMPARED, RESULTS, build_library, predicted
from tools.count_gpu_memory.nets import WholeNet, own_nets

RECORDED = json.loads(RESULTS.read_text())["nets"]

#: The calls that are made, in a process of its own: ctypes finds them in the preloaded library.
CALLS = """
import ctypes, json
gpu = ctypes.CDLL(None)
for name in ("counted_live", "counted_peak", "counted_peak_rounding"):
    getattr(gpu, name).restype = ctypes.c_size_t
def malloc(size):
    block = ctypes.c_void_p()
    return gpu.cudaMalloc(ctypes.byref(block), ctypes.c_size_t(size)), block
def accounts():
    return gpu.counted_live(), gpu.counted_peak(), gpu.counted_peak_rounding()
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which("cc"):
        pytest.skip("gpu.c needs a C compiler")
    return build_library(tmp_path_factory.mktemp("library"))


def answer(library: Path, code: str, limit: int | str = "") -> Any:
    """What ``code`` prints as JSON with the library preloaded."""
    done = subprocess.run(
        [sys.executable, "-c", CALLS + code],
        env={"LD_PRELOAD": str(library), "COUNT_GPU_MEMORY_LIMIT": str(limit)},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_requests_and_their_rounding_are_counted(library: Path) -> None:
    code = """
told = [accounts()]
blocks = [malloc(size)[1] for size in (700, 512, 4096001)]
told.append(accounts())
for block in blocks[1:]:
    gpu.cudaFree(block)
gpu.cudaFree(None)
told.append(accounts())
malloc(11)
told.append(accounts())
print(json.dumps(told))
"""
    total, rounding = 700 + 512 + 4096001, 324 + 0 + 511  # up to 1024, 512 and 4096512
    assert answer(library, code) == [
        [0, 0, 0],
        [total, total, rounding],
        [700, total, rounding],
        [711, total, rounding],
    ]


def test_a_full_gpu_says_so_and_takes_what_still_fits(library: Path) -> None:
    code = """
codes = [malloc(size)[0] for size in (600, 401, 400, 1)]
gpu.cudaGetErrorString.restype = ctypes.c_char_p
print(json.dumps([codes, accounts()[:2], gpu.cudaGetErrorString(2).decode()]))
"""
    assert answer(library, code, limit=1000) == [[0, 2, 0, 2], [1000, 1000], "out of memory"]


def test_memory_holds_what_is_copied_until_it_is_zeroed(library: Path) -> None:
    code = """
size = 50001
block = malloc(size)[1]
for first in (0, 17):
    there = ctypes.c_void_p(block.value + first)
    length = ctypes.c_size_t(size - first - 29)
    gpu.cudaMemset(block, 5, ctypes.c_size_t(size))
    gpu.cudaMemset(there, 0, length)
    read = ctypes.create_string_buffer(size)
    gpu.cudaMemcpy(read, block, ctypes.c_size_t(size), 4)
    expected = bytes([5]) * first + bytes(length.value) + bytes([5]) * 29
    assert read.raw == expected, first
print(json.dumps(gpu.cudaSetDevice(1)))
"""
    assert answer(library, code) == 101  # cudaErrorInvalidDevice: there is one GPU


def test_whole_nets_were_equal_to_the_byte() -> None:
    assert len({row["net"] for row in RECORDED}) >= 20
    assert len(RECORDED) >= 30
    assert [row for row in RECORDED if not row["equal"]] == []


@pytest.mark.parametrize("net", list(own_nets()), ids=lambda net: net.name)
def test_the_prediction_is_still_what_was_counted(net: WholeNet, tmp_path: Path) -> None:
    counted = {row["batch_size"]: row["counted"] for row in RECORDED if row["net"] == net.name}
    for size, job in net.jobs(tmp_path):
        found = predicted(job)
        assert found == {key: counted[size][key] for key in COMPARED}

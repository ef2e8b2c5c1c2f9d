"""The fixed cost of a GPU: the arithmetic, how it is remembered, and what happens without a GPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from caffe_batch.planning.budget import DEFAULT_RESERVE_BYTES
from caffe_batch.runtimes import Runtime
from caffe_batch.runtimes.machine import Gpu, Gpus, process_gpu_bytes
from caffe_batch.runtimes.reserve import (
    NET,
    SOLVER,
    Reserve,
    UnmeasuredError,
    default_reserve,
    fixed_bytes,
    learn_reserve,
    measure_reserve,
    recall,
    remember,
)

MIB = 2**20
SMALL = Gpu("GPU A", 8 * 2**30, 7 * 2**30)
LARGE = Gpu("GPU B", 80 * 2**30, 79 * 2**30)
BOTH = Gpus("NVML", "550.54", (SMALL, LARGE))


def test_what_is_left_without_caffes_requests() -> None:
    assert fixed_bytes(300 * 2**20, 4096) == 300 * 2**20 - 4096


@pytest.mark.parametrize("used", [0, 4096])
def test_a_figure_that_cant_be_the_process(used: int) -> None:
    with pytest.raises(UnmeasuredError, match=f"a process has {used} bytes of the GPU"):
        fixed_bytes(used, 4096)


def test_each_gpu_and_driver_is_remembered_apart(tmp_path: Path) -> None:
    file = tmp_path / "data" / "reserve.json"
    remember(file, BOTH, 0, 300)
    remember(file, BOTH, 1, 400)
    remember(file, BOTH, 0, 301)  # measured again
    assert (recall(file, BOTH, 0), recall(file, BOTH, 1)) == (301, 400)
    assert recall(file, Gpus("NVML", "551.0", (SMALL,)), 0) is None
    assert recall(file, Gpus("NVML", "550.54", (LARGE, SMALL)), 0) == 400
    assert [path.name for path in file.parent.iterdir()] == ["reserve.json"]


def test_no_such_gpu(tmp_path: Path) -> None:
    file = tmp_path / "reserve.json"
    remember(file, Gpus(), 0, 300)
    assert not file.exists()
    remember(file, BOTH, 0, 300)
    assert recall(file, Gpus(), 0) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"GPU A, driver 550.54": "much"}', "5", "\0"])
def test_a_damaged_file_counts_as_none(text: str, tmp_path: Path) -> None:
    file = tmp_path / "reserve.json"
    file.write_text(text)
    assert recall(file, BOTH, 0) is None
    remember(file, BOTH, 0, 300)
    assert recall(file, BOTH, 0) == 300


def test_the_assumption_without_a_measurement(home: Path) -> None:
    reserve = default_reserve()
    assert (reserve.bytes, reserve.measured) == (DEFAULT_RESERVE_BYTES, False)
    assert not home.exists()


def test_what_is_remembered_of_another_gpu_isnt_taken(home: Path) -> None:
    remember(home / "reserve.json", BOTH, 0, 300)
    assert list(json.loads((home / "reserve.json").read_text())) == ["GPU A, driver 550.54"]
    assert default_reserve().bytes == DEFAULT_RESERVE_BYTES


def test_a_runtime_that_cant_use_the_gpu(home: Path, runtime: Runtime) -> None:
    """The real child: it ends without having trained, and nothing is remembered."""
    reserve = measure_reserve(runtime, BOTH, number=999)
    assert reserve.bytes == DEFAULT_RESERVE_BYTES
    assert not reserve.measured
    assert reserve.problem == "the runtime could not train a tiny net on the GPU"
    assert not (home / "reserve.json").exists()


def test_real_caffe_trains_the_tiny_net(tmp_path: Path, pycaffe: Callable[..., str]) -> None:
    (tmp_path / "net.prototxt").write_text(NET)
    (tmp_path / "solver.prototxt").write_text(SOLVER)
    code = (
        "import caffe; caffe.set_mode_cpu(); s = caffe.SGDSolver('solver.prototxt'); s.step(2);"
        "print('updates', s.iter)"
    )
    assert pycaffe(code, cwd=tmp_path).split()[-2:] == ["updates", "2"]


def test_a_process_without_gpu_memory() -> None:
    assert process_gpu_bytes(999, 1) is None


def test_a_run_that_ran_out_of_memory_teaches_the_reserve(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = SMALL.free_bytes or 0
    monkeypatch.setattr("caffe_batch.runtimes.machine.gpus", lambda: BOTH)
    learn_reserve(0, free, free - 600 * MIB)
    assert default_reserve(0) == Reserve(600 * MIB + 1, measured=True)
    assert default_reserve(1) == Reserve(DEFAULT_RESERVE_BYTES, measured=False)
    learn_reserve(0, free, free - 550 * MIB)  # says less than is known
    remember(home / "reserve.json", BOTH, 0, 300 * MIB)  # measured by doctor, and not enough
    assert default_reserve(0) == Reserve(600 * MIB + 1, measured=True)


@pytest.mark.parametrize(
    ("free_before", "needed"),
    [
        (2 * 7 * 2**30, 7 * 2**30),  # half of it is gone: another program has it
        (7 * 2**30, 8 * 2**30),  # it was never enough
    ],
)
def test_a_run_that_teaches_nothing(
    free_before: int, needed: int, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("caffe_batch.runtimes.machine.gpus", lambda: BOTH)
    learn_reserve(0, free_before, needed)
    learn_reserve(5, free_before, needed)  # no such GPU
    assert not (home / "reserve.json").exists()

"""What a machine has, asked through stand-ins for other machines' programs and packages."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from caffe_batch.runtimes import machine
from caffe_batch.runtimes.machine import Gpu

GIB = 1024**3


@pytest.fixture
def without_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)


def test_nvml_answers_or_says_why_not() -> None:
    pytest.importorskip("pynvml", reason="needs nvidia-ml-py")
    found = machine.gpus()
    assert found.source == "NVML"
    assert bool(found.driver) != bool(found.problem)


@pytest.mark.usefixtures("without_nvml")
def test_nvidia_smi(program: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    smi = program("nvidia-smi", "printf '550.54, GPU A, 8192, 8000\\n550.54, GPU B, 1024, 7\\n'")
    monkeypatch.setenv("PATH", str(smi.parent), prepend=":")
    found = machine.gpus()
    assert (found.source, found.driver, found.problem) == ("nvidia-smi", "550.54", None)
    assert found.devices[0] == Gpu("GPU A", 8 * GIB, 8000 * 2**20)
    assert found.devices[1].name == "GPU B"


@pytest.mark.usefixtures("without_nvml")
def test_nvidia_smi_without_a_driver(
    program: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    smi = program("nvidia-smi", "echo NVIDIA-SMI has failed; echo more; exit 9")
    monkeypatch.setenv("PATH", str(smi.parent), prepend=":")
    found = machine.gpus()
    assert (found.devices, found.problem) == ((), "NVIDIA-SMI has failed")


@pytest.mark.usefixtures("without_nvml")
def test_neither_nvml_nor_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = machine.gpus()
    assert found.source is None
    assert found.problem == "neither nvidia-ml-py nor nvidia-smi is installed"


def test_gpu_whose_memory_is_not_reported() -> None:
    found = machine.read_nvidia_smi("550.54, GPU A, [N/A], [Insufficient Permissions]\n")
    assert found.devices == (Gpu("GPU A", None, None),)


def test_machine_with_a_driver_and_no_gpu() -> None:
    assert machine.read_nvidia_smi("\n").devices == ()


def test_extras_are_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "h5py.py").write_text("raise ImportError('libhdf5.so.9: cannot open')")
    (tmp_path / "plyvel.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("h5py", "plyvel"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    found = {extra.package: extra for extra in machine.extras()}
    assert [*found] == [
        "h5py", "pillow", "plyvel", "matplotlib", "nvidia-ml-py", "tensorboard"
    ]  # fmt: skip
    assert (found["h5py"].version, found["h5py"].problem) == (None, "libhdf5.so.9: cannot open")
    assert (found["matplotlib"].version, found["matplotlib"].problem) == (None, None)
    assert found["plyvel"].version is not None


def test_free_space_of_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert machine.free_space(tmp_path / "a/b/c") == pytest.approx(
        machine.free_space(tmp_path), rel=0.1
    )


def test_protobuf() -> None:
    version, kind = machine.protobuf().split()
    assert int(version.split(".")[0]) >= 4
    assert kind in {"(upb)", "(cpp)", "(python)"}


def test_free_host_memory_is_what_the_kernel_says_at_most() -> None:
    free = machine.free_host_bytes()
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert free is not None
    assert 0 < free <= total

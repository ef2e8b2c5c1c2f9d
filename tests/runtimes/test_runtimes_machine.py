"""What a machine has, asked through stand-ins for other machines' programs and packages."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from caffe_batch.errors import InputError
from caffe_batch.runtimes import machine
from caffe_batch.runtimes.machine import Gpu
from tests import fake_nvml
from tests.fake_nvml import GIB, LARGE, OTHER, SMALL


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
    smi = program(
        "nvidia-smi", "printf '550.54, GPU A, 8192, 8000, GPU-a\\n550.54, GPU B, 1024, 7, GPU-b\\n'"
    )
    monkeypatch.setenv("PATH", str(smi.parent), prepend=":")
    found = machine.gpus()
    assert (found.source, found.driver, found.problem) == ("nvidia-smi", "550.54", None)
    assert found.devices[0] == Gpu("GPU A", 8 * GIB, 8000 * 2**20, 0, "GPU-a")
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
    found = machine.read_nvidia_smi("550.54, GPU A, [N/A], [Insufficient Permissions], GPU-a\n")
    assert found.devices == (Gpu("GPU A", None, None, 0, "GPU-a"),)


def test_machine_with_a_driver_and_no_gpu() -> None:
    assert machine.read_nvidia_smi("\n").devices == ()


def test_extras_are_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "h5py.py").write_text("raise ImportError('libhdf5.so.9: cannot open')")
    (tmp_path / "plyvel.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("h5py", "plyvel"):  # set first, so that what was there comes back, also nothing
        monkeypatch.setitem(sys.modules, name, None)
        del sys.modules[name]
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


# CUDA's numbers


@pytest.mark.parametrize(
    ("visible", "order"),
    [
        (None, [0, 1, 2]),
        ("1", [1]),
        ("2,0", [2, 0]),
        (" 2 , 0 ", [2, 0]),
        ("1,3,0", [1]),  # CUDA stops at the first that isn't there
        ("1,-1,0", [1]),
        ("1,1,0", [1]),
        (LARGE.uuid, [1]),
        ("GPU-1a5,GPU-7", [1, 2]),
        ("GPU-1a,GPU-7", []),  # it fits two
        ("0,GPU-7", [0, 2]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
    ],
)
def test_cuda_counts_what_it_is_shown(
    visible: str | None, order: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_nvml.install(monkeypatch, SMALL, LARGE, OTHER)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [gpu.number for gpu in machine.cuda_gpus().devices] == order
    for number, index in enumerate(order):
        free = (SMALL, LARGE, OTHER)[index].free_bytes
        assert machine.free_gpu_bytes(number) == free
        assert machine.process_gpu_bytes(number, os.getpid()) == (11, 22, 33)[index]
    with pytest.raises(InputError, match=f"the free memory of GPU {len(order)} is unknown"):
        machine.free_gpu_bytes(len(order))
    assert machine.process_gpu_bytes(len(order), os.getpid()) is None


def test_all_gpus_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvml.install(monkeypatch, SMALL)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    with pytest.raises(InputError, match="CUDA_VISIBLE_DEVICES=7 hides all GPUs") as caught:
        machine.free_gpu_bytes()
    assert [(each.name, each.value) for each in caught.value.remedies] == [("gpu_memory", "8GiB")]


def test_an_instance_of_mig_is_counted_and_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvml.install(monkeypatch, SMALL, LARGE)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-12345,1")
    assert machine.free_gpu_bytes(1) == LARGE.free_bytes
    with pytest.raises(InputError, match="GPU 0 is unknown: not reported"):
        machine.free_gpu_bytes(0)
    assert machine.process_gpu_bytes(0, os.getpid()) is None


@pytest.mark.parametrize("visible", [None, "1,0", f"1,{SMALL.uuid}"])
def test_the_fastest_first_of_different_models_is_unknown(
    visible: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_nvml.install(monkeypatch, SMALL, LARGE)
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(InputError, match="with PCI_BUS_ID it counts them as nvidia-smi does"):
        machine.free_gpu_bytes()


def test_the_fastest_first_of_one_model_or_by_uuid_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_nvml.install(monkeypatch, SMALL, OTHER)
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    assert machine.free_gpu_bytes(1) == OTHER.free_bytes
    fake_nvml.install(monkeypatch, SMALL, LARGE)
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", f"{LARGE.uuid},{SMALL.uuid}")
    assert machine.free_gpu_bytes(0) == LARGE.free_bytes

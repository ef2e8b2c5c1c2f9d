"""What is reported as missing, on many kinds of machine."""

from __future__ import annotations

from dataclasses import replace

import pytest

from caffe_batch.engines.base import RuntimeInfo
from caffe_batch.runtimes.doctor import Examination, missing_items
from caffe_batch.runtimes.machine import Extra, Gpu, Gpus
from caffe_batch.runtimes.reserve import Reserve

INFO = RuntimeInfo(
    engine_version="1.0.0",
    module_path="/x/caffe/__init__.py",
    python_version="3.9.2",
    numpy_version="1.19.5",
    gpu=True,
    gpu_problem=None,
    nccl=True,
    layer_types=("Data",),
    import_s=1.5,
)

HEALTHY = Examination(
    system="Linux",
    python="3.12.1",
    protobuf="5.0 (upb)",
    data_directory="/home/me/.local/share/caffe-batch",
    free_bytes=10**12,
    missing_tools=(),
    runtime="debian-11",
    runtime_info=INFO,
    runtime_problem=None,
    installed={"debian-11": "1.0.0"},
    gpus=Gpus("NVML", "550.54", (Gpu("GPU A", 8 * 1024**3, 7 * 1024**3),)),
    reserve=Reserve(300 * 2**20, measured=True),
    extras=(Extra("h5py", "reading HDF5", "hdf5", "3.8"),),
)

NO_RUNTIME = replace(HEALTHY, runtime=None, runtime_info=None, runtime_problem="none at all")


def only(found: Examination) -> tuple[str, str, str]:
    (item,) = missing_items(found)
    return item.what, item.needed_for, item.remedy


def test_healthy_machine() -> None:
    assert missing_items(HEALTHY) == []


def test_no_runtime() -> None:
    expected = ("a runtime (none at all)", "train", "caffe-batch runtime install")
    assert only(NO_RUNTIME) == expected


def test_no_runtime_and_no_apt() -> None:
    remedy = only(replace(NO_RUNTIME, missing_tools=("apt-get", "dpkg-deb")))[2]
    assert remedy == (
        "with --runtime /path/to/python, name a Python that can import caffe"
        " (an install needs apt-get and dpkg-deb)"
    )


def test_no_runtime_and_no_space() -> None:
    remedy = only(replace(NO_RUNTIME, free_bytes=100 * 2**20))[2]
    assert remedy.endswith("once there is space: it needs 800 MiB, and 100 MiB are free")


def test_gpu_and_a_caffe_without() -> None:
    found = replace(HEALTHY, runtime_info=replace(INFO, gpu=False))
    assert only(found)[:2] == (
        "a Caffe with GPU code",
        "training on this machine's GPU (until then, train uses the CPU)",
    )


def test_gpu_that_caffe_cannot_use() -> None:
    found = replace(HEALTHY, runtime_info=replace(INFO, gpu_problem="driver too old"))
    assert only(found)[0] == "a GPU that Caffe can use (driver too old)"


def test_no_information_about_gpus() -> None:
    found = replace(HEALTHY, gpus=Gpus(problem="no driver"))
    assert only(found)[1] == "--gpu-memory auto and --gpu-memory 80%"


@pytest.mark.parametrize(("problem", "what"), [(None, "h5py"), ("no library", "h5py (no library)")])
def test_missing_package(problem: str | None, what: str) -> None:
    extra = Extra("h5py", "reading HDF5", "hdf5", problem=problem)
    expected = (what, "reading HDF5", "pip install 'caffe-batch[hdf5]'")
    assert only(replace(HEALTHY, extras=(extra,))) == expected

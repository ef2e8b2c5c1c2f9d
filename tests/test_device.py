"""The device that a training runs on, and its spelling in files."""

from __future__ import annotations

import pytest

from caffe_batch.device import Device


@pytest.mark.parametrize("device", [Device.CPU, Device(0), Device(12)])
def test_what_is_written_is_read(device: Device) -> None:
    assert Device.parse(str(device)) == device


def test_spelling_of_job_json() -> None:
    assert [str(Device.CPU), str(Device(3))] == ["CPU", "GPU 3"]
    assert Device.CPU.is_cpu
    assert not Device(0).is_cpu  # number 0 is a GPU like any other


@pytest.mark.parametrize("text", ["", "cpu", "GPU", "GPU ", "GPU -1", "GPU 1 ", "GPU ٣"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a device"):
        Device.parse(text)

"""``memory`` and ``plan`` for other builds of Caffe and several GPUs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from caffe_batch.sizes import format_size
from tests.command import call

NET = """
layer { name: "data" type: "Input" top: "data" top: "label"
  input_param { shape { dim: 4 dim: 3 dim: 7 dim: 11 } shape { dim: 4 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 6 kernel_size: 3 } }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
  inner_product_param { num_output: 5 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
WORKSPACES = 24 * 2**20


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "net.prototxt").write_text(NET)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_json_of_each_build() -> None:
    for build in ("caffe", "cudnn", "nvcaffe"):
        found = json.loads(call("memory", "net.prototxt", "--build", build, "--json").out)
        device = found["device_bytes"]
        assert found["build"] == build
        assert device["rounding"] > 0
        uncertain = device["peak"] - device["peak_lower"]
        assert (uncertain > 0) == (build != "caffe")
        if build == "cudnn":
            assert uncertain == WORKSPACES


def test_the_line_about_rounding() -> None:
    device = json.loads(call("memory", "net.prototxt", "--json").out)["device_bytes"]
    said = call("memory", "net.prototxt").out
    assert f"cudaMalloc rounds that up by {format_size(device['rounding'])} (" in said
    assert "cudaMalloc" not in call("memory", "net.prototxt", "--mode", "cpu").out


def test_bounds_are_said() -> None:
    said = call("memory", "net.prototxt", "--build", "cudnn").out
    device = json.loads(
        call("memory", "net.prototxt", "--build", "cudnn", "--json").out
    )["device_bytes"]  # fmt: skip
    assert f"Caffe requests {format_size(device['peak_lower'])} to " in said
    assert "Caffe's limit" in said
    assert "estimates" in call("memory", "net.prototxt", "--build", "nvcaffe").out


def test_plan_for_a_build() -> None:
    options = ("--gpu-memory", "1GiB", "--effective-batch", 8, "--json")
    plan = json.loads(call("plan", "net.prototxt", *options, "--build", "cudnn").out)
    plain = json.loads(call("plan", "net.prototxt", *options).out)
    assert (plan["build"], plain["build"]) == ("cudnn", "caffe")
    assert plan["engine"] == "caffe"
    assert plan["predicted_peak_bytes"] - plain["predicted_peak_bytes"] > 0.9 * WORKSPACES
    assert (len(plan["notes"]), plain["notes"]) == (1, [])
    assert plan["notes"][0] in " ".join(
        call("plan", "net.prototxt", *options[:-1], "--build", "cudnn").out.split()
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--build", "cudnn", "--mode", "cpu"), "build cudnn is for GPUs, and this is CPU mode"),
        (("--half",), "Caffe 1.0 has no half precision"),
    ],
)
def test_what_doesnt_go_together(options: tuple[str, ...], message: str) -> None:
    for command in (("memory",), ("plan", "--gpu-memory", "1GiB")):
        done = call(*command, "net.prototxt", *options)
        assert done.code == 2
        assert message in done.err


def test_engine_of_the_file_in_a_build_without_it(folder: Path) -> None:
    (folder / "net.prototxt").write_text(
        NET.replace("kernel_size: 3", "kernel_size: 3 engine: CUDNN")
    )
    done = call("plan", "net.prototxt", "--gpu-memory", "1GiB")
    assert done.code == 2
    assert "layer 'conv': a Caffe built without cuDNN doesn't know" in done.err
    assert "--build cudnn" in done.err


@pytest.mark.parametrize("build", ["cudnn", "nvcaffe"])
@pytest.mark.parametrize("command", ["memory", "plan", "strategies", "train"])
def test_the_old_spelling_of_a_build_names_the_new_one(command: str, build: str) -> None:
    done = call(command, "net.prototxt", "--engine", build)
    assert done.code == 2
    assert f"--build {build}" in done.err


def test_an_engine_that_there_is_not() -> None:
    done = call("plan", "net.prototxt", "--engine", "cafe", "--gpu-memory", "1GiB")
    assert done.code == 2
    assert "'caffe'" in done.err

"""``caffe-batch memory``, called as a user or another program calls it."""

from __future__ import annotations

import io
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from caffe_batch.memory import predict
from caffe_batch.reporting.memory_table import memory_table
from caffe_batch.sizes import format_size, parse_size
from tests.command import PROGRAM, call, spawn, tree

NET = """\
layer { name: "data" type: "Input" top: "data" top: "label" include { phase: TRAIN }
  input_param { shape { dim: 4 dim: 3 dim: 7 dim: 11 } shape { dim: 4 } } }
layer { name: "data" type: "Input" top: "data" top: "label" include { phase: TEST }
  input_param { shape { dim: 10 dim: 3 dim: 7 dim: 11 } shape { dim: 10 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 6 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
SOLVER = """\
net: "net.prototxt"
base_lr: 0.1  lr_policy: "fixed"  max_iter: 50
test_iter: 3  test_interval: 10
"""
PARTS = (
    "activations", "gradients", "parameters", "solver_state", "layer_buffers", "data_prefetch",
    "test_net",
)  # fmt: skip
PARAMETERS = 6 * 3 * 3 * 3 + 6 + 5 * (6 * 5 * 9) + 5  # floats


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "net.prototxt").write_text(NET)
    (tmp_path / "solver.prototxt").write_text(SOLVER)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def memory_json(*args: object) -> dict[str, Any]:
    done = call("memory", *args, "--json")
    assert done.code == 0, done.err
    answer: dict[str, Any] = json.loads(done.out)
    return answer


def rows(table: str) -> dict[str, list[str]]:
    """The table's cells by layer name; empty cells are left out."""
    lines = table.partition("\n\n")[0].splitlines()[1:]
    return {cells[0]: cells[1:] for line in lines if (cells := re.split(r"\s{2,}", line.strip()))}


@pytest.mark.parametrize("mode", ["gpu", "cpu"])
@pytest.mark.parametrize("net", ["net.prototxt", "solver.prototxt"])
def test_the_promised_json(folder: Path, net: str, mode: str) -> None:
    found = memory_json(net, "--mode", mode)
    assert found["mode"] == mode
    assert found["batch_size"] == 4
    device = found["device_bytes"]
    assert type(device["after_build"]) is type(device["peak"]) is int
    assert 0 <= device["after_build"] <= device["peak"] <= device["peak_with_tests"]
    assert set(found["parts"]) == set(PARTS)
    assert all(type(size) is int and size >= 0 for size in found["parts"].values())
    assert sum(found["parts"].values()) == device["peak_with_tests"]
    assert found["blobs"] == {
        "data": [4, 3, 7, 11], "label": [4], "conv": [4, 6, 5, 9], "ip": [4, 5], "loss": [],
    }  # fmt: skip
    assert found["params"] == {"conv": [[6, 3, 3, 3], [6]], "ip": [[5, 270], [5]]}
    tops = ["data", "label", "conv", "conv", "ip", "loss"]  # Caffe's log counts in-place twice
    assert found["log_memory_required_for_data"] == 4 * sum(
        math.prod(found["blobs"][top]) for top in tops
    )
    assert sum(layer["bytes"] for layer in found["layers"]) == device["peak_with_tests"]
    for layer in found["layers"]:
        assert type(layer["name"]) is type(layer["type"]) is str
        assert layer["bytes"] == sum(layer.get(part, 0) for part in PARTS)
    train = [layer["name"] for layer in found["layers"] if layer["net"] == "train"]
    assert train == ["data", "conv", "relu", "ip", "loss"]
    assert (found["unknown_layers"], found["lower_bound"]) == ([], False)


def test_a_net_alone_has_no_test_net(folder: Path) -> None:
    alone, whole = memory_json("net.prototxt"), memory_json("solver.prototxt")
    assert alone["parts"]["test_net"] == 0 < whole["parts"]["test_net"]
    assert {layer["net"] for layer in alone["layers"]} == {"train"}
    assert {layer["net"] for layer in whole["layers"]} == {"train", "test0"}


def test_the_solver_decides_its_state(folder: Path) -> None:
    (folder / "adam.prototxt").write_text(SOLVER.replace("net.prototxt", "gone") + "type: 'Adam'")
    sgd = memory_json("net.prototxt")["parts"]
    adam = memory_json("net.prototxt", "--solver", "adam.prototxt")["parts"]
    assert (sgd["solver_state"], adam["solver_state"]) == (4 * PARAMETERS, 8 * PARAMETERS)
    assert sgd["parameters"] == 8 * PARAMETERS


def test_batch_size(folder: Path) -> None:
    small, large = (memory_json("net.prototxt", "--batch-size", size) for size in (5, 15))
    assert (small["batch_size"], large["batch_size"]) == (5, 15)
    assert large["blobs"]["conv"] == [15, 6, 5, 9]
    assert large["parts"]["activations"] == 3 * small["parts"]["activations"] - 2 * 4  # the loss
    assert large["parts"]["parameters"] == small["parts"]["parameters"]


def test_input_shape(folder: Path) -> None:
    found = memory_json("net.prototxt", "--input-shape", "data=2x5x6")
    assert found["blobs"]["data"] == [4, 2, 5, 6]
    assert found["blobs"]["conv"] == [4, 6, 3, 4]


@pytest.mark.parametrize("mode", ["gpu", "cpu"])
def test_the_table_says_what_the_json_says(folder: Path, mode: str) -> None:
    done = call("memory", "solver.prototxt", "--mode", mode)
    assert (done.code, done.err) == (0, "")
    found = memory_json("solver.prototxt", "--mode", mode)
    total = found["device_bytes"]["peak_with_tests"]
    table = rows(done.out)
    for layer in found["layers"]:
        name = layer["name"] + ("" if layer["net"] == "train" else f" ({layer['net']})")
        share = f"{layer['bytes'] / total:.1%}"
        assert table[name][0] == layer["type"]
        assert table[name][-2:] == [format_size(layer["bytes"]), share]
    assert table["total"][-2:] == [format_size(total), "100.0%"]
    place = "device" if mode == "gpu" else "host"
    built = format_size(found["device_bytes"]["after_build"])
    assert (
        f"\nCaffe requests {format_size(total)} of {place} memory ({total:,} bytes, "
        f"including a test), {built} of it while it builds the nets.\n"
    ) in done.out


def test_top(folder: Path) -> None:
    layers = memory_json("net.prototxt")["layers"]
    largest = sorted(layers, key=lambda layer: layer["bytes"], reverse=True)[:2]
    table = rows(call("memory", "net.prototxt", "--top", 2).out)
    names = [layer["name"] for layer in largest]
    assert list(table) == [*names, f"{len(layers) - 2} more", "total"]
    assert table[f"{len(layers) - 2} more"][-2] == format_size(
        sum(layer["bytes"] for layer in layers if layer not in largest)
    )
    assert len(rows(call("memory", "net.prototxt", "--top", 99).out)) == len(layers) + 1


@pytest.mark.parametrize("width", [140, 80, 60, 45])
def test_on_a_narrow_terminal_small_parts_add_up(folder: Path, width: int) -> None:
    """The sums are always there, and the columns of each row add up to them."""
    prediction = predict("net.prototxt", "solver.prototxt")
    console = Console(file=io.StringIO(), width=width)
    console.print(memory_table(prediction, width=width))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= width
    head = lines[0].split()
    assert head[-2:] == ["sum", "share"]
    assert ("others" in head) == (width in (60, 80))
    assert [line.split()[-1] for line in lines[-1:]] == ["100.0%"]
    cells = re.split(r"\s{2,}", lines[-1].strip())[1:]
    *parts, total = (parse_size(cell) for cell in cells[:-1])
    assert len(parts) == len(head) - 4
    assert not parts or sum(parts) == pytest.approx(total, rel=0.01)
    assert total == pytest.approx(prediction.peak_bytes, rel=0.01)


def test_unknown_types_make_a_lower_bound(folder: Path) -> None:
    known = memory_json("net.prototxt")
    text = NET.replace('type: "ReLU"', 'type: "Maxout"')
    text = text.replace('name: "loss"', 'name: "loss" loss_weight: 1')
    text += 'layer { name: "mine" type: "Python" bottom: "ip" top: "mine" }'
    (folder / "net.prototxt").write_text(text)
    found = memory_json("net.prototxt", "--allow-unknown")
    assert (found["unknown_layers"], found["lower_bound"]) == (["relu", "mine"], True)
    assert found["blobs"]["conv"] == known["blobs"]["conv"]  # in place: the shape stays
    assert found["blobs"]["mine"] == []  # read by no layer
    sized = memory_json("net.prototxt", "--allow-unknown", "--input-shape", "mine=8x2")
    assert sized["blobs"]["mine"] == [4, 8, 2]
    table = call("memory", "net.prototxt", "--allow-unknown").out
    assert "Caffe requests at least " in table
    assert "relu, mine" in table.splitlines()[-1]


def test_what_reads_an_unknown_layer_needs_its_shape(folder: Path) -> None:
    text = NET.replace(
        'type: "ReLU" bottom: "conv" top: "conv"', 'type: "Python" bottom: "conv" top: "mine"'
    ).replace('"InnerProduct" bottom: "conv"', '"InnerProduct" bottom: "mine"')
    (folder / "net.prototxt").write_text(text)
    done = call("memory", "net.prototxt", "--allow-unknown")
    assert done.code == 2
    assert done.err == (
        "caffe-batch: other layers read tops whose shapes are not known: 'mine' of 'relu' (Python)"
        "\nSizes are without the batch; one number per record is 1. mine:RxC is a shape with its "
        "first axis, mine:NxC one whose first axis is the batch.\n"
        "All in one: caffe-batch memory net.prototxt --allow-unknown --input-shape mine=CxHxW\n"
    )
    found = memory_json("net.prototxt", "--allow-unknown", "--input-shape", "mine=3x2x2")
    assert found["blobs"]["mine"] == [4, 3, 2, 2]
    assert found["params"]["ip"] == [[5, 12], [5]]


def test_unknown_fields_are_warnings_on_request(folder: Path) -> None:
    (folder / "net.prototxt").write_text(NET.replace("num_output: 5", "num_output: 5 fancy: 1"))
    assert call("memory", "net.prototxt").code == 2
    done = call("memory", "net.prototxt", "--allow-unknown-fields", "--json")
    assert done.code == 0
    assert done.err == (
        "warning: net.prototxt:9: skipped fancy: InnerProductParameter of Caffe 1.0 has no such "
        "field\n"
    )
    assert json.loads(done.out)["params"]["ip"] == [[5, 270], [5]]


@pytest.mark.parametrize(
    "name",
    [
        "[/b]",
        "[bold red]x",
        "größe-名前 😀",
        ":fire:",
        "x" * 500,
        "%s {0} \\\\n",
        "a\\nb",
        "-- --top",
    ],
)
def test_names_are_printed_as_they_are(folder: Path, name: str) -> None:
    """Names may look like markup, be long or hold anything; the figures don't change."""
    before = call("memory", "net.prototxt", "--json").out
    (folder / "net.prototxt").write_text(NET.replace('name: "conv"', f'name: "{name}"'))
    done = call("memory", "net.prototxt")
    assert done.code == 0, done.err
    if len(name) < 100 and "\\" not in name:
        assert f"\n{name} " in done.out
    found, expected = memory_json("net.prototxt"), json.loads(before)
    assert found["parts"] == expected["parts"]
    assert max(map(len, done.out.splitlines())) <= 140


def test_a_template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = call("memory", "resnet50", "--input-shape", "data=3x256x256", "--json")
    assert found.code == 0
    assert found.err.startswith("note: template resnet50 with its defaults; ")
    answer = json.loads(found.out)
    assert answer["blobs"]["data"] == [256, 3, 224, 224]  # cropped
    assert answer["params"]["fc1000"] == [[1000, 2048], [1000]]
    assert tree(tmp_path) == {}


def test_as_a_real_child(folder: Path) -> None:
    done = spawn(PROGRAM, "memory", "solver.prototxt", "--json", cwd=folder)
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out) == memory_json("solver.prototxt")


def test_the_shapes_are_those_of_real_caffe(folder: Path, pycaffe: Any) -> None:
    printed = pycaffe(
        "import caffe, json\n"
        "solver = caffe.get_solver('solver.prototxt')\n"
        "net = solver.net\n"
        "print(json.dumps([{n: list(b.shape) for n, b in net.blobs.items()},"
        " {n: [list(b.shape) for b in p] for n, p in net.params.items()}]))",
        cwd=folder,
    )
    found = memory_json("solver.prototxt")
    assert [found["blobs"], found["params"]] == json.loads(printed)

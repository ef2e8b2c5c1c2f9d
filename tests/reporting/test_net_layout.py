"""A net as boxes and arrows: what stands in a box, what reads what, and that nothing overlaps."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

import caffe_batch as cb
from caffe_batch.errors import InputError
from caffe_batch.reporting import net_picture
from caffe_batch.reporting.net_layout import Drawing, Role, drawing

NET = """
name: "two branches"
layer { name: "data" type: "DummyData" top: "data" top: "label"
        dummy_data_param { shape { dim: 4 dim: 3 dim: 8 dim: 8 } shape { dim: 4 } } }
layer { name: "one" type: "Convolution" bottom: "data" top: "one" param { lr_mult: 0 }
        param { lr_mult: 0 } convolution_param { num_output: 2 kernel_size: 1 } }
layer { name: "two" type: "Convolution" bottom: "data" top: "two"
        convolution_param { num_output: 2 kernel_size: 1 } }
layer { name: "relu" type: "ReLU" bottom: "two" top: "two" }
layer { name: "sum" type: "Eltwise" bottom: "one" bottom: "two" top: "sum" }
layer { name: "bn" type: "BatchNorm" bottom: "sum" top: "sum" }
layer { name: "ip" type: "InnerProduct" bottom: "sum" top: "ip"
        inner_product_param { num_output: 5 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "net.prototxt"
    path.write_text(NET)
    return path


def laid_out(net: Path) -> Drawing:
    found = cb.memory(net)
    return drawing(found.train, {row.name: row.bytes for row in found.layers})


def test_a_box_holds_the_layers_in_place_and_no_box_a_split(net: Path) -> None:
    found = laid_out(net)
    titles = [box.title for box in found.boxes]
    assert titles == [
        "data (DummyData)", "one (Convolution)", "two (Convolution)", "sum (Eltwise)",
        "ip (InnerProduct)", "loss (SoftmaxWithLoss)",
    ]  # fmt: skip
    assert [box.role for box in found.boxes] == [
        Role.DATA, Role.FROZEN, Role.LEARNED, Role.PLAIN, Role.LEARNED, Role.LOSS,
    ]  # fmt: skip
    assert found.boxes[2].lines[:2] == ("+ relu (ReLU)", "two: 4 x 2 x 8 x 8")
    assert found.boxes[2].lines[2].startswith("8 parameters, ")
    assert found.boxes[3].lines[0] == "+ bn (BatchNorm)"
    assert found.boxes[5].lines[0] == "loss: scalar"


def test_arrows_lead_from_what_makes_a_blob_to_what_reads_it(net: Path) -> None:
    assert set(laid_out(net).arrows) == {(0, 1), (0, 2), (1, 3), (2, 3), (3, 4), (4, 5), (0, 5)}


def test_the_bytes_of_all_boxes_are_those_of_the_net(net: Path) -> None:
    found = cb.memory(net)
    shown = drawing(found.train, {row.name: 1 for row in found.layers})
    assert sum(int(box.lines[-1].split()[-2]) for box in shown.boxes) == sum(
        row.type != "Split" for row in found.layers
    )


@pytest.mark.parametrize("name", ["googlenet", "resnet50", "unet", "inception_v3", "lstm"])
def test_each_box_stands_below_what_it_reads_and_beside_no_other(tmp_path: Path, name: str) -> None:
    net = tmp_path / "net.prototxt"
    net.write_text(cb.render(name, {"data": "dummy", "batch_size": 1}))
    found = laid_out(net)
    rows = [row for _, row in found.places]
    assert all(rows[source] < rows[target] for source, target in found.arrows)
    for row in set(rows):
        columns = sorted(column for column, other in found.places if other == row)
        assert all(right - left >= 1 for left, right in pairwise(columns))


@pytest.mark.parametrize(("ending", "start"), [("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_the_picture(net: Path, tmp_path: Path, ending: str, start: bytes) -> None:
    picture = cb.memory(net).draw(tmp_path / f"net.{ending}")
    content = picture.read_bytes()
    assert content.startswith(start)
    if ending == "svg":
        assert b"two branches, TRAIN" in content


def test_what_cant_be_drawn(net: Path, tmp_path: Path) -> None:
    found = cb.memory(net)
    with pytest.raises(InputError, match=r"must end in \.png or \.svg"):
        found.draw(tmp_path / "net.pdf")
    with pytest.raises(InputError, match="the files have no test net"):
        found.draw(tmp_path / "net.svg", phase="test")
    assert not (tmp_path / "net.svg").exists()


TESTED = """
layer { name: "data" type: "DummyData" top: "data" top: "label" include { phase: TRAIN }
        dummy_data_param { shape { dim: 4 dim: 3 } shape { dim: 4 } } }
layer { name: "data" type: "DummyData" top: "data" top: "label" include { phase: TEST }
        dummy_data_param { shape { dim: 9 dim: 3 } shape { dim: 9 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
        inner_product_param { num_output: 5 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


def boxes_of_the_test_net(files: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """What the box of the data says."""
    seen: list[Drawing] = []
    monkeypatch.setattr(
        net_picture, "write_net_picture", lambda found, *_, **__: seen.append(found)
    )
    cb.memory(files).draw(files.with_suffix(".svg"), phase="test")
    (found,) = seen
    assert found.boxes[0].title == "data (DummyData)"
    return found.boxes[0].lines


def test_the_test_net_of_a_file_without_a_solver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = tmp_path / "net.prototxt"
    net.write_text(TESTED)
    shape, label, size = boxes_of_the_test_net(net, monkeypatch)
    assert (shape, label) == ("data: 9 x 3", "label: 9")
    assert size == f"{4 * (9 * 3 + 9)} B"


def test_of_several_test_nets_the_first_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its own bytes, though another one's layers have the same names."""
    (tmp_path / "net.prototxt").write_text(TESTED)
    (tmp_path / "large.prototxt").write_text(TESTED.replace("dim: 9", "dim: 900"))
    solver = tmp_path / "solver.prototxt"
    solver.write_text(
        'train_net: "net.prototxt" test_net: "net.prototxt" test_net: "large.prototxt" '
        'test_iter: 1 test_iter: 1 test_interval: 1 base_lr: 0.1 lr_policy: "fixed" max_iter: 9'
    )
    assert boxes_of_the_test_net(solver, monkeypatch)[-1] == f"{4 * (9 * 3 + 9)} B"


def test_averages_are_no_parameters_and_learned_inputs_no_data(tmp_path: Path) -> None:
    net = tmp_path / "net.prototxt"
    in_place = """
layer { name: "bn" type: "BatchNorm" bottom: "data" top: "data" }
layer { name: "scale" type: "Scale" bottom: "data" top: "data" }
"""
    before, ip, after = TESTED.partition('layer { name: "ip"')
    net.write_text(before + in_place + ip + after)
    data = laid_out(net).boxes[0]
    assert data.role is Role.LEARNED
    assert data.lines[-1].startswith("3 parameters, ")

"""``--fork``: chosen or guessed, said, in the JSON, and remembered by a job."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.job_recipe import read_job_stages
from caffe_batch.layers.forks.bn import BN, SegNetBN
from tests.command import call

NET = """
layer { name: "data" type: "Input" top: "data" top: "label"
  input_param { shape { dim: 12 dim: 3 dim: 4 dim: 6 } shape { dim: 12 } } }
layer { name: "bn" type: "BN" bottom: "data" top: "bn" }
layer { name: "same" type: "Interp" bottom: "bn" top: "same" interp_param { zoom_factor: 2 } }
layer { name: "ip" type: "InnerProduct" bottom: "same" top: "ip"
  inner_product_param { num_output: 5 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "net.prototxt"
    path.write_text(NET)
    return path


def test_the_guess_is_a_note_and_in_the_json(net: Path) -> None:
    done = call("memory", net, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["fork"] == {
        "name": "pspnet",
        "given": False,
        "evidence": ["BN", "Interp", "interp_param"],
    }
    assert found["params"]["bn"] == [[1, 3, 1, 1]] * 4
    assert (
        "note: BN, Interp, interp_param: read as in the fork pspnet (--fork chooses another one)"
        in done.err
    )


def test_the_user_chooses_another_fork(net: Path) -> None:
    done = call("memory", net, "--json", "--fork", "segnet")
    found = json.loads(done.out)
    assert found["fork"] == {
        "name": "segnet",
        "given": True,
        "evidence": ["BN", "Interp", "interp_param"],
    }
    assert found["params"]["bn"] == [[1, 3, 1, 1]] * 2
    assert "(as --fork says)" in done.err


def test_a_fork_that_doesnt_exist_is_named(net: Path) -> None:
    refused = call("memory", net, "--fork", "segnett")
    assert refused.code == 2
    assert refused.err.startswith(
        "caffe-batch: --fork is not one of the forks that differ: 'segnett'"
    )
    assert "segnet" in refused.err.splitlines()[1]
    unlike = call("memory", net, "--fork", "x")
    assert "They are ssd, rcnn, deeplab, segnet, pspnet, nvcaffe, c3d." in unlike.err


@pytest.mark.parametrize(("options", "rule"), [((), BN), (("--fork", "segnet"), SegNetBN)])
def test_a_job_remembers_its_fork(net: Path, options: tuple[str, ...], rule: type) -> None:
    out = net.parent / "job"
    done = call(
        "plan", net, "--gpu-memory", "1GiB", "--effective-batch", 12, *options, "--out", out
    )
    assert done.code == 0, done.err
    job = JobDirectory(out)
    (stage,) = read_job_stages(job, job.read_plan())
    assert type(stage.recipe.train.rules["BN"]) is rule
    content = json.loads((out / "plan.json").read_text())
    assert content["fork"]["given"] == bool(options)
    # A plan of a version that knew no forks guesses again; an unknown name counts as none.
    for change in ({"fork": None}, {"fork": {"name": "of-tomorrow"}}):
        (out / "plan.json").write_text(json.dumps({**content, **change}))
        (again,) = read_job_stages(job, job.read_plan())
        assert type(again.recipe.train.rules["BN"]) is BN


def test_a_net_of_caffe_1_has_no_fork(net: Path) -> None:
    net.write_text(NET.replace('type: "BN"', 'type: "ReLU"').replace("Interp", "Pooling").replace(
        "interp_param { zoom_factor: 2 }", "pooling_param { kernel_size: 2 }"))  # fmt: skip
    done = call("memory", net, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["fork"] is None
    assert "fork" not in done.err


def test_the_size_of_a_forks_images_is_asked_by_the_name_of_the_top(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text("""
layer { name: "images" type: "DenseImageData" top: "picture" top: "classes"
  dense_image_data_param { source: "list.txt" batch_size: 2 } }
layer { name: "loss" type: "EuclideanLoss" bottom: "picture" bottom: "picture" top: "loss" }
layer { name: "quiet" type: "Silence" bottom: "classes" }
""")
    done = call("memory", path)
    assert done.code == 2
    assert "layer 'images': the size of its records is not known" in done.err
    assert "Give it: --input-shape picture=CxHxW." in done.err


PARTS = """
layer { name: "d" type: "ImageSegData" top: "data" top: "label" transform_param { crop_size: 9 }
  image_data_param { source: "nowhere" batch_size: 2 label_type: PIXEL is_color: false } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 3 kernel_size: 1 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "conv" bottom: "label" top: "loss" }
layer { name: "boxes" type: "PriorBox" bottom: "conv" bottom: "data" top: "boxes"
  prior_box_param { min_size: 3 frobs: 2 } }
"""


def test_types_with_a_rule_of_the_users_say_nothing_about_the_fork(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(PARTS)
    names = []
    for own in ((), ("--treat-as", "PriorBox=Silence")):
        done = call(
            "memory", tmp_path / "net.prototxt", "--input-shape", "data=3x20x17",
            "--allow-unknown-fields", *own,
        )  # fmt: skip
        names += re.findall(r"read as in the fork (\w+)", done.err)
    assert names == ["ssd", "deeplab"]


def test_a_size_that_settings_override_is_told(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(PARTS)
    given = ("--input-shape", "data=3x20x17", "--allow-unknown-fields")
    done = call("memory", tmp_path / "net.prototxt", *given, "--json")
    assert done.code == 0, done.err
    (told,) = json.loads(done.out)["assumptions"]
    assert (told["layer"], told["what"], told["value"]) == ("d", "size", "1x9x9")
    assert "records of data=3x20x17" in told["from"]
    same = call(
        "memory", tmp_path / "net.prototxt", "--input-shape", "data=1x9x9", *given[2:], "--json"
    )
    assert json.loads(same.out)["assumptions"] == []


def test_a_field_that_a_forks_message_lacks_isnt_caffes(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(PARTS)
    done = call(
        "memory", tmp_path / "net.prototxt", "--input-shape", "data=3x20x17",
        "--allow-unknown-fields",
    )  # fmt: skip
    assert "skipped frobs: PriorBoxParameter has no such field" in done.err


FACES = """
layer { name: "d" type: "Input" top: "data" top: "label"
  input_param { shape { dim: 8 dim: 5 } shape { dim: 8 } } }
layer { name: "f" type: "InnerProduct" bottom: "data" top: "f"
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "margin" type: "MarginInnerProduct" bottom: "f" bottom: "label" top: "m" top: "l"
  margin_inner_product_param { num_output: 3 type: QUADRUPLE gamma: 0.12 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "m" bottom: "label" top: "loss" }
layer { name: "center" type: "CenterLoss" bottom: "f" bottom: "label" top: "center"
  loss_weight: 0.008 center_loss_param { num_output: 3 } }
"""


def test_the_audit_of_face_recognition(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(FACES)
    done = call(
        "plan", tmp_path / "net.prototxt", "--gpu-memory", "1GiB", "--batch-size", "2",
        "--effective-batch", "8", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    audit = {(each["cause"], each["layer"]): each for each in json.loads(done.out)["audit"]}
    assert audit["pace", "margin"]["verdict"] == "different"
    assert "4 times per update" in audit["pace", "margin"]["explanation"]
    assert audit["overwritten_gradient", "center"]["verdict"] == "different"
    assert audit["mixed_samples", "center"]["verdict"] == "different"


def test_test_layers_that_make_no_net_are_left_out(tmp_path: Path) -> None:
    """Whoever gives no solver, and so no stage, has no test net to plan."""
    (tmp_path / "net.prototxt").write_text(
        FACES
        + """
layer { name: "sum" type: "Silence" bottom: "other" include { phase: TEST } }
layer { name: "other" type: "Input" top: "other" include { phase: TEST stage: "val" }
  input_param { shape { dim: 8 } } }
"""
    )
    done = call("plan", tmp_path / "net.prototxt", "--gpu-memory", "1GiB", "--json")
    assert done.code == 0, done.err
    assert (
        "planned without tests: in the TEST net, nothing produces 'other', which layer 'sum' reads"
        in done.err
    )

"""Nets with layers that have no rule: what is asked, what is assumed, and what then is known."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from caffe_batch import prototxt
from tests.command import call

SSD = """
layer { name: "data" type: "MyData" top: "data" top: "label"
  transform_param { mean_value: 104 mean_value: 117 mean_value: 123 crop_size: 13 }
  data_param { source: "trainval_lmdb" batch_size: 6 backend: LMDB } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 5 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "norm" type: "MyNorm" bottom: "conv" top: "norm" }
layer { name: "loc" type: "InnerProduct" bottom: "norm" top: "loc"
  inner_product_param { num_output: 7 weight_filler { type: "xavier" } } }
layer { name: "prior" type: "MyBoxes" bottom: "conv" bottom: "data" top: "prior" }
layer { name: "turn" type: "MyTurn" bottom: "loc" top: "turn" }
layer { name: "flat" type: "Flatten" bottom: "turn" top: "flat" }
layer { name: "box" type: "MyBoxLoss" bottom: "flat" bottom: "prior" bottom: "label" top: "box" }
"""
SHAPES = (
    "--input-shape", "data=3x13x13",
    "--input-shape", "norm=5x11x11",
    "--input-shape", "turn=7",
)  # fmt: skip
UNKNOWN = ("--allow-unknown", *SHAPES)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, text: str, name: str = "net.prototxt") -> None:
    (folder / name).write_text(text)


def memory(*args: object) -> dict[str, Any]:
    done = call("memory", "net.prototxt", *args, "--json")
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


def last_line(text: str) -> list[str]:
    """The words of the command line that an error ends with."""
    label, _, command = text.splitlines()[-1].partition(": ")
    assert label == "All in one"
    return shlex.split(command)


# What is asked


def test_all_that_is_missing_is_asked_at_once(folder: Path) -> None:
    """The command line that the message ends with, filled in, works at once."""
    write(folder, SSD)
    done = call("memory", "net.prototxt", "--mode", "cpu")
    assert done.code == 2
    assert (
        "layer 'data': type 'MyData' is not a layer type of Caffe 1.0, nor one known of its forks; "
        "nor are "
    ) in done.err
    assert "MyNorm, MyBoxes, MyTurn, MyBoxLoss (5 layers in all)" in done.err
    program, *words = last_line(done.err)
    assert (program, words[:4]) == ("caffe-batch", ["memory", "net.prototxt", "--mode", "cpu"])
    assert words[4:] == [
        "--allow-unknown",
        "--input-shape", "data=3x13x13",  # from crop_size and the three means
        "--input-shape", "norm=CxHxW",
        "--input-shape", "turn=CxHxW",
    ]  # fmt: skip
    filled = [word.replace("norm=CxHxW", "norm=5x11x11").replace("CxHxW", "7") for word in words]
    assert call(*filled).code == 0


def test_what_is_given_is_not_asked_again(folder: Path) -> None:
    write(folder, SSD)
    done = call("memory", "net.prototxt", "--allow-unknown", "--input-shape", "norm=5x11x11")
    assert last_line(done.err)[3:] == [
        "--allow-unknown", "--input-shape", "norm=5x11x11",
        "--input-shape", "data=3x13x13", "--input-shape", "turn=CxHxW",
    ]  # fmt: skip
    assert "'data' (MyData), 'turn' (MyTurn)" in done.err
    assert "'norm'" not in done.err


def test_types_that_may_keep_the_shape_are_named(folder: Path) -> None:
    write(folder, SSD)
    done = call("memory", "net.prototxt", "--allow-unknown")
    assert "instead: --same-shape MyNorm, --same-shape MyTurn." in done.err


def test_a_library_call_gets_the_same_as_remedies(folder: Path) -> None:
    import caffe_batch as cb

    write(folder, SSD)
    with pytest.raises(cb.InputError, match='All in one: allow_unknown=True, input_shape="data=3x'):
        cb.memory("net.prototxt")


# The batch


@pytest.mark.parametrize("size", [None, 6, 15])
def test_the_batch_of_an_unknown_data_layer_is_where_it_is_written(
    folder: Path, size: int | None
) -> None:
    write(folder, SSD)
    found = memory(*UNKNOWN, *(() if size is None else ("--batch-size", size)))
    assert found["batch_size"] == (size or 6)
    assert found["blobs"]["data"] == [size or 6, 3, 13, 13]
    assert found["blobs"]["conv"][0] == found["blobs"]["norm"][0] == (size or 6)
    batch, loss = found["assumptions"]
    assert batch == {
        "layer": "data", "type": "MyData", "what": "batch_size", "value": size or 6,
        "from": "data_param.batch_size",
    }  # fmt: skip
    assert (loss["layer"], loss["what"], loss["value"]) == ("box", "loss_weight", 1.0)


def test_what_is_assumed_is_in_the_output(folder: Path) -> None:
    write(folder, SSD)
    out = call("memory", "net.prototxt", *UNKNOWN).out
    assert "Layer 'data' (MyData) is taken to make batches of 6: data_param.batch_size." in out
    assert "Layer 'box' (MyBoxLoss) is taken for a loss of weight 1: by its name." in out


PYTHON = """
layer { name: "d" type: "Python" top: "data" top: "label"
  python_param { module: "m" layer: "L" %s } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 7 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
OF_PYTHON = ("--allow-unknown", "--input-shape", "data=3x5", "--input-shape", "label=1")


@pytest.mark.parametrize(
    "text",
    [
        r"param_str: \"{'batch_size': 32, 'x': 4}\"",
        r'param_str: "{\"x\": 4, \"batch_size\": 32}"',
        'param_str: "batch_size: 32"',
        'param_str: "x=4, batch_size=32"',
    ],
)
def test_a_batch_size_in_a_param_str(folder: Path, text: str) -> None:
    """It counts, and a plan changes the number and nothing else in the text."""
    text = text.replace(r"\"{'", "\"{'").replace(r"4}\"", '4}"')
    write(folder, PYTHON % text)
    assert memory(*OF_PYTHON)["blobs"]["data"] == [32, 3, 5]
    done = call("plan", "net.prototxt", *OF_PYTHON, "--gpu-memory", "1GiB", "--iter-size", 4,
                "--effective-batch", 32, "--out", "job")  # fmt: skip
    assert done.code == 0, done.err
    before, after = (
        prototxt.read_net(name).layer[0].python_param.param_str
        for name in ("net.prototxt", "job/net.prototxt")
    )
    assert after == before.replace("32", "8")


@pytest.mark.parametrize("text", ["", "param_str: \"{'test_batch_size': 32}\"", 'param_str: "3"'])
def test_a_batch_that_is_written_nowhere_is_asked(folder: Path, text: str) -> None:
    write(folder, PYTHON % text)
    done = call("memory", "net.prototxt", *OF_PYTHON)
    assert done.code == 2
    assert "layer 'd' makes the data, but how many samples a Python layer makes" in done.err
    assert last_line(done.err)[-2:] == ["--batch-size", "N"]
    found = memory(*OF_PYTHON, "--batch-size", 9)
    assert found["blobs"]["data"] == [9, 3, 5]
    assert found["blobs"]["ip"] == [9, 7]
    assert found["assumptions"][0]["from"] == "--batch-size 9"


def test_a_batch_beside_a_constant(folder: Path) -> None:
    """A DummyData layer's constant is no batch."""
    constant = (
        'layer { name: "c" type: "DummyData" top: "c" dummy_data_param { shape { dim: 4 } } }'
    )
    silence = 'layer { name: "s" type: "Silence" bottom: "c" }'
    write(folder, PYTHON % "" + constant + silence)
    assert "--batch-size N" in call("memory", "net.prototxt", *OF_PYTHON).err
    assert memory(*OF_PYTHON, "--batch-size", 9)["batch_size"] == 9


# Whole shapes


def test_shapes_with_their_first_axis(folder: Path) -> None:
    """A fixed number, the batch, some for each sample, time first, and a scalar."""
    net = """
layer { name: "d" type: "MyData" top: "data" top: "rois" top: "words" top: "size"
  data_param { batch_size: 4 } }
layer { name: "pairs" type: "MyPairs" bottom: "rois" top: "pairs" }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 7 } }
layer { name: "silence" type: "Silence"
  bottom: "rois" bottom: "words" bottom: "size" bottom: "ip" bottom: "pairs" }
"""
    write(folder, net)
    given = {"data": "Nx3x5", "rois": "128x5", "words": "26xN", "size": "", "pairs": "10Nx2"}
    shapes = [word for top, text in given.items() for word in ("--input-shape", f"{top}:{text}")]
    for size in (4, 9):
        blobs = memory("--allow-unknown", *shapes, "--batch-size", size)["blobs"]
        assert blobs["data"] == [size, 3, 5]
        assert blobs["rois"] == [128, 5]
        assert blobs["words"] == [26, size]
        assert blobs["size"] == []
        assert blobs["pairs"] == [10 * size, 2]


def test_a_first_axis_that_is_given_whole_is_the_batch(folder: Path) -> None:
    """So a plan keeps it and changes iter_size alone, without being told."""
    write(folder, PYTHON % "")
    whole = ("--allow-unknown", "--input-shape", "data:2x3x5", "--input-shape", "label:2x1")
    found = memory(*whole)
    assert found["batch_size"] == 2
    assert found["assumptions"][0]["from"] == "the first axis of data:2x3x5"
    done = call("plan", "net.prototxt", *whole, "--gpu-memory", "1GiB", "--effective-batch", 12,
                "--json")  # fmt: skip
    assert done.code == 0, done.err
    plan = json.loads(done.out)
    assert (plan["batch_size"], plan["iter_size"]) == (2, 6)
    assert plan["assumptions"][0]["value"] == 2
    assert any("batches of 2" in note for note in plan["notes"])
    refused = call("memory", "net.prototxt", *whole, "--batch-size", 8)
    assert refused.code == 2
    assert "--batch-size 8 contradicts --input-shape data:2x3x5, a batch of 2" in refused.err
    assert "data:Nx3x5" in refused.err


def test_the_batch_pinned_changes_iter_size_alone(folder: Path) -> None:
    """The set-up of py-faster-rcnn: a Python data layer whose batch is 1 by its code."""
    write(folder, PYTHON % "")
    write(
        folder,
        'net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 60 iter_size: 2',
        "solver.prototxt",
    )
    options = (*OF_PYTHON, "--gpu-memory", "1GiB", "--effective-batch", 8)
    asked = call("plan", "solver.prototxt", *options)
    assert last_line(asked.err)[-2:] == ["--batch-size", "N"]
    done = call("plan", "solver.prototxt", *options, "--batch-size", 1, "--out", "job")
    assert done.code == 0, done.err
    plan = json.loads(Path("job/plan.json").read_text())
    assert (plan["batch_size"], plan["iter_size"], plan["data_batch"]) == (1, 8, 1)
    assert {change["file"] for change in plan["changes"]} == {"solver.prototxt"}
    assert Path("job/net.prototxt").read_bytes() == Path("net.prototxt").read_bytes()


def test_a_job_remembers_whole_shapes_and_the_batch(folder: Path) -> None:
    from caffe_batch.jobs.directory import JobDirectory
    from caffe_batch.reporting.report_data import read_run

    write(folder, PYTHON % "")
    shapes = ("--input-shape", "data:Nx3x5", "--input-shape", "label=1")
    done = call("plan", "net.prototxt", "--allow-unknown", *shapes, "--gpu-memory", "1GiB",
                "--batch-size", 3, "--out", "job")  # fmt: skip
    assert done.code == 0, done.err
    job = JobDirectory(Path("job"))
    plan = job.read_plan()
    assert plan.content["whole_shapes"] == {"data": "Nx3x5"}
    assert plan.content["input_shapes"] == {"label": [1]}
    memory = read_run(job).memory
    assert not isinstance(memory, str), memory
    assert memory.peak_bytes == plan.predicted_peak_bytes


# Losses and parameters


def test_an_unknown_loss_counts_its_gradients(folder: Path) -> None:
    """As much as with a loss_weight written out; one of 0 takes them away."""
    write(folder, SSD)
    by_name = memory(*UNKNOWN)
    assert by_name["parts"]["gradients"] > 0
    write(folder, SSD.replace('top: "box"', 'top: "box" loss_weight: 1'))
    written = memory(*UNKNOWN)
    assert written["parts"] == by_name["parts"]
    assert [each["what"] for each in written["assumptions"]] == ["batch_size"]
    write(folder, SSD.replace('top: "box"', 'top: "box" loss_weight: 0'))
    assert memory(*UNKNOWN)["parts"]["gradients"] == 0


def test_a_net_whose_loss_may_be_an_unknown_layer(folder: Path) -> None:
    write(folder, SSD.replace("MyBoxLoss", "MyBoxes"))
    done = call("plan", "net.prototxt", *UNKNOWN, "--gpu-memory", "1GiB")
    assert done.code == 2
    assert "If layer 'box' (MyBoxes) is a loss, write loss_weight: 1 in it" in done.err
    assert "deploy" not in done.err


def test_param_blocks_of_an_unknown_layer(folder: Path) -> None:
    """It learns, so what reads it passes gradients on; how much it has isn't known."""
    specs = "param { lr_mult: 1 } param { lr_mult: 2 }"
    net = PYTHON % "param_str: 'batch_size=4'"
    scaled = f'layer {{ name: "s" type: "MyScale" bottom: "data" top: "s" {specs} }}\n'
    pool = 'layer { name: "p" type: "ReLU" bottom: "s" top: "p" }\n'
    head, _, tail = net.partition('layer { name: "ip"')
    write(folder, head + scaled + pool + 'layer { name: "ip"' + tail.replace('"data"', '"p"'))
    found = memory(*OF_PYTHON, "--input-shape", "s=3x5")
    assert found["unknown_layers"] == ["d", "s"]
    assert found["params"].keys() == {"ip"}
    layers = {layer["name"]: layer for layer in found["layers"]}
    assert layers["p"]["gradients"] > 0  # top s
    frozen = Path("net.prototxt").read_text().replace("lr_mult: 1", "lr_mult: 0")
    write(folder, frozen.replace("lr_mult: 2", "lr_mult: 0"))
    layers = {each["name"]: each for each in memory(*OF_PYTHON, "--input-shape", "s=3x5")["layers"]}
    assert layers["p"]["gradients"] == 0


# What contradicts itself


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (["conv=5x11x12"], r"layer 'conv': its top 'conv' is \(6, 5, 11, 11\) by the rule of its "
         r"type, which contradicts --input-shape conv=5x11x12"),
        (["conv:7x5x11x11"], "which contradicts --input-shape conv:7x5x11x11"),
        (["norm=5x11x11", "norm:6x5x11x11"], "--input-shape names top 'norm' twice"),
        (["norm=5x11xN"], "'norm=5x11xN' is not of the form TOP=CxHxW"),
        (["norm:5x0"], "'norm:5x0' is not of the form"),
        (["norm:5x"], "'norm:5x' is not of the form"),
    ],
)  # fmt: skip
def test_shapes_that_contradict(folder: Path, shapes: list[str], message: str) -> None:
    write(folder, SSD)
    given = [word for shape in shapes for word in ("--input-shape", shape)]
    others = UNKNOWN if "norm" not in shapes[0] else (*UNKNOWN[:3], *UNKNOWN[5:])
    done = call("memory", "net.prototxt", *others, *given)
    assert done.code == 2
    assert re.search(message, done.err), done.err
    assert memory(*UNKNOWN, "--input-shape", "conv=5x11x11")["batch_size"] == 6


def test_an_in_place_top_that_is_given_otherwise(folder: Path) -> None:
    write(folder, SSD.replace('bottom: "conv" top: "norm"', 'bottom: "conv" top: "conv"').replace(
        'bottom: "norm"', 'bottom: "conv"'))  # fmt: skip
    shapes = ("--input-shape", "data=3x13x13", "--input-shape", "turn=7")
    assert memory("--allow-unknown", *shapes)["blobs"]["conv"] == [6, 5, 11, 11]
    done = call("memory", "net.prototxt", "--allow-unknown", *shapes, "--input-shape", "conv=3")
    assert done.code == 2
    assert "contradicts --input-shape conv=3" in done.err


def test_a_known_data_layer_with_a_whole_shape(folder: Path) -> None:
    write(folder, SSD.replace("MyData", "Data"))
    whole = ("--allow-unknown", *SHAPES[2:], "--input-shape")
    for text in ("data:Nx3x17x17", "data:6x3x17x17"):
        assert memory(*whole, text)["blobs"]["data"] == [6, 3, 13, 13]  # cropped
    done = call("memory", "net.prototxt", *whole, "data:7x3x17x17")
    assert done.code == 2
    assert "a batch of 6 contradicts --input-shape data:7x3x17x17" in done.err


# Fields of forks


FORK = """
layer { name: "d" type: "FastClips" top: "data" top: "label"
  fast_clips_param { inner { x: 3 } batch_size: 6 } }
layer { name: "pool" type: "Pooling" bottom: "data" top: "pool"
  pooling_param { pool: LEARNED kernel_size: 3 stride: 2 } }
layer { name: "ip" type: "InnerProduct" bottom: "pool" top: "ip"
  inner_product_param { num_output: 7 weight_filler { type: "xavier" odd: 3 } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
OF_FORK = (
    "--allow-unknown-fields", "--allow-unknown",
    "--input-shape", "data=3x17x13", "--input-shape", "label=1",
)  # fmt: skip


def test_fields_of_a_fork_are_asked_with_the_rest(folder: Path) -> None:
    write(folder, FORK)
    done = call("memory", "net.prototxt")
    assert done.code == 2
    assert "LayerParameter has no field 'fast_clips_param'" in done.err
    _program, *words = last_line(done.err)
    filled = [word.replace("CxHxW", "3x17x13", 1) for word in words]
    assert filled[2:4] == ["--allow-unknown-fields", "--allow-unknown"]
    assert filled.pop() == "label=3x17x13"
    assert call(*filled, "label=1").code == 0


def test_skipped_fields_leave_a_trace(folder: Path) -> None:
    """A value that an enum lacks as well; a filler's doesn't change the memory."""
    write(folder, FORK)
    found = memory(*OF_FORK)
    assert [(each["field"], each["line"], each["matters"]) for each in found["skipped_fields"]] == [
        ("fast_clips_param", 3, True),
        ("pool: LEARNED", 5, True),
        ("odd", 7, False),
    ]
    assert found["unknown_layers"] == ["d", "pool"]
    assert found["lower_bound"] is True
    out = call("memory", "net.prototxt", *OF_FORK).out
    assert "isn't counted: fast_clips_param (line 3), pool: LEARNED (line 5)." in out
    plan = call("plan", "net.prototxt", *OF_FORK, "--gpu-memory", "1GiB", "--json")
    assert len(json.loads(plan.out)["skipped_fields"]) == 3
    assert any("pool: LEARNED" in note for note in json.loads(plan.out)["notes"])


def test_a_skipped_field_that_does_not_matter(folder: Path) -> None:
    known = FORK.replace("pool: LEARNED", "pool: AVE").replace("FastClips", "Data")
    known = known.replace("fast_clips_param { inner { x: 3 } ", "data_param { ")
    resized = known.replace("data_param", "transform_param { stretch: 3 } data_param")
    write(folder, resized)
    found = memory("--allow-unknown-fields", "--input-shape", "data=3x17x13")
    assert [each["field"] for each in found["skipped_fields"]] == ["stretch", "odd"]
    assert found["lower_bound"] is False  # the size of the data is given


def test_a_batch_in_fields_of_a_fork(folder: Path) -> None:
    """A plan changes the number, and nothing else in the text."""
    write(folder, FORK)
    assert memory(*OF_FORK)["batch_size"] == 6
    assert memory(*OF_FORK, "--batch-size", 9)["blobs"]["data"] == [9, 3, 17, 13]
    done = call("plan", "net.prototxt", *OF_FORK, "--gpu-memory", "1GiB", "--effective-batch", 6,
                "--iter-size", 3, "--out", "job")  # fmt: skip
    assert done.code == 0, done.err
    assert Path("job/net.prototxt").read_text() == FORK.replace("batch_size: 6", "batch_size: 2")
    from caffe_batch.jobs.directory import JobDirectory
    from caffe_batch.reporting.report_data import read_run

    report = read_run(JobDirectory(Path("job"))).memory
    assert not isinstance(report, str), report
    assert report.peak_bytes == JobDirectory(Path("job")).read_plan().predicted_peak_bytes


def test_a_batch_in_fields_of_a_fork_in_old_syntax_and_inside_a_solver(folder: Path) -> None:
    old = """
layers { name: "d" type: DATA top: "data" top: "label" data_param { batch_size: 4 extra: 1 } }
layers { name: "ip" type: INNER_PRODUCT bottom: "data" top: "ip"
  inner_product_param { num_output: 7 } }
layers { name: "loss" type: SOFTMAX_LOSS bottom: "ip" bottom: "label" top: "loss" }
"""
    write(folder, old)
    found = memory("--allow-unknown-fields", "--input-shape", "data=5x1x1")
    assert [each["field"] for each in found["skipped_fields"]] == ["extra"]
    assert found["unknown_layers"] == ["d"]
    write(folder, 'base_lr: 0.1 lr_policy: "fixed" max_iter: 9 train_net_param {' + FORK + "}",
          "solver.prototxt")  # fmt: skip
    done = call("memory", "solver.prototxt", *OF_FORK, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["batch_size"] == 6
    assert json.loads(done.out)["unknown_layers"] == ["d", "pool"]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("dense_image_data_parm { x: 1 }", "Did you mean dense_image_data_param?"),
        ("my_image_data_param { x: 1 }", "It may be a field of a fork of Caffe."),
        ("Data_Param { x: 1 }", "Did you mean data_param?"),
        ("image_param { x: 1 }", "It may be a field of a fork of Caffe."),
    ],
)
def test_did_you_mean_is_right_or_absent(folder: Path, text: str, hint: str) -> None:
    write(folder, FORK.replace("fast_clips_param { inner { x: 3 } batch_size: 6 }", text))
    assert f"\n{hint} --allow-unknown-fields skips it." in call("memory", "net.prototxt").err


def test_a_blob_that_only_layers_without_a_rule_read(folder: Path) -> None:
    """Two of them read `info` and `rois`: the Split between needs no shape either."""
    python = 'python_param { module: "rois" layer: "%s" }'
    write(folder, f"""
layer {{ name: "input" type: "Python" top: "data" top: "info" {python % "Input"} }}
layer {{ name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param {{ num_output: 2 kernel_size: 3 }} }}
layer {{ name: "propose" type: "Python" bottom: "conv" bottom: "info" top: "rois"
  {python % "Propose"} }}
layer {{ name: "choose" type: "Python" bottom: "rois" bottom: "info" top: "few"
  {python % "Choose"} }}
layer {{ name: "score" type: "InnerProduct" bottom: "few" top: "score"
  inner_product_param {{ num_output: 1 }} }}
layer {{ name: "print" type: "Python" bottom: "rois" top: "printed" {python % "Print"} }}
""")  # fmt: skip
    words = last_line(call("memory", "net.prototxt").err)
    filled = [word.replace("=CxHxW", ":4x5").replace("data:4x5", "data:1x3x9x9") for word in words]
    filled = [word for word in filled[1:] if word not in ("--batch-size", "N")]
    assert [word for word in filled if ":" in word] == ["data:1x3x9x9", "few:4x5"]
    done = call(*filled, "--json")
    assert done.code == 0, done.err
    blobs = json.loads(done.out)["blobs"]
    assert (blobs["conv"], blobs["score"]) == ([1, 2, 7, 7], [4, 1])


def test_a_split_passes_on_that_a_shape_is_not_known(folder: Path) -> None:
    write(
        folder,
        """
layer { name: "in" type: "Mine" top: "data" top: "info" }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 2 kernel_size: 3 } }
layer { name: "split" type: "Split" bottom: "info" top: "one" top: "two" }
layer { name: "read" type: "TanH" bottom: "two" top: "read" }
""",
    )
    done = call("memory", "net.prototxt", "--allow-unknown", "--input-shape", "data:1x3x9x9")
    assert done.code == 2
    assert "'info'" in done.err
    assert "--input-shape info=CxHxW" in done.err


def test_types_of_a_fork_in_old_syntax_keep_their_names(folder: Path) -> None:
    """CONVOLUTION4D is no misspelled CONVOLUTION3D, and both can be spoken about in hints."""
    write(
        folder,
        """
input: "data" input_dim: 2 input_dim: 3 input_dim: 8 input_dim: 8
layers { name: "conv" type: CONVOLUTION4D bottom: "data" top: "conv" }
layers { name: "act" type: SWISHY bottom: "conv" top: "act" }
""",
    )
    done = call("memory", "net.prototxt")
    assert done.code == 2
    assert "Did you mean CONVOLUTION3D? --allow-unknown-fields skips it." in done.err
    assert last_line(done.err)[3:5] == ["--allow-unknown-fields", "--allow-unknown"]
    found = memory(
        "--allow-unknown-fields", "--same-shape", "CONVOLUTION4D", "--treat-as", "SWISHY=TanH"
    )
    assert [layer["type"] for layer in found["layers"]][-2:] == ["CONVOLUTION4D", "SWISHY"]
    assert found["blobs"]["act"] == [2, 3, 8, 8]

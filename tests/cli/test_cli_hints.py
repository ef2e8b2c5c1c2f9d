"""``--treat-as``, ``--same-shape`` and ``--run-python-layers``, from the memory to the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from caffe_batch.experiments import python_layers
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.job_recipe import read_job_stages
from caffe_batch.reporting.report_data import read_run
from tests.command import call

NET = """
layer { name: "data" type: "Input" top: "data" top: "label"
  input_param { shape { dim: 12 dim: 5 } shape { dim: 12 } } }
layer { name: "cut" type: "MyCut" bottom: "data" top: "cut" }
layer { name: "norm" type: "MyNorm" bottom: "cut" top: "norm" param { lr_mult: 1 } }
layer { name: "ip" type: "InnerProduct" bottom: "norm" top: "ip"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
HINTS = ("--same-shape", "MyCut", "--treat-as", "MyNorm=BatchNorm")

#: A data layer like that of py-faster-rcnn (one image), and a layer that makes boxes of it.
LAYERS = """
import caffe


class Data(caffe.Layer):
    def setup(self, bottom, top):
        top[0].reshape(%s, 3, 7, 5)
        top[1].reshape(%s)

    def reshape(self, bottom, top):
        pass

    def forward(self, bottom, top):
        top[0].data[...] = 0.5
        top[1].data[...] = 1

    def backward(self, top, propagate_down, bottom):
        pass


class Boxes(caffe.Layer):
    def setup(self, bottom, top):
        top[0].reshape(6, 4)

    def reshape(self, bottom, top):
        pass

    def forward(self, bottom, top):
        top[0].data[...] = 0.5

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = 0
"""
PYTHON_NET = """
layer { name: "d" type: "Python" top: "data" top: "label"
  python_param { module: "my_layers" layer: "Data" %s } }
layer { name: "c" type: "Convolution" bottom: "data" top: "c"
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "boxes" type: "Python" bottom: "c" top: "boxes"
  python_param { module: "my_layers" layer: "Boxes" } }
layer { name: "silence" type: "Silence" bottom: "boxes" }
layer { name: "ip" type: "InnerProduct" bottom: "c" top: "ip"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.prototxt").write_text(NET)
    return tmp_path


def python_net(folder: Path, batch: str = "1", text: str = "") -> None:
    (folder / "my_layers.py").write_text(LAYERS % (batch, batch))
    (folder / "net.prototxt").write_text(PYTHON_NET % text)
    (folder / "solver.prototxt").write_text(
        'net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 12 iter_size: 2'
    )


def memory(*args: object) -> dict[str, Any]:
    done = call("memory", "net.prototxt", *args, "--json")
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


def test_a_plan_remembers_its_hints(folder: Path) -> None:
    done = call("plan", "net.prototxt", *HINTS, "--gpu-memory", "1GiB", "--effective-batch", 12,
                "--out", "job")  # fmt: skip
    assert done.code == 0, done.err
    job = JobDirectory(Path("job"))
    plan = job.read_plan()
    assert plan.content["type_hints"] == {
        "treat_as": ["MyNorm=BatchNorm"],
        "same_shape": ["MyCut"],
    }
    (stage,) = read_job_stages(job, plan)
    assert {"MyCut", "MyNorm"} <= set(stage.recipe.train.rules)
    report = read_run(job).memory
    assert not isinstance(report, str), report
    assert report.peak_bytes == plan.predicted_peak_bytes
    assert call("status", "job").code == 0


def test_a_smaller_split_uses_them(folder: Path) -> None:
    from caffe_batch.jobs.ending import Ending, EndReason
    from caffe_batch.training.resplit import split_smaller

    options = ("--gpu-memory", "1GiB", "--effective-batch", 12, "--out", "job")
    assert call("plan", "net.prototxt", *HINTS, *options).code == 0
    job = JobDirectory(Path("job"))
    said = split_smaller(job, job.read_plan(), Ending(EndReason.GPU_MEMORY, "no memory", 1))
    assert "batch_size 6 x iter_size 2" in said
    assert job.read_plan().hints.treat_as == (("MyNorm", "BatchNorm"),)


@pytest.mark.parametrize("file", ["solver.prototxt", "net.prototxt"])
def test_a_file_of_a_job_brings_the_hints_of_its_plan(folder: Path, file: str) -> None:
    options = ("--gpu-memory", "1GiB", "--effective-batch", 12, "--out", "job")
    assert call("plan", "net.prototxt", *HINTS, *options).code == 0
    done = call("memory", f"job/{file}", "--json")
    assert done.code == 0, done.err
    assert (
        "note: as its plan.json says: --treat-as MyNorm=BatchNorm --same-shape MyCut\n" in done.err
    )
    assert {"MyCut", "MyNorm"} <= {layer["type"] for layer in json.loads(done.out)["layers"]}
    # What the call says of a type comes first.
    other = call("memory", f"job/{file}", "--treat-as", "MyNorm=TanH", "--json")
    assert other.code == 0, other.err
    assert json.loads(other.out)["params"].get("norm", []) == []
    again = call("plan", f"job/{file}", "--gpu-memory", "1GiB", "--effective-batch", 24, "--json")
    assert again.code == 0, again.err


def test_verify_takes_them_too(folder: Path, runtime: object) -> None:
    """Then it is Caffe that lacks the types."""
    options = ("--gpu-memory", "1GiB", "--effective-batch", 12, "--out", "job")
    assert call("plan", "net.prototxt", *HINTS, *options).code == 0
    done = call("verify", "job/solver.prototxt")
    assert done.code != 0
    assert "doesn't have these layer types: MyCut (layer 'cut')" in done.err


def test_a_file_beside_a_job_is_none_of_its_files(folder: Path) -> None:
    options = ("--gpu-memory", "1GiB", "--effective-batch", 12, "--out", "job")
    assert call("plan", "net.prototxt", *HINTS, *options).code == 0
    (folder / "job" / "other.prototxt").write_text(NET)
    done = call("memory", "job/other.prototxt")
    assert done.code == 2
    assert "MyCut" in done.err


def test_letters_in_a_size_are_to_be_filled_in(folder: Path) -> None:
    done = call("memory", "net.prototxt", *HINTS, "--input-shape", "data=CxHxW")
    assert done.code == 2
    assert "'data=CxHxW' still has letters where numbers belong" in done.err
    done = call("memory", "net.prototxt", *HINTS, "--input-shape", "data:RxC")
    assert "for instance --input-shape data:128x5." in done.err


@pytest.mark.parametrize(
    "command",
    [("memory",), ("plan", "--gpu-memory", "1GiB"), ("strategies", "--gpu-memory", "1GiB")],
    ids=lambda command: command[0],
)
def test_commands_that_read_a_net_take_them(folder: Path, command: tuple[str, ...]) -> None:
    done = call(command[0], "net.prototxt", *command[1:], *HINTS, "--json")
    assert done.code == 0, done.err
    json.loads(done.out)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--treat-as", "MyNrm=BatchNorm"), "--treat-as names type 'MyNrm', which no layer of the "
         "net has\nDid you mean MyNorm?"),
        (("--same-shape", "Other"), "--same-shape names type 'Other', which no layer of the net "
         "has\nIts types without a rule: MyCut, MyNorm."),
        (("--treat-as", "MyNorm=BatchNrm"), "--treat-as: 'MyNorm' can't be treated as 'BatchNrm', "
         "which is no layer type with a rule\nDid you mean BatchNorm?"),
        (("--treat-as", "MyNorm=BatchNorm", "--same-shape", "MyCut=1"), "layer 'cut': its tops "
         "can't have the shape of a bottom: it has no bottom 1"),
    ],
)  # fmt: skip
def test_hints_that_are_wrong(folder: Path, args: tuple[str, ...], message: str) -> None:
    done = call("memory", "net.prototxt", *args)
    assert done.code == 2
    assert f"caffe-batch: {message}" in done.err


# Python layers that are asked


def test_python_layers_are_asked(folder: Path, runtime: object) -> None:
    """The data layer's first axis is the batch; that of six boxes is not."""
    python_net(folder, "2")
    found = memory("--run-python-layers")
    assert found["blobs"]["data"] == [2, 3, 7, 5]
    assert found["blobs"]["boxes"] == [6, 4]
    assert found["blobs"]["label"] == [2]
    assert (found["unknown_layers"], found["lower_bound"]) == ([], False)
    done = call("plan", "solver.prototxt", "--run-python-layers", "--gpu-memory", "1GiB",
                "--effective-batch", 12, "--out", "job")  # fmt: skip
    assert done.code == 0, done.err
    plan = JobDirectory(Path("job")).read_plan()
    assert (plan.batch_size, plan.iter_size) == (2, 6)
    # Their shapes were asked, not what they do with a batch.
    unknown = [row["layer"] for row in plan.content["audit"] if row["cause"] == "unknown_layer"]
    assert unknown == ["d"]
    assert plan.content["type_hints"] == {"asked": ["Python:my_layers.Data",
                                                    "Python:my_layers.Boxes"]}  # fmt: skip
    report = read_run(JobDirectory(Path("job"))).memory
    assert not isinstance(report, str), report
    assert report.peak_bytes == plan.predicted_peak_bytes
    trained = call("train", "job")
    assert trained.code == 0, trained.err
    assert "Finished: 4 of 4 updates." in trained.out


def test_a_batch_in_the_param_str_scales_what_was_asked(folder: Path, runtime: object) -> None:
    number = "int(self.param_str.split('=')[1])"
    python_net(folder, number, 'param_str: "batch_size=3"')
    for size in (3, 12):
        blobs = memory("--run-python-layers", "--batch-size", size)["blobs"]
        assert blobs["data"] == [size, 3, 7, 5]
        assert blobs["label"] == [size]
        assert blobs["boxes"] == [6, 4]


def test_they_are_not_asked_unless_told_to(folder: Path) -> None:
    python_net(folder)
    (folder / "my_layers.py").write_text("import os\nos.mkdir('ran')\n")
    done = call("memory", "net.prototxt", "--allow-unknown")
    assert done.code == 2
    assert not (folder / "ran").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("import caffe\n", "import no_such_module\n", "No module named 'no_such_module'"),
        ("class Boxes", "class Boxen", "'Boxes'"),
        ("top[0].reshape(6, 4)", "raise ValueError('no boxes')", "no boxes"),
    ],
)
def test_python_layers_that_fail(
    folder: Path, runtime: object, old: str, new: str, message: str
) -> None:
    python_net(folder)
    path = folder / "my_layers.py"
    path.write_text(path.read_text().replace(old, new))
    done = call("memory", "net.prototxt", "--run-python-layers")
    assert done.code == 2
    assert "caffe-batch: Python layer 'd', 'boxes' can't be asked in this runtime: " in done.err
    assert message in done.err
    assert "PYTHONPATH" in done.err


def test_a_python_layer_that_never_ends(
    folder: Path, runtime: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(python_layers, "LIMIT_S", 0.1)
    python_net(folder)
    path = folder / "my_layers.py"
    path.write_text("import time\ntime.sleep(600)\n" + path.read_text())
    done = call("memory", "net.prototxt", "--run-python-layers")
    assert done.code == 2
    assert "Python layer 'd', 'boxes': building it hasn't ended after 0.1 s" in done.err


def test_what_they_say_contradicts_what_is_given(folder: Path, runtime: object) -> None:
    python_net(folder)
    done = call("memory", "net.prototxt", "--run-python-layers", "--input-shape", "boxes:6x5")
    assert done.code == 2
    assert (
        "the Python layer of top 'boxes' says that it is 6x4, which contradicts --input-shape "
        "boxes:6x5" in done.err
    )

"""``caffe-batch export``: what ONNX's runtime and plain PyTorch give is what real pycaffe gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from caffe_batch.experiments.export import TOLERANCE
from tests.command import call
from tests.planned_jobs import FinishedJob, write_job

#: Run by real pycaffe: the outputs of a net for inputs in a file.
JUDGE = """
import sys, numpy as np, caffe
caffe.set_mode_cpu()
net = caffe.Net(sys.argv[1], caffe.TEST)
for number, blob in enumerate(net.params["norm"]):
    blob.data[...] = number + 0.5
net.save(sys.argv[1] + ".caffemodel")
fed = np.load(sys.argv[2])
for name in fed.files:
    net.blobs[name].reshape(*fed[name].shape)
    net.blobs[name].data[...] = fed[name]
np.savez(sys.argv[3], **net.forward())
"""

#: Types whose shapes, paddings or places in memory could go wrong on the way.
MIXED = """
name: "mixed"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 17 dim: 13 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param {
  num_output: 6 group: 3 kernel_size: 3 stride: 2 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "norm" type: "BatchNorm" bottom: "conv" top: "conv" }
layer { name: "scale" type: "Scale" bottom: "conv" top: "conv" scale_param { bias_term: true } }
layer { name: "elu" type: "ELU" bottom: "conv" top: "conv" elu_param { alpha: 0.5 } }
layer { name: "lrn" type: "LRN" bottom: "conv" top: "lrn" lrn_param { local_size: 3 } }
layer { name: "max" type: "Pooling" bottom: "lrn" top: "max" pooling_param {
  pool: MAX kernel_size: 3 stride: 2 pad: 1 } }
layer { name: "ave" type: "Pooling" bottom: "lrn" top: "ave" pooling_param {
  pool: AVE kernel_size: 3 stride: 2 pad: 1 } }
layer { name: "both" type: "Concat" bottom: "max" bottom: "ave" top: "both" }
layer { name: "up" type: "Deconvolution" bottom: "both" top: "up" convolution_param {
  num_output: 2 kernel_size: 4 stride: 2 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "power" type: "Power" bottom: "up" top: "up" power_param { power: 2 shift: 0.5 } }
layer { name: "crop" type: "Crop" bottom: "up" bottom: "max" top: "crop" crop_param { axis: 2 offset: 1 } }
layer { name: "flat" type: "Reshape" bottom: "crop" top: "flat" reshape_param { shape { dim: 0 dim: -1 } } }
layer { name: "ip" type: "InnerProduct" bottom: "flat" top: "ip" inner_product_param {
  num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }
"""  # noqa: E501


def onnx_outputs(path: Path, fed: dict[str, Any]) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, fed), strict=True))


@pytest.mark.filterwarnings("ignore:.*torch.jit.load:DeprecationWarning")
def test_a_net_of_many_types(tmp_path: Path, pycaffe: Callable[..., str]) -> None:
    net, model, script = (tmp_path / name for name in ("net.prototxt", "m.onnx", "m.pt"))
    net.write_text(MIXED)
    fed: dict[str, Any] = {
        "data": np.random.default_rng(3).normal(size=(4, 3, 17, 13)).astype(np.float32)
    }
    np.savez(tmp_path / "fed.npz", **fed)
    pycaffe(JUDGE, str(net), str(tmp_path / "fed.npz"), str(tmp_path / "given.npz"))
    weights = tmp_path / "net.prototxt.caffemodel"
    done = call(
        "export", net, "--weights", weights, "--onnx", model, "--torch", script, "--json"
    )  # fmt: skip
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert told["inputs"] == {"data": ["batch", 3, 17, 13]}
    assert told["outputs"] == {"prob": ["batch", 5]}
    assert (told["dynamic_batch"], told["opset"]) == (True, 17)
    assert max(told["differences"].values()) < TOLERANCE
    graph = onnx.load(model)
    onnx.checker.check_model(graph, full_check=True)
    assert [each.version for each in graph.opset_import if not each.domain] == [17]
    with np.load(tmp_path / "given.npz") as found:
        given = found["prob"]
    assert np.abs(onnx_outputs(model, fed)["prob"] - given).max() < 1e-5
    (prob,) = torch.jit.load(script)(torch.from_numpy(fed["data"]))  # type: ignore[no-untyped-call]
    assert np.abs(prob.numpy() - given).max() < 1e-5


def test_a_job_against_caffe_and_with_pictures(finished: FinishedJob, tmp_path: Path) -> None:
    plain, pictures = tmp_path / "plain.onnx", tmp_path / "pictures.onnx"
    done = call("export", finished.job.path, "--onnx", plain, "--against", "caffe")
    assert done.code == 0, done.err
    assert "input:  data, batch x 1 x 5 x 7\n" in done.out
    assert "output: prob, batch x 4\n" in done.out
    assert f"onnx:   {plain} (opset 17)\n" in done.out
    assert "from Caffe" in done.out
    done = call("export", finished.job.path, "--onnx", pictures, "--preprocessing")
    assert done.code == 0, done.err
    assert "input:  data, batch x 5 x 7 x 1, bytes, gray\n" in done.out
    pixels = np.random.default_rng(5).integers(0, 256, (3, 5, 7, 1), np.uint8)
    values = pixels.transpose(0, 3, 1, 2).astype(np.float32) * np.float32(0.00390625)
    wanted = onnx_outputs(plain, {"data": values})["prob"]
    assert np.abs(onnx_outputs(pictures, {"data": pixels})["prob"] - wanted).max() < 1e-6


def test_layers_that_cannot_be_exported_are_named(tmp_path: Path) -> None:
    net, weights = tmp_path / "net.prototxt", tmp_path / "w.caffemodel"
    statistics = 'top: "conv" batch_norm_param { use_global_stats: false } }'
    net.write_text(
        MIXED.replace('type: "BatchNorm" bottom: "conv" top: "conv" }',
                      f'type: "BatchNorm" bottom: "conv" {statistics}')
        + 'layer { name: "pick" type: "Slice" bottom: "prob" top: "pick" top: "rest"'
        " slice_param { axis: 1 slice_point: 1 } }"
        ' layer { name: "few" type: "Filter" bottom: "rest" bottom: "pick" top: "few" }'
    )  # fmt: skip
    assert statistics in net.read_text()
    weights.touch()
    done = call("export", net, "--weights", weights, "--onnx", tmp_path / "m.onnx")
    assert done.code == 2, done.err
    assert "these layers can't be exported: 'norm' (BatchNorm), 'few' (Filter)" in done.err
    assert not (tmp_path / "m.onnx").exists()


def test_what_is_refused(tmp_path: Path) -> None:
    job = write_job(tmp_path)
    model = tmp_path / "m.onnx"
    for args, words in (
        ([job.path], "nothing to write: give --onnx FILE.onnx or --torch FILE.pt"),
        ([job.path, "--onnx", model], "there is no snapshot"),
        ([job.path, "--onnx", model, "--weights", "w"], "is a job, which has snapshots"),
        ([job.net, "--onnx", model], "is a net without weights, which are in another file"),
        ([job.net, "--onnx", model, "--best"], "--best: "),
        ([tmp_path, "--onnx", model], "Give a job, a folder that"),
        (
            [job.path, "--onnx", tmp_path / "no" / "m.onnx"],
            "the folder for this file doesn't exist",
        ),
    ):
        done = call("export", *args)
        assert done.code == 2, (args, done)
        assert words in done.err
    assert not model.exists()


def test_weights_of_another_net(tmp_path: Path, finished: FinishedJob) -> None:
    net, model = tmp_path / "net.prototxt", tmp_path / "m.onnx"
    net.write_text(MIXED.replace('name: "ip"', 'name: "ip1"'))
    (weights,) = finished.job.snapshots.glob("*_iter_60.caffemodel")
    done = call("export", net, "--weights", weights, "--onnx", model)
    assert done.code == 2, done.err
    assert "parameter 0 of layer 'ip1'" in done.err
    assert not model.exists()


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_a_package_that_is_missing(
    missing: str, finished: FinishedJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker's Python is asked, which needn't be that of the command."""
    hidden = f"import sys\nsys.modules[{missing!r}] = None\n"
    (tmp_path / "sitecustomize.py").write_text(hidden)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = call("export", finished.job.path, "--onnx", tmp_path / "m.onnx")
    assert done.code == 2, done.err
    assert f"{missing} can't be imported" in done.err
    assert "pip install 'caffe-batch[onnx]'" in done.err

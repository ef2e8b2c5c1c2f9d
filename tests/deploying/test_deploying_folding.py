"""Layers that act on each channel alone, merged into the weights before them: the same answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from caffe_batch import engines, prototxt
from caffe_batch.deploying.folding import fold, read_weights
from caffe_batch.deploying.transformation import inference_file
from caffe_batch.device import Device
from caffe_batch.errors import InputError
from caffe_batch.experiments.inference import Inference, Run, run_forward
from caffe_batch.layers.loading import installed_rules
from caffe_batch.runtimes import Runtime
from caffe_batch.schema import caffe_pb2
from tests.both_engines import runtime as runtime

CHAIN = """
layer { name: "BN" type: "BatchNorm" bottom: "BOTTOM" top: "BN" batch_norm_param { eps: 1e-3 } }
layer { name: "BN_scale" type: "Scale" bottom: "BN" top: "BN" scale_param { bias_term: true } }
"""

NET = """
name: "folded"
layer { name: "data" type: "Input" top: "data"
  input_param { shape { dim: 3 dim: 6 dim: 9 dim: 7 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 8 kernel_size: 3 group: 2 bias_term: false } }
ONE
layer { name: "relu" type: "ReLU" bottom: "one" top: "one" }
layer { name: "up" type: "Deconvolution" bottom: "one" top: "up"
  convolution_param { num_output: 6 kernel_size: 2 stride: 2 group: 2 } }
TWO
layer { name: "fc" type: "InnerProduct" bottom: "two" top: "fc"
  inner_product_param { num_output: 5 transpose: true } }
layer { name: "last" type: "BatchNorm" bottom: "fc" top: "last" }
layer { name: "add" type: "Bias" bottom: "last" top: "add" }
layer { name: "side" type: "InnerProduct" bottom: "two" top: "side"
  inner_product_param { num_output: 5 bias_term: false } }
layer { name: "read_twice" type: "BatchNorm" bottom: "side" top: "normal" }
layer { name: "sum" type: "Eltwise" bottom: "side" bottom: "normal" bottom: "add" top: "sum" }
""".replace("ONE", CHAIN.replace("BN", "one").replace("BOTTOM", "conv")).replace(
    "TWO", CHAIN.replace("BN", "two").replace("BOTTOM", "up")
)

#: The shapes of the parameters, by layer.
SHAPES: dict[str, tuple[tuple[int, ...], ...]] = {
    "conv": ((8, 3, 3, 3),),
    "one": ((8,), (8,), (1,)),
    "one_scale": ((8,), (8,)),
    "up": ((8, 3, 2, 2), (6,)),
    "two": ((6,), (6,), (1,)),
    "two_scale": ((6,), (6,)),
    "fc": ((840, 5), (5,)),
    "last": ((5,), (5,), (1,)),
    "add": ((5,),),
    "side": ((5, 840),),
    "read_twice": ((5,), (5,), (1,)),
}


def trained(net: caffe_pb2.NetParameter, path: Path) -> Path:
    """Weights as a training would leave them: variances and their weight are positive."""
    draw = np.random.default_rng(11)
    full = caffe_pb2.NetParameter()
    full.CopyFrom(net)
    for layer in full.layer:
        for number, shape in enumerate(SHAPES.get(layer.name, ())):
            values = draw.normal(size=shape)
            if layer.type == "BatchNorm" and number:
                values = np.abs(values) * 3 + 0.5
            blob = layer.blobs.add()
            blob.shape.dim.extend(shape)
            blob.data.extend(values.astype(np.float32).ravel())
    path.write_bytes(full.SerializeToString())
    return path


@pytest.mark.both
def test_the_answers_stay_the_same(
    tmp_path: Path, runtime: Runtime, request: pytest.FixtureRequest
) -> None:
    name: str = request.node.callspec.params["runtime"]
    net, rules = prototxt.parse_net(NET), installed_rules()
    weights = trained(net, tmp_path / "before.caffemodel")
    folded = fold(net, weights, rules)
    assert folded.layers == ("one", "one_scale", "two", "two_scale", "last", "add")
    assert [layer.name for layer in folded.message.layer] == [
        "data", "conv", "relu", "up", "fc", "side", "read_twice", "sum",
    ]  # fmt: skip
    after = tmp_path / "after.caffemodel"
    after.write_bytes(folded.weights.SerializeToString())
    feed = {"data": np.random.default_rng(5).normal(size=(6, 6, 9, 7)).astype(np.float32)}
    how = Inference(engines.find(name), runtime, Device.CPU)
    results = []
    for message, file in ((net, weights), (folded.message, after)):
        run = Run(inference_file(message, rules), 2, {"values": ["sum"]}, feed)
        (tmp_path / "run").mkdir(exist_ok=True)
        ran = run_forward([run], [file], how, tmp_path / "run", tmp_path, rules=rules)
        results.append(ran.results[0]["values:sum"])
    assert results[0].shape == (6, 5)
    assert np.abs(results[0]).max() > 1
    assert results[1] == pytest.approx(results[0], rel=1e-4, abs=1e-4)


def test_a_batch_norm_with_the_statistics_of_the_batch_stays(tmp_path: Path) -> None:
    net = prototxt.parse_net(NET.replace("eps: 1e-3", "use_global_stats: false"))
    folded = fold(net, trained(net, tmp_path / "w.caffemodel"), installed_rules())
    assert folded.layers == ("last", "add")


def test_layers_that_share_weights_stay(tmp_path: Path) -> None:
    shared = NET.replace(
        'bottom: "two" top: "fc"', 'bottom: "two" top: "fc" param { name: "w" }'
    ).replace('bottom: "two" top: "side"', 'bottom: "two" top: "side" param { name: "w" }')
    net = prototxt.parse_net(shared)
    folded = fold(net, trained(net, tmp_path / "w.caffemodel"), installed_rules())
    assert folded.layers == ("one", "one_scale", "two", "two_scale")


def test_weights_that_are_none(tmp_path: Path) -> None:
    for name, content in (("w.caffemodel", b"\xff\xff\xff"), ("w.caffemodel.h5", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name):
            read_weights(tmp_path / name)
    with pytest.raises(InputError, match="can't be read"):
        read_weights(tmp_path / "none")

"""The fillers against real Caffe: bit for bit where that is possible, else the distribution."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from caffe_batch.engines.torch.fillers import Draws, fill
from caffe_batch.engines.torch.net import TorchNet
from caffe_batch.layers.base import FILLERS
from caffe_batch.schema import caffe_pb2
from tests.engines.torch.on_caffe import Pycaffe, Trial

CHILD = """
import sys
import caffe
import numpy as np
caffe.set_random_seed(int(sys.argv[1]))
net = caffe.Net("net.prototxt", caffe.TRAIN)
found = {"%s/%d" % (layer, i): np.array(blob.data)
         for layer, blobs in net.params.items() for i, blob in enumerate(blobs)}
net.forward()
found.update({"blob/" + name: np.array(blob.data) for name, blob in net.blobs.items()})
np.savez("out.npz", **found)
"""

#: Every way to fill that is Caffe's bit for bit, in layers of every kind that draw: shared ones and
#: the steps of recurrent ones are filled as often as they are there. One draw too many, or too few,
#: and all that follow are others.
SAME = """
layer { name: "d" type: "DummyData" top: "x" top: "cont" dummy_data_param {
        shape { dim: 3 dim: 5 dim: 4 } shape { dim: 3 dim: 5 }
        data_filler { type: "uniform" min: -1 max: 3 } data_filler { value: 1 } } }
layer { name: "u" type: "InnerProduct" bottom: "x" top: "a" inner_product_param { num_output: 7
        weight_filler { type: "uniform" min: -0.3 max: 0.7 } bias_filler { type: "uniform" } } }
layer { name: "lstm" type: "LSTM" bottom: "x" bottom: "cont" top: "h" recurrent_param {
        num_output: 3 weight_filler { type: "xavier" } bias_filler { type: "uniform" } } }
layer { name: "rnn" type: "RNN" bottom: "h" bottom: "cont" top: "r" recurrent_param {
        num_output: 2 weight_filler { type: "uniform" } bias_filler { type: "uniform" } } }
layer { name: "s1" type: "Scale" bottom: "x" top: "s1" param { name: "w" } scale_param {
        filler { type: "uniform" } bias_term: true bias_filler { type: "uniform" } } }
layer { name: "s2" type: "Scale" bottom: "x" top: "s2" param { name: "w" } scale_param {
        filler { type: "uniform" } bias_term: true bias_filler { type: "uniform" } } }
layer { name: "c" type: "Convolution" bottom: "x" top: "c" convolution_param { num_output: 6
        axis: 0 kernel_size: 2 weight_filler { type: "xavier" variance_norm: FAN_OUT } } }
layer { name: "t" type: "InnerProduct" bottom: "x" top: "t" inner_product_param { num_output: 5
        transpose: true weight_filler { type: "xavier" variance_norm: AVERAGE }
        bias_filler { type: "xavier" } } }
layer { name: "p" type: "PReLU" bottom: "x" top: "p" }
layer { name: "e" type: "Embed" bottom: "cont" top: "e" embed_param { num_output: 3 input_dim: 4
        weight_filler { type: "positive_unitball" } bias_filler { value: 0.3 } } }
layer { name: "r4" type: "Reshape" bottom: "x" top: "r4" reshape_param { shape { dim: 1 dim: 3
        dim: 5 dim: 4 } } }
layer { name: "b5" type: "Deconvolution" bottom: "r4" top: "b5" convolution_param { num_output: 3
        group: 3 kernel_size: 5 bias_term: false weight_filler { type: "bilinear" } } }
layer { name: "b4" type: "Deconvolution" bottom: "r4" top: "b4" convolution_param { num_output: 3
        group: 3 kernel_size: 4 bias_term: false weight_filler { type: "bilinear" } } }
layer { name: "z" type: "Bias" bottom: "x" top: "z" bias_param { filler { type: "uniform" } } }
"""


@pytest.mark.parametrize("seed", [1, 1701, 2**31 - 1])
def test_with_a_seed_the_numbers_are_caffes(pycaffe: Pycaffe, tmp_path: Path, seed: int) -> None:
    (tmp_path / "net.prototxt").write_text(SAME)
    pycaffe(CHILD, str(seed), cwd=tmp_path)
    trial = Trial(SAME)
    net = TorchNet(trial.net(), trial.message().layer, draws=Draws(seed))
    kept = net.forward({}, ["x"]).blobs["x"].numpy()
    with np.load(tmp_path / "out.npz") as theirs:
        for param in net.params:
            ours = param.value.detach().numpy()
            assert np.array_equal(ours, theirs[f"{param.layer}/{param.index}"]), param.layer
        assert np.array_equal(kept, theirs["blob/x"])


def drawn(text: str, shape: tuple[int, ...]) -> np.ndarray:
    filler = caffe_pb2.FillerParameter()
    for word in text.split():
        name, _, value = word.partition("=")
        if name == "type":
            filler.type = value
        elif name == "variance_norm":
            filler.variance_norm = caffe_pb2.FillerParameter.VarianceNorm.Value(value)
        elif name == "sparse":
            filler.sparse = int(value)
        else:
            setattr(filler, name, float(value))
    return fill(filler, shape, Draws(3))


@pytest.mark.parametrize(
    ("text", "mean", "deviation"),
    [
        ("type=gaussian mean=0.5 std=2", 0.5, 2.0),
        ("type=msra", 0.0, math.sqrt(2 / (7 * 11))),
        ("type=msra variance_norm=FAN_OUT", 0.0, math.sqrt(2 / (503 * 11))),
        ("type=msra variance_norm=AVERAGE", 0.0, math.sqrt(4 / (7 * 11 + 503 * 11))),
    ],
)
def test_other_numbers_of_the_same_distribution(text: str, mean: float, deviation: float) -> None:
    values = drawn(text, (503, 7, 11))
    error = 5 / math.sqrt(values.size)
    assert abs(values.mean() - mean) < error * deviation
    assert abs(values.std() - deviation) < error * deviation


def test_a_sparse_gaussian_keeps_a_few_inputs_of_each_output() -> None:
    values = drawn("type=gaussian std=1 sparse=20", (200, 300))
    share = np.count_nonzero(values) / values.size
    assert abs(share - 20 / 200) < 5 * math.sqrt(0.1 * 0.9 / values.size)


def test_every_filler_is_tried() -> None:
    known = {word for word in FILLERS if f'"{word}"' in SAME} | {"gaussian", "msra", "constant"}
    assert known == set(FILLERS)


def test_the_state_of_the_numbers_goes_on() -> None:
    first = Draws(5)
    first.uniform(0, 1, 7)
    second = Draws(6)
    second.state = first.state
    assert np.array_equal(first.uniform(0, 1, 1000), second.uniform(0, 1, 1000))
    assert not np.array_equal(Draws().raws(4), Draws().raws(4))

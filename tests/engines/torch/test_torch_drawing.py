"""Layers that draw in each pass, or write: what a table of numbers can't judge."""

from __future__ import annotations

import math
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from caffe_batch.engines.torch.fillers import Draws
from caffe_batch.engines.torch.net import TorchNet
from caffe_batch.errors import InputError
from tests.engines.torch.on_caffe import SEED, Array, Pycaffe, Trial, on_caffe, on_torch

INPUT = 'layer {{ name: "in" type: "Input" top: "x" input_param {{ shape {{ {dims} }} }} }}'


def net_of(layer: str, shape: tuple[int, ...], phase: str = "TRAIN") -> TorchNet:
    dims = " ".join(f"dim: {size}" for size in shape)
    text = f'force_backward: true {INPUT.format(dims=dims)} layer {{ name: "a" {layer} }}'
    trial = Trial(text, phase="TEST" if phase == "TEST" else "TRAIN")
    return TorchNet(trial.net(), trial.message().layer, draws=Draws(SEED))


def forward_backward(net: TorchNet, x: Array, top: str = "y") -> tuple[Array, Array]:
    """The top, and the gradient of the bottom for one of the top of ones."""
    fed = torch.from_numpy(x.copy()).requires_grad_(True)
    done = net.forward({"x": fed}, [top])
    done.blobs[top].sum().backward()  # type: ignore[no-untyped-call]  # torch has no types for it
    assert fed.grad is not None
    return done.blobs[top].detach().numpy(), fed.grad.numpy()


# Stochastic pooling: Caffe has it on the GPU only, so its code is followed by hand

POOL = (
    'type: "Pooling" bottom: "x" top: "y" pooling_param '
    "{ pool: STOCHASTIC kernel_h: 3 kernel_w: 2 stride: 2 }"
)


def windows(x: Array) -> list[tuple[tuple[int, int, int, int], tuple[slice, slice]]]:
    """Each top's place, and its rows and columns (pooling_layer.cu, StoPoolForward)."""
    number, channels, height, width = x.shape
    rows, columns = math.ceil((height - 3) / 2) + 1, math.ceil((width - 2) / 2) + 1
    return [
        ((n, c, i, j), (slice(2 * i, min(2 * i + 3, height)), slice(2 * j, min(2 * j + 2, width))))
        for n in range(number)
        for c in range(channels)
        for i in range(rows)
        for j in range(columns)
    ]


def distinct(shape: tuple[int, ...]) -> Array:
    """Positive numbers, each of which says where it stood."""
    values = np.random.default_rng(3).permutation(math.prod(shape)) + 1
    return (values / 8).reshape(shape).astype(np.float32)


def test_a_stochastic_pooling_expects_in_a_test_what_it_draws_in_training() -> None:
    x = distinct((2, 3, 7, 5))
    x[0, 0, :3, :2] = 0  # nothing to draw from
    net = net_of(POOL, x.shape, "TEST")
    top = net.forward({"x": torch.from_numpy(x)}, ["y"]).blobs["y"].numpy()
    assert top.shape == (2, 3, 3, 3)
    for place, (rows, columns) in windows(x):
        inside = x[place[0], place[1], rows, columns].astype(np.float64)
        expected = (inside**2).sum() / inside.sum() if inside.any() else 0
        assert top[place] == pytest.approx(expected, rel=1e-6)


def test_a_stochastic_pooling_draws_in_proportion() -> None:
    samples = 2000
    plane = distinct((1, 1, 7, 5))
    x = np.repeat(plane, samples, axis=0)
    torch.manual_seed(SEED)
    top, gradient = forward_backward(net_of(POOL, x.shape), x)
    hits = np.zeros_like(x)
    for (_, _, i, j), (rows, columns) in windows(plane):
        drawn = top[:, 0, i, j][:, None, None] == plane[0]  # of each sample, where
        hits[:, 0] += drawn
        inside = plane[0, 0, rows, columns]
        share = inside / inside.sum()
        spread = np.sqrt(share * (1 - share) / samples)
        found = drawn.mean(axis=0)
        assert (abs(found[rows, columns] - share) < 5 * spread + 1e-12).all()
        assert found.sum() == pytest.approx(1)
    np.testing.assert_array_equal(gradient, hits)  # all of it to what was drawn


# Dropout in training


@pytest.mark.parametrize("top", ["x", "y"])
@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.9])
def test_a_dropout_drops_and_scales(ratio: float, top: str) -> None:
    shape = (50, 40)
    net = net_of(
        f'type: "Dropout" bottom: "x" top: "{top}" dropout_param {{ dropout_ratio: {ratio} }}',
        shape,
    )
    torch.manual_seed(SEED)
    x = distinct(shape)
    value, gradient = forward_backward(net, x, top)
    kept = value != 0
    spread = math.sqrt(ratio * (1 - ratio) / x.size)
    assert abs(kept.mean() - (1 - ratio)) < 5 * spread
    scale = 1 / (1 - ratio)
    np.testing.assert_allclose(value[kept], x[kept] * scale, rtol=1e-6)
    np.testing.assert_allclose(gradient, kept * scale, rtol=1e-6)  # the mask of this pass
    again, other = forward_backward(net, x, top)
    assert ((again != 0) != kept).any()
    np.testing.assert_allclose(other, (again != 0) * scale, rtol=1e-6)
    torch.manual_seed(SEED)
    np.testing.assert_array_equal(forward_backward(net, x, top)[0], value)


# DummyData

DUMMY = """
layer { name: "d" type: "DummyData" top: "c" top: "u" top: "v" dummy_data_param {
  shape { dim: 7 dim: 11 } shape { dim: 13 dim: 5 } shape { dim: 3 }
  data_filler { type: "constant" value: 0.5 } data_filler { type: "uniform" min: -2 max: 3 }
  data_filler { type: "uniform" } } }
"""


def test_a_dummy_data_fills_constants_once_and_the_rest_as_caffe_does(
    pycaffe: Pycaffe, tmp_path: Path
) -> None:
    trial = Trial(DUMMY, feeds=[{}, {}, {}])
    (theirs,) = on_caffe(pycaffe, tmp_path, [trial])
    assert theirs is not None
    ours = on_torch(trial, theirs.weights)
    for n in range(3):
        for name in ("c", "u", "v"):
            np.testing.assert_array_equal(ours.blobs[n][name], theirs.blobs[n][name])
    assert (ours.blobs[0]["u"] != ours.blobs[1]["u"]).any()


@pytest.mark.parametrize(
    ("filler", "deviation"),
    [('type: "gaussian" mean: 2 std: 3', 3.0), ('type: "msra"', math.sqrt(2 / 400))],
)
def test_a_dummy_data_of_normal_numbers_has_their_distribution(
    pycaffe: Pycaffe, tmp_path: Path, filler: str, deviation: float
) -> None:
    trial = Trial(
        'layer { name: "d" type: "DummyData" top: "g" dummy_data_param { shape { dim: 50 dim: 400 }'
        f" data_filler {{ {filler} }} }} }}",
        feeds=[{}, {}],
    )
    (theirs,) = on_caffe(pycaffe, tmp_path, [trial])
    assert theirs is not None
    mean = 2 if "mean" in filler else 0
    count = 50 * 400
    for answer in (theirs, on_torch(trial, theirs.weights)):  # Caffe's own pass the same test
        first, second = (answer.blobs[n]["g"].astype(np.float64) for n in range(2))
        assert (first != second).any()
        for numbers in (first, second):
            assert abs(numbers.mean() - mean) < 5 * deviation / math.sqrt(count)
            assert abs(numbers.std() / deviation - 1) < 5 / math.sqrt(2 * count)
            inside = (abs(numbers - mean) < deviation).mean()
            assert abs(inside - 0.682689) < 5 * math.sqrt(0.682689 * 0.317311 / count)


# HDF5Output

OUTPUT = """
layer { name: "d" type: "DummyData" top: "x" top: "t" dummy_data_param {
  shape { dim: 3 dim: 2 dim: 5 dim: 4 } shape { dim: 3 dim: 2 }
  data_filler { type: "uniform" } data_filler { type: "uniform" max: 9 } } }
layer { name: "out" type: "HDF5Output" bottom: "x" bottom: "t"
  hdf5_output_param { file_name: "%s" } }
"""


def test_an_hdf5_output_writes_caffes_file(pycaffe: Pycaffe, tmp_path: Path) -> None:
    """With four axes, however many the blobs have."""
    theirs, ours = tmp_path / "theirs.h5", tmp_path / "ours.h5"
    (answer,) = on_caffe(pycaffe, tmp_path, [Trial(OUTPUT % theirs)])
    assert answer is not None
    on_torch(Trial(OUTPUT % ours), answer.weights)
    with h5py.File(theirs) as one, h5py.File(ours) as other:
        assert list(one) == list(other) == ["data", "label"]
        for name in one:
            assert one[name].shape == other[name].shape
            assert one[name].dtype == other[name].dtype
            np.testing.assert_array_equal(one[name][...], other[name][...])


def test_an_hdf5_output_has_room_for_one_pass(pycaffe: Pycaffe, tmp_path: Path) -> None:
    trial = Trial(OUTPUT % (tmp_path / "both.h5"), feeds=[{}, {}])
    (answer,) = on_caffe(pycaffe, tmp_path, [trial])
    assert answer is None
    assert "HDF5" in (tmp_path / "0.log").read_text()
    with pytest.raises(InputError, match="layer 'out' has already written "):
        on_torch(trial, {})

"""Snapshots of the PyTorch engine: Caffe takes them as its own, and the other way round."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from caffe_batch.engines.caffe.snapshot_contents import check_contents
from caffe_batch.engines.torch.fillers import Draws
from caffe_batch.engines.torch.net import TorchNet
from caffe_batch.engines.torch.snapshots import (
    SolverState,
    load_weights,
    read_state,
    restore_history,
    write_state,
    write_weights,
)
from caffe_batch.engines.torch.update import RULES, Update
from caffe_batch.errors import InputError
from caffe_batch.net.reading import read_recipe
from caffe_batch.net.sources import Sources
from caffe_batch.schema import caffe_pb2
from tests.engines.torch.in_process import train_here

UPDATE, STEP = 37, 2

#: Parameters that are shared, have no axes or many, and layers without any.
NET = """
name: "snapped"
layer { name: "in" type: "Input" top: "in" input_param { shape { dim: 2 dim: 3 dim: 5 dim: 7 } } }
layer { name: "conv" type: "Convolution" bottom: "in" top: "conv" convolution_param {
  num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } bias_filler { value: 0.5 } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "one" type: "InnerProduct" bottom: "conv" top: "one" param { name: "w" }
  inner_product_param { num_output: 11 weight_filler { type: "xavier" } } }
layer { name: "two" type: "InnerProduct" bottom: "conv" top: "two" param { name: "w" }
  inner_product_param { num_output: 11 weight_filler { type: "xavier" } } }
"""

TAKE_AND_GIVE = """
import sys, caffe
solver = caffe.get_solver("solver.prototxt")
solver.restore(sys.argv[1])
solver.snapshot()
"""


def build(folder: Path, solver_type: str = "SGD", form: str = "BINARYPROTO") -> Any:
    """A net with other weights each time, and the history of its solver."""
    (folder / "net.prototxt").write_text(NET)
    (folder / "solver.prototxt").write_text(
        f'net: "{folder}/net.prototxt" type: "{solver_type}" base_lr: 1 lr_policy: "fixed"\n'
        f'snapshot_prefix: "{folder}/given" snapshot_format: {form} max_iter: 100\n'
    )
    recipe = read_recipe(folder / "solver.prototxt")
    net = recipe.train.build(recipe.train.layers(Sources((folder,))))
    built = TorchNet.of_file(recipe.train, net, draws=Draws())
    history = Update(recipe.solver, built.params).history
    for blob in history:
        blob.normal_()
    return built, history


def arrays(net: TorchNet) -> list[list[list[float]]]:
    return [[blob.flatten().tolist() for blob in layer.blobs] for layer in net.layer_blobs]


@pytest.mark.parametrize("solver_type", ["SGD", "Adam"])
@pytest.mark.parametrize("form", ["BINARYPROTO", "HDF5"])
def test_caffe_takes_them_and_gives_them_back(
    pycaffe: Callable[..., str], tmp_path: Path, solver_type: str, form: str
) -> None:
    end = ".h5" if form == "HDF5" else ""
    weights = tmp_path / f"own_iter_{UPDATE}.caffemodel{end}"
    state = tmp_path / f"own_iter_{UPDATE}.solverstate{end}"
    net, history = build(tmp_path, solver_type, form)
    write_weights(weights, net)
    write_state(state, SolverState(UPDATE, STEP, [blob.numpy() for blob in history]), weights)
    check_contents(UPDATE, state, weights)
    pycaffe(TAKE_AND_GIVE, str(state), cwd=tmp_path)
    given = tmp_path / f"given_iter_{UPDATE}.solverstate{end}"
    back, other = build(tmp_path, solver_type, form)
    assert arrays(back) != arrays(net)
    loaded = load_weights(tmp_path / f"given_iter_{UPDATE}.caffemodel{end}", [back])
    assert loaded == {"conv", "one", "two"}
    assert arrays(back) == arrays(net)
    found = read_state(given)
    assert (found.update, found.current_step) == (UPDATE, STEP)
    restore_history(given, found, other)
    for mine, theirs in zip(other, history, strict=True):
        assert torch.equal(mine, theirs)


LEARNT = """
layer { name: "in" type: "DummyData" top: "x" top: "y"
  dummy_data_param { shape { dim: 3 dim: 5 } shape { dim: 3 dim: 2 }
    data_filler { value: 0.25 } data_filler { value: -1 } } }
layer { name: "first" type: "InnerProduct" bottom: "x" top: "a" param { name: "w" }
  param { lr_mult: 2 decay_mult: 0 }
  inner_product_param { num_output: 5
    weight_filler { type: "xavier" } bias_filler { value: 0.5 } } }
layer { name: "tanh" type: "TanH" bottom: "a" top: "a" }
layer { name: "second" type: "InnerProduct" bottom: "a" top: "b" param { name: "w" }
  inner_product_param { num_output: 5 bias_term: false weight_filler { type: "xavier" } } }
layer { name: "frozen" type: "InnerProduct" bottom: "b" top: "c" param { lr_mult: 0 }
  param { lr_mult: 0 } inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "c" bottom: "y" top: "loss" }
"""

TRAIN = """
import caffe
solver = caffe.get_solver("solver.prototxt")
solver.step(3)
solver.snapshot()
"""


def read_diffs(path: Path) -> dict[str, list[float]]:
    """The gradients in a weights file, by layer and number."""
    if path.suffix == ".h5":
        with h5py.File(path) as file:
            return {
                f"{layer}/{number}": blob[()].flatten().tolist()
                for layer, blobs in file["diff"].items() for number, blob in blobs.items()
            }  # fmt: skip
    message = caffe_pb2.NetParameter.FromString(path.read_bytes())
    return {
        f"{layer.name}/{number}": list(blob.diff)
        for layer in message.layer for number, blob in enumerate(layer.blobs)
    }  # fmt: skip


@pytest.mark.parametrize("solver_type", sorted(RULES))
@pytest.mark.parametrize("form", ["BINARYPROTO", "HDF5"])
def test_snapshot_diff_keeps_what_the_last_update_has_taken(
    pycaffe: Callable[..., str], tmp_path: Path, solver_type: str, form: str
) -> None:
    (tmp_path / "net.prototxt").write_text(LEARNT)
    momentum = 0 if solver_type in ("AdaGrad", "RMSProp") else 0.9
    (tmp_path / "solver.prototxt").write_text(
        f'net: "net.prototxt" type: "{solver_type}" base_lr: 0.01 lr_policy: "inv" gamma: 0.1 '
        f"power: 0.75 momentum: {momentum} weight_decay: 0.01 max_iter: 3 iter_size: 2 "
        f'random_seed: 1 snapshot_prefix: "caffe" snapshot_diff: true snapshot_format: {form}'
    )
    pycaffe(TRAIN, cwd=tmp_path)
    own = tmp_path / "own"
    own.mkdir()
    solver = (tmp_path / "solver.prototxt").read_text().replace('"caffe"', '"own"')
    (own / "solver.prototxt").write_text(solver)
    (own / "net.prototxt").write_text(LEARNT)
    assert train_here(own / "solver.prototxt") == 0
    (theirs,) = tmp_path.glob("caffe_iter_3.caffemodel*")
    (mine,) = own.glob("own_iter_3.caffemodel*")
    wanted, found = read_diffs(theirs), read_diffs(mine)
    assert found.keys() == wanted.keys() == {
        "first/0", "first/1", "second/0", "frozen/0", "frozen/1",
    }  # fmt: skip
    assert any(wanted["first/0"])
    assert found["first/0"] == found["second/0"]
    for name, values in wanted.items():
        largest = max(map(abs, values))
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-5 * largest)


def test_a_binary_file_is_the_one_that_protobuf_would_write(tmp_path: Path) -> None:
    net, history = build(tmp_path)
    weights, state = tmp_path / "own_iter_1.caffemodel", tmp_path / "own_iter_1.solverstate"
    write_weights(weights, net)
    message = caffe_pb2.NetParameter.FromString(weights.read_bytes())
    assert message.name == "snapped"
    assert [layer.name for layer in message.layer] == [layer.name for layer in net.layer_blobs]
    values = SolverState(1, 0, [blob.numpy() for blob in history])
    write_state(state, values, weights)
    read = caffe_pb2.SolverState.FromString(state.read_bytes())
    assert read.SerializeToString() == state.read_bytes()
    assert read.learned_net == str(weights)
    assert [list(blob.data) for blob in read.history] == [b.flatten().tolist() for b in history]


def test_weights_of_older_syntax_and_in_doubles_are_read(tmp_path: Path) -> None:
    net, _ = build(tmp_path)
    old = caffe_pb2.NetParameter()
    layer = old.layers.add(name="conv")
    layer.blobs.add(num=4, channels=3, height=3, width=3).data.extend([0.25] * 108)
    layer.blobs.add(num=1, channels=1, height=1, width=4).double_data.extend([0.1] * 4)
    path = tmp_path / "old.caffemodel"
    path.write_bytes(old.SerializeToString())
    assert load_weights(path, [net]) == {"conv"}
    weights, bias = next(layer for layer in net.layer_blobs if layer.name == "conv").blobs
    assert weights.unique().tolist() == [0.25]
    assert bias.unique().tolist() == [float(np.float32(0.1))]


@pytest.mark.parametrize("form", ["BINARYPROTO", "HDF5"])
def test_what_does_not_fit_is_refused(tmp_path: Path, form: str) -> None:
    end = ".h5" if form == "HDF5" else ""
    net, history = build(tmp_path)
    weights, state = tmp_path / f"a.caffemodel{end}", tmp_path / f"a.solverstate{end}"
    write_weights(weights, net)
    (tmp_path / "net.prototxt").write_text(NET.replace("num_output: 4", "num_output: 6"))
    recipe = read_recipe(tmp_path / "net.prototxt")
    other = TorchNet.of_file(
        recipe.train, recipe.train.build(recipe.train.layers(Sources((tmp_path,))))
    )
    with pytest.raises(InputError, match="parameter 0 of layer 'conv' is 4 x 3 x 3 x 3 there"):
        load_weights(weights, [other])
    write_state(state, SolverState(1, 0, [blob.numpy() for blob in history[:-1]]), weights)
    with pytest.raises(InputError, match="4 history blobs, and this solver 5"):
        restore_history(state, read_state(state), history)
    write_state(state, SolverState(1, 0, [blob.numpy() for blob in reversed(history)]), weights)
    with pytest.raises(InputError, match="history blob 0 has 11 values, and this solver's 108"):
        restore_history(state, read_state(state), history)
    for path, read in (
        (weights, lambda: load_weights(weights, [net])),
        (state, lambda: read_state(state)),
    ):
        path.write_bytes(path.read_bytes()[:-300])
        with pytest.raises(InputError, match=path.name):
            read()


def test_a_file_that_can_not_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    net, _ = build(tmp_path)
    for name in ("a.caffemodel", "a.caffemodel.h5"):
        with pytest.raises(OSError, match=name):
            write_weights(tmp_path / "no such folder" / name, net)
    path = tmp_path / "a.caffemodel"
    write_weights(path, net)
    before = path.read_bytes()
    temporary = tmp_path / ".a.caffemodel.tmp"
    temporary.symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device: .*a\.caffemodel"):
        write_weights(path, net)
    assert path.read_bytes() == before
    assert not temporary.is_symlink()


def test_hdf5_files_have_what_caffe_writes(tmp_path: Path) -> None:
    net, history = build(tmp_path)
    weights, state = tmp_path / "a.caffemodel.h5", tmp_path / "a.solverstate.h5"
    write_weights(weights, net)
    write_state(state, SolverState(UPDATE, 0, [blob.numpy() for blob in history]), weights)
    with h5py.File(weights) as file:
        assert set(file["data"]["two"]) == {"1"}  # its weights are shared: their owner has them
        assert "relu" in file["data"]
    with h5py.File(state) as file:
        assert file["learned_net"][()].decode() == str(weights)

"""Python layers: the same classes in real Caffe and in the PyTorch engine's module ``caffe``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from caffe_batch.engines.torch.layers.python import PythonError
from tests.engines.torch.on_caffe import (
    GRADIENTS,
    OUTPUTS,
    Pycaffe,
    Trial,
    on_caffe,
    on_torch,
    worst,
)

#: In the style of the layers of FCN: a data layer with a state, a loss with an own gradient, and
#: one with parameters. They look at everything that pycaffe shows them.
LAYERS = """
import json
import caffe
import numpy as np

class Source(caffe.Layer):
    def setup(self, bottom, top):
        if len(bottom) != 0 or len(top) != 2:
            raise Exception("Needs no bottoms, two tops")
        self.rows = json.loads(self.param_str)["rows"]
        self.random = np.random.RandomState(3)
        self.at = 0

    def reshape(self, bottom, top):
        top[0].reshape(self.rows, 4)
        top[1].reshape(self.rows, 3)

    def forward(self, bottom, top):
        top[0].data[...] = self.random.normal(size=(self.rows, 4)) + self.at
        top[1].data[...] = self.random.normal(size=top[1].data.shape)
        self.at += 1

    def backward(self, top, propagate_down, bottom):
        pass

class Distance(caffe.Layer):
    def setup(self, bottom, top):
        assert len(bottom) == 2 and self.phase in (caffe.TRAIN, caffe.TEST)

    def reshape(self, bottom, top):
        if bottom[0].count != bottom[1].count:
            raise Exception("Inputs must have the same dimension.")
        self.diff = np.zeros_like(bottom[0].data, dtype=np.float32)
        top[0].reshape(1)

    def forward(self, bottom, top):
        self.diff[...] = bottom[0].data - bottom[1].data
        top[0].data[...] = np.sum(self.diff**2) / bottom[0].num / 2.

    def backward(self, top, propagate_down, bottom):
        for i in range(2):
            if not propagate_down[i]:
                continue
            sign = 1 if i == 0 else -1
            bottom[i].diff[...] = 1.5 * sign * self.diff / bottom[i].num

class Learned(caffe.Layer):
    def setup(self, bottom, top):
        self.blobs.add_blob(bottom[0].channels)
        self.blobs[0].data[...] = np.arange(bottom[0].shape[1]) + 1

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)
        top[1].reshape(*bottom[0].data.shape)

    def forward(self, bottom, top):
        top[0].data[...] = bottom[0].data * self.blobs[0].data
        top[1].data[...] = bottom[0].data ** 2

    def backward(self, top, propagate_down, bottom):
        self.blobs[0].diff[...] += np.sum(top[0].diff * bottom[0].data, axis=0)
        if propagate_down[0]:
            bottom[0].diff[...] = (
                top[0].diff * self.blobs[0].data + 2 * bottom[0].data * top[1].diff)

class Wrong(caffe.Layer):
    def setup(self, bottom, top):
        pass
    def reshape(self, bottom, top):
        top[0].reshape(1)
    def forward(self, bottom, top):
        caffe.io.load_image("none.png")
"""

NET = """
layer { name: "source" type: "Python" top: "x" top: "y"
        python_param { module: "MODULE" layer: "Source" param_str: '{"rows": 5}' } }
layer { name: "first" type: "InnerProduct" bottom: "x" top: "a"
        inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "learned" type: "Python" bottom: "a" top: "b" top: "c" loss_weight: 0 loss_weight: 0.3
        python_param { module: "MODULE" layer: "Learned" } }
layer { name: "loss" type: "Python" bottom: "b" bottom: "y" top: "loss" loss_weight: 1
        python_param { module: "MODULE" layer: "Distance" } }
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module with the layers, in the working directory; no ``caffe`` stays."""
    name = f"layers_of_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(LAYERS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield name
    sys.modules.pop("caffe", None)


def test_python_layers_give_what_caffe_gives(pycaffe: Pycaffe, tmp_path: Path, module: str) -> None:
    trial = Trial(NET.replace("MODULE", module), feeds=({}, {}))
    (theirs,) = on_caffe(pycaffe, tmp_path, [trial])
    assert theirs is not None, (tmp_path / "0.log").read_text()[-2000:]
    ours = on_torch(trial, theirs.weights)
    assert list(theirs.weights["learned/0"]) == [1, 2, 3]
    for n in range(2):
        assert ours.losses[n] == pytest.approx(theirs.losses[n], rel=OUTPUTS)
        assert worst(theirs.blobs[n], ours.blobs[n]) < (OUTPUTS, "z")
        assert worst(theirs.gradients[n], ours.gradients[n]) < (GRADIENTS, "z")
        assert np.any(ours.gradients[n]["learned/0"])


def one_layer(module: str, layer: str) -> Trial:
    return Trial(
        f'layer {{ name: "l" type: "Python" top: "t" '
        f'python_param {{ module: "{module}" layer: "{layer}" }} }}'
    )


def test_what_the_module_lacks_is_named(module: str) -> None:
    said = r"forward of Python layer .*Wrong has raised AttributeError: .* .caffe. has no .io."
    with pytest.raises(PythonError, match=said):
        on_torch(one_layer(module, "Wrong"), {})


@pytest.mark.parametrize(
    ("wanted", "layer", "message"),
    [
        ("no_such_module", "Source", "can't be loaded: ModuleNotFoundError: No module named"),
        ("MODULE", "Nobody", "can't be loaded: AttributeError: .*Nobody"),
        ("MODULE", "Source", "setup of Python layer .*Source has raised Exception: Needs no bott"),
    ],
)
def test_a_layer_that_cant_be_made(module: str, wanted: str, layer: str, message: str) -> None:
    trial = one_layer(wanted.replace("MODULE", module), layer)
    with pytest.raises(PythonError, match=message):
        trial.net()


def test_a_blob_shows_what_pycaffes_shows(pycaffe: Pycaffe, module: str) -> None:
    """The attributes that layers use are those of the real thing."""
    from caffe_batch.engines.torch.pycaffe import Blob, Layer

    names = pycaffe(
        "import caffe; print(*sorted(set(dir(caffe._caffe.Blob)) - set(dir(object))));"
        "print(*sorted(set(dir(caffe.Layer)) - set(dir(object))))"
    ).splitlines()
    blob, layer = (set(line.split()) for line in names)
    assert {n for n in dir(Blob) if not n.startswith("_")} - {"set_data", "set_diff"} <= blob
    assert {n for n in dir(Layer) if not n.startswith("_")} <= layer | {
        "setup", "reshape", "forward", "backward"
    }  # fmt: skip

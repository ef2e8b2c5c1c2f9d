"""`verify` and `noise` name the layer, the file and the line that made real Caffe die."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from caffe_batch.errors import CaffeBatchError
from caffe_batch.experiments.noise import NoiseOptions, measure_noise
from tests.experiments.measuring import SOLVER, Bench, nothing

IMAGES = """
layer { name: "images" type: "ImageData" top: "data" top: "label" include { phase: TRAIN }
  image_data_param { source: "list.txt" batch_size: 4 } }
layer { name: "images" type: "ImageData" top: "data" top: "label" include { phase: TEST }
  image_data_param { source: "bad.txt" batch_size: 4 } }
"""
PYTHON = """
layer { name: "mine" type: "Python" bottom: "data" top: "mine"
  python_param { module: "own_layer" layer: "Own" } }
"""
CLASSIFIER = """
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
OWN_LAYER = """
import caffe
class Own(caffe.Layer):
    def setup(self, bottom, top):
        pass
    def reshape(self, bottom, top):
        top[0].reshape(1)
    def forward(self, bottom, top):
        raise ValueError("not today")
    def backward(self, top, propagate_down, bottom):
        pass
"""


def write_images(folder: Path, *, missing: int | None = None) -> None:
    """Ten images and their list; the list of the TEST net names images that nobody reads."""
    for number in range(10):
        if number != missing:
            Image.new("RGB", (4, 3), (number, 0, 0)).save(folder / f"{number}.png")
    (folder / "list.txt").write_text("".join(f"{n}.png {n % 4}\n" for n in range(10)))
    (folder / "bad.txt").write_text("0.png 1\nnowhere.png 1\n")


def told(command: str, bench: Bench, net: str) -> str:
    """What `verify` or `noise` says of a death."""
    model = bench.model(net, allow_unknown=True)

    def measure() -> object:
        if command == "verify":
            return bench.measure(net, SOLVER, nothing, allow_unknown=True)
        return measure_noise(model, bench.runtime, NoiseOptions(groups=4, passes=4))

    with pytest.raises(CaffeBatchError) as caught:
        measure()
    return caught.value.message


@pytest.mark.parametrize("command", ["verify", "noise"])
def test_a_missing_image(command: str, slow_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(slow_bench.folder)
    write_images(slow_bench.folder, missing=6)
    said = told(command, slow_bench, IMAGES + CLASSIFIER)
    assert "Could not load 6.png" in said
    assert "layer 'images' (TRAIN): list.txt:7: source '6.png' is not in " in said
    assert "nowhere.png" not in said


@pytest.mark.parametrize("command", ["verify", "noise"])
def test_a_python_layer(command: str, slow_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(slow_bench.folder)
    write_images(slow_bench.folder)
    (slow_bench.folder / "own_layer.py").write_text(OWN_LAYER)
    said = told(command, slow_bench, IMAGES + PYTHON + CLASSIFIER)
    assert "Python error: ValueError: not today (" in said
    assert "own_layer.py:9); that is the code of layer 'mine'" in said

"""Whole nets against real Caffe: as far as rounding allows (control.py), and 1e-5 where smooth."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import text_format

from caffe_batch import resources
from caffe_batch.engines.torch.refusals import departures
from caffe_batch.layers import BUILT_IN
from caffe_batch.layers.base import Shape
from caffe_batch.net.filtering import net_state, select
from caffe_batch.prototxt import parse_net, read_net
from caffe_batch.rendering import available, render
from caffe_batch.schema import caffe_pb2
from tests.engines.torch.control import Finding, findings
from tests.engines.torch.drawn_nets import drawn_trial, fed_trial
from tests.engines.torch.on_caffe import (
    GRADIENTS,
    OUTPUTS,
    Pycaffe,
    Trial,
    on_caffe,
    on_torch,
    worst,
)

#: The drawn nets of the default suite, and those of the slow one.
DRAWN = range(40)
MORE_DRAWN = range(40, 400)

#: The shape of each top of a net's data layers, one after another. A folder of prototxt/ goes
#: before a template of its name.
NETS: dict[str, tuple[Shape, ...]] = {
    "digits": ((7, 1, 8, 8), (7,)),
    "mlp": ((7, 20), (7, 3)),
    "siamese": ((7, 2, 28, 28), (7,)),
    "cifar10": ((5, 3, 32, 32), (5,)),
    "lenet_digits": ((7, 1, 8, 8), (7,)),
    "caffenet": ((2, 3, 227, 227), (2,)),
    "resnet50": ((2, 3, 224, 224), (2,)),
    "resnet101": ((2, 3, 224, 224), (2,)),
    "resnet152": ((2, 3, 224, 224), (2,)),
    "lenet": ((7, 1, 28, 28), (7,)),
    "autoencoder": ((7, 1, 28, 28),),
    "lstm": ((5, 20, 32), (5, 20), (5,)),
    "alexnet": ((2, 3, 67, 67), (2,)),
    "nin": ((2, 3, 99, 99), (2,)),  # 2 x 2 before the last 3 x 3: see memory-model.md, "1 x 1"
    "vgg": ((2, 3, 32, 32), (2,)),
    "vgg11": ((2, 3, 32, 32), (2,)),
    "vgg16": ((2, 3, 32, 32), (2,)),
    "vgg19": ((2, 3, 32, 32), (2,)),
    "googlenet": ((4, 3, 96, 96), (4,)),
    "inception_v3": ((4, 3, 299, 299), (4,)),
    "squeezenet": ((4, 3, 63, 63), (4,)),
    "resnet18": ((4, 3, 96, 96), (4,)),
    "resnet34": ((4, 3, 96, 96), (4,)),
    "resnext50": ((4, 3, 96, 96), (4,)),
    "se_resnet50": ((4, 3, 96, 96), (4,)),
    "densenet121": ((4, 3, 96, 96), (4,)),
    "mobilenet": ((4, 3, 96, 96), (4,)),
    "wide_resnet": ((4, 3, 32, 32), (4,)),
    "unet": ((1, 1, 64, 64), (1, 1, 64, 64)),
    "segnet": ((2, 3, 64, 64), (2, 1, 64, 64)),
    "fcn": ((1, 3, 64, 64), (1, 1, 64, 64)),
    "fcn8s": ((1, 3, 64, 64), (1, 1, 64, 64)),
    "fcn32s": ((1, 3, 64, 64), (1, 1, 64, 64)),
}
FOLDERS = ("digits", "mlp", "siamese", "cifar10")
QUICK = (*FOLDERS, "lenet_digits", "lenet", "autoencoder")
SLOW = tuple(name for name in NETS if name not in QUICK)


def whole_net(name: str, *, smooth: bool = False) -> Trial:
    """A net that comes with the package, with inputs in place of its sources.

    Args:
        name: Of a template or of a folder of prototxt/.
        smooth: With TanH for ReLU and averages for maxima.
    """
    message = (
        parse_net(render(name, {"data": "dummy"})) if name not in FOLDERS
        else read_net(Path(resources.folder("prototxt")) / name / "net.prototxt")
    )  # fmt: skip
    kept = caffe_pb2.NetParameter()
    shapes = iter(NETS[name])
    for _, layer in select(message.layer, net_state("TRAIN", message, caffe_pb2.NetState())):
        del layer.include[:], layer.exclude[:]
        if not layer.bottom:
            made = caffe_pb2.LayerParameter(name=layer.name, type="Input", top=layer.top)
            for _ in layer.top:
                made.input_param.shape.add(dim=next(shapes))
            layer = made
        if layer.type == "Dropout":
            layer.dropout_param.dropout_ratio = 1e-30
        if smooth and layer.type == "ReLU":
            layer.type = "TanH"
        if smooth and layer.type == "Pooling":
            layer.pooling_param.pool = caffe_pb2.PoolingParameter.AVE
        kept.layer.append(layer)
    return fed_trial(text_format.MessageToString(kept), 1, passes=1)


def judged(pycaffe: Pycaffe, folder: Path, trial: Trial) -> list[Finding]:
    (theirs,) = on_caffe(pycaffe, folder, [trial])
    assert theirs is not None, (folder / "0.log").read_text()[-1000:]
    return findings(trial, theirs)


def test_every_net_that_comes_along_is_tried() -> None:
    folders = {path.name for path in Path(resources.folder("prototxt")).iterdir() if path.is_dir()}
    templates = {template.name for template in available()} - {"solver", "resnet"}
    assert folders | templates == set(NETS)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in NETS]
)
def test_a_whole_net(pycaffe: Pycaffe, tmp_path: Path, name: str) -> None:
    found = judged(pycaffe, tmp_path, whole_net(name))
    assert [finding for finding in found if not finding.right] == []


@pytest.mark.parametrize(
    "name", ["digits", "mlp", "siamese", pytest.param("caffenet", marks=pytest.mark.slow)]
)
def test_a_smooth_net_is_the_same_to_the_last_digits(
    pycaffe: Pycaffe, tmp_path: Path, name: str
) -> None:
    """Without kinks and BatchNorm nothing multiplies rounding: wrong semantics would show."""
    trial = whole_net(name, smooth=True)
    assert not {layer.type for layer in trial.message().layer} & {"BatchNorm", "ReLU"}
    (theirs,) = on_caffe(pycaffe, tmp_path, [trial])
    assert theirs is not None
    ours = on_torch(trial, theirs.weights)
    assert ours.losses == pytest.approx(theirs.losses, rel=OUTPUTS)
    assert worst(theirs.gradients[0], ours.gradients[0]) < (GRADIENTS, "z")


def _drawn(pycaffe: Pycaffe, folder: Path, seeds: range) -> tuple[list[str], set[str], int]:
    """What is wrong with the drawn nets, the types in those that were compared, how many."""
    trials: dict[int, Trial] = {}
    for seed in seeds:
        try:
            trials[seed] = drawn_trial(seed)
        except ValueError:  # a net that caffe-batch refuses, as Caffe does
            continue
    answers = on_caffe(pycaffe, folder, list(trials.values()))
    wrong: list[str] = []
    types: set[str] = set()
    compared = 0
    for (seed, trial), theirs in zip(trials.items(), answers, strict=True):
        net = trial.net()
        if theirs is None or list(departures(net)):
            continue
        compared += 1
        types |= {node.layer.type for node in net.nodes}
        found = findings(trial, theirs)
        wrong += [f"net {seed}: {finding}" for finding in found if not finding.right]
    return wrong, types, compared


def test_drawn_nets(pycaffe: Pycaffe, tmp_path: Path) -> None:
    wrong, _, compared = _drawn(pycaffe, tmp_path, DRAWN)
    assert wrong == []
    assert compared > len(DRAWN) / 2


@pytest.mark.slow
def test_more_drawn_nets(pycaffe: Pycaffe, tmp_path: Path) -> None:
    wrong, types, compared = _drawn(pycaffe, tmp_path, MORE_DRAWN)
    assert wrong == []
    assert compared > len(MORE_DRAWN) / 2
    sources = {"Data", "HDF5Data", "ImageData", "MemoryData", "WindowData"}
    assert types >= set(BUILT_IN) - sources - {"HDF5Output", "ArgMax", "Threshold"}


@pytest.mark.parametrize(
    ("layers", "layer", "says"),
    [
        ('type: "AbsVal" bottom: "x" top: "y" } layer { name: "c" type: "Flatten" '
         'bottom: "y" top: "f" } layer { name: "b" type: "TanH" bottom: "f" '
         'top: "f"', "b", "memory that blobs of other names share"),
        ('type: "Pooling" bottom: "x" top: "x" pooling_param { kernel_size: 3 pad: 1 }', "a",
         "overwrites its input"),
        ('type: "TanH" bottom: "x" top: "x"', "a", "a constant in place"),
        ('type: "Bias" bottom: "x" top: "y" } layer { name: "b" type: "Sigmoid" bottom: "y" '
         'top: "z" } layer { name: "c" type: "Scale" bottom: "z" top: "z" loss_weight: 1', "c",
         "it overwrites the top of layer 'b'"),
    ],
)  # fmt: skip
def test_what_only_memory_explains_is_told(layers: str, layer: str, says: str) -> None:
    text = (
        'layer { name: "d" type: "DummyData" top: "x" '
        f"dummy_data_param {{ shape {{ dim: 2 dim: 3 dim: 5 dim: 5 }} }} }} "
        f'layer {{ name: "a" {layers} }}'
    )
    found = list(departures(Trial(text).net()))
    assert [departure.layer for departure in found] == [layer]
    assert says in found[0].explanation

"""What the forks' own code gives, measured, beside what the rules say.

``tests/data/forks_measured.json`` says which commit of which repository. The bytes are those of
host memory, in CPU mode, of net and passes without a solver.
"""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from caffe_batch.memory.ledger import Ledger
from caffe_batch.memory.program import Program
from caffe_batch.net.filtering import net_state
from caffe_batch.net.graph import Net
from caffe_batch.net.reading import read_recipe
from caffe_batch.net.recipe import NetFile
from caffe_batch.net.sources import Sources
from caffe_batch.schema import caffe_pb2

FILE = Path(__file__).parent.parent / "data" / "forks_measured.json"
NETS: dict[str, Any] = json.loads(FILE.read_text())["nets"]

#: A convolution of a fork with N-D kernels keeps its geometry in integer blobs: kernel, stride,
#: padding and dilation of two axes, and three sizes of the input (base_conv_layer.cpp). Caffe's
#: CPU code never needs them as memory, so predictions leave them out.
GEOMETRY_BYTES = 4 * (4 * 2 + 3)
#: What layers inside others take when they are built, for the fake shapes that they get.
#: MultiBoxLoss: two locations of 4, their ones; three classes, a sum, a scale and two weights.
INSIDE_BYTES = {"multibox": 64}
#: The detections that a pass keeps beyond the one that DetectionOutput is built with: 5 of each of
#: 4 images, 7 numbers each; DetectionEvaluate adds 5 for each.
DETECTED_BYTES = {"det": 4 * (4 * 5 - 1) * (7 + 5)}
#: Boxes beyond the first one in the three batches read ahead: 7, 8 and 9 instead of 1 each.
BOXES_BYTES = {"multibox": 4 * 8 * (6 + 7 + 8)}


@cache
def built(name: str) -> tuple[Net, NetFile]:
    """The net as the rules build it, in the measured phase."""
    measured = NETS[name]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.prototxt"
        path.write_text(measured["net"])
        recipe = read_recipe(path)
    assert recipe.fork is not None
    file = recipe.train
    if measured["phase"] == "TEST":
        state = caffe_pb2.NetState(phase=caffe_pb2.TEST)
        file = NetFile(file.message, None, net_state("TEST", file.message, state), file.rules)
    sources = Sources((), {"data": (3, 33, 37)} if name == "multibox" else None)
    return file.build(file.layers(sources)), file


def run(name: str) -> tuple[int, int, int]:
    """Bytes after the build and after two passes, and how many of them are an upper bound."""
    net, _ = built(name)
    ledger = Ledger("cpu")
    program = Program(ledger)
    program.add_net(net, "net", backward=net.phase == "TRAIN")
    ledger.run(program.build)
    after_build = ledger.peak
    for _ in range(2):
        ledger.run(program.forward)
        ledger.run(reversed(program.backward))
    return after_build, ledger.peak, program.uncertain_bytes


def geometry(name: str) -> int:
    """What the convolutions' geometry adds, in forks whose convolutions have any number of axes."""
    net, _ = built(name)
    if NETS[name]["fork"] not in ("ssd", "pspnet"):
        return 0
    return GEOMETRY_BYTES * sum(node.layer.type == "Convolution" for node in net.nodes)


@pytest.mark.parametrize("name", NETS)
def test_the_shapes_are_those_of_the_fork(name: str) -> None:
    net, file = built(name)
    measured = NETS[name]
    assert file.rules.fork == measured["fork"]
    shapes = {blob: list(shape) for blob, shape in net.blob_shapes.items()}
    assert {blob: shapes[blob] for blob in measured["blobs"]} == measured["blobs"]
    params = {layer: [list(shape) for shape in each] for layer, each in net.param_shapes.items()}
    assert params == measured["params"]
    assert net.log_memory_required_for_data == measured["log_memory_required_for_data"]


@pytest.mark.parametrize("name", [name for name in NETS if name not in INSIDE_BYTES])
def test_the_bytes_are_those_of_the_fork(name: str) -> None:
    measured = NETS[name]
    after_build, after_passes, uncertain = run(name)
    assert uncertain == 0
    assert after_build + geometry(name) == measured["after_build_bytes"]
    if "after_passes_bytes" in measured:
        more = geometry(name) + DETECTED_BYTES.get(name, 0)
        assert after_passes + more == measured["after_passes_bytes"]


@pytest.mark.parametrize("name", INSIDE_BYTES)
def test_what_depends_on_the_data_is_below_the_upper_bound(name: str) -> None:
    measured = NETS[name]
    after_build, after_passes, uncertain = run(name)
    more = geometry(name) + BOXES_BYTES[name]
    assert 0 <= measured["after_build_bytes"] - after_build <= more + INSIDE_BYTES[name]
    least = after_passes - uncertain
    assert uncertain > 0
    assert least <= measured["after_passes_bytes"] <= after_passes + more


def test_segnets_bn_overwrites_its_gradients_and_others_add() -> None:
    """After a second Backward every gradient is twice as large, but for SegNet's BN."""
    overwritten = set()
    for name, measured in NETS.items():
        if "gradients_after_2_backward" not in measured:
            continue
        net, _ = built(name)
        once, twice = (measured[f"gradients_after_{number}_backward"] for number in (1, 2))
        for node in net.nodes:
            expected = node.rule.coupling(node.site).overwrites
            for number in range(len(node.param_shapes)):
                key = f"{node.layer.name}/{number}"
                (_, first), (_, second) = once[key], twice[key]
                if first == 0:
                    continue  # no gradient reaches it, or it has none
                overwrites = second == pytest.approx(first, rel=1e-4)
                assert overwrites or second == pytest.approx(2 * first, rel=1e-1), key
                if first > 1e-6:  # others are what rounding leaves of a sum that is zero
                    assert overwrites == (number in expected), key
                    overwritten |= {(name, key)} if overwrites else set()
    assert {name for name, _ in overwritten} == {"segnet"}

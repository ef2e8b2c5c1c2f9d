"""Whole nets against real pycaffe: blobs, Splits, parameters, log sizes, who needs gradients."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from caffe_batch import prototxt
from caffe_batch.errors import NetError
from caffe_batch.layers.base import Phase
from caffe_batch.net import Sources
from caffe_batch.net.filtering import net_state
from caffe_batch.net.recipe import NetFile
from caffe_batch.schema import caffe_pb2

#: Builds each net in a forked child (Caffe aborts on a bad one) and notes what became of it. An
#: empty blob has no memory: such a net is built, and the first pass that touches the blob aborts.
CHILD = """
import json, os, resource, sys
import caffe
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
phase, folder, number = getattr(caffe, sys.argv[1]), sys.argv[2], int(sys.argv[3])
for i in range(number):
    child = os.fork()
    if child == 0:
        os.dup2(os.open("%s/%d.log" % (folder, i), os.O_WRONLY | os.O_CREAT, 0o600), 2)
        net = caffe.Net("%s/%d.prototxt" % (folder, i), phase)
        if not all(blob.count for blob in net.blobs.values()):
            net.forward()
        built = {
            "layers": list(net._layer_names),
            "blobs": [[name, list(net.blobs[name].shape)] for name in net.blobs],
            "params": {name: [list(p.shape) for p in blobs] for name, blobs in net.params.items()},
        }
        with open("%s/%d.json" % (folder, i), "w") as file:
            json.dump(built, file)
        os._exit(0)
    os.waitpid(child, 0)
"""

Pycaffe = Callable[..., str]
Built = dict[str, Any] | None


def caffe_builds(pycaffe: Pycaffe, folder: Path, texts: list[str], phase: Phase) -> list[Built]:
    """What Caffe makes of each net, None where it refuses to build it or to run it."""
    for i, text in enumerate(texts):
        (folder / f"{i}.prototxt").write_text(text)
        (folder / f"{i}.json").unlink(missing_ok=True)
        (folder / f"{i}.log").unlink(missing_ok=True)
    pycaffe(CHILD, phase, str(folder), str(len(texts)))
    return [_caffe_built(folder, i) for i in range(len(texts))]


def _caffe_built(folder: Path, i: int) -> Built:
    result = folder / f"{i}.json"
    if not result.exists():
        return None
    built: dict[str, Any] = json.loads(result.read_text())
    log = (folder / f"{i}.log").read_text().splitlines()
    sizes = [line.rpartition(" ")[2] for line in log if "Memory required for data" in line]
    built["memory"] = int(sizes[-1])
    lines = [line.rpartition("] ")[2] for line in log]
    built["backward"] = sorted(
        line.removesuffix(" needs backward computation.")
        for line in lines
        if line.endswith(" needs backward computation.")
    )
    return built


def we_build(text: str, phase: Phase) -> Built:
    """The same from our side."""
    message = prototxt.parse_net(text)
    file = NetFile(message, None, net_state(phase, message))
    try:
        net = file.build(file.layers(Sources()))
    except NetError:
        return None
    shapes = {blob.name: list(blob.shape) for blob in net.blobs}
    return {
        "layers": [node.layer.name for node in net.nodes],
        "blobs": [[name, shape] for name, shape in shapes.items()],
        "params": {name: [list(s) for s in shapes] for name, shapes in net.param_shapes.items()},
        "memory": net.log_memory_required_for_data,
        # force_backward is applied after these lines are logged.
        "backward": sorted(node.layer.name for node in net.nodes if node.site.backward),
    }


# --- fixed nets, one a rule of Net::Init ---------------------------------------------------------

DATA = """
layer { name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param {
  shape { dim: 5 dim: 3 dim: 13 dim: 11 } shape { dim: 5 } } }
"""
CONV = (
    'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" {more} '
    "convolution_param {{ num_output: 7 kernel_size: 3 pad: 1 }} }}\n"
)
LOSS = """
layer { name: "ip" type: "InnerProduct" bottom: "%s" top: "ip"
  inner_product_param { num_output: 5 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


def conv(name: str, bottom: str, more: str = "") -> str:
    return CONV.format(name=name, bottom=bottom, more=more)


NETS = {
    "plain": DATA + conv("c", "data") + LOSS % "c",
    "two readers": DATA + conv("a", "data") + conv("b", "a")
    + 'layer { name: "e" type: "Eltwise" bottom: "a" bottom: "b" top: "e" }' + LOSS % "e",
    "in place after split": DATA + conv("a", "data") + conv("b", "a")
    + 'layer { name: "r" type: "ReLU" bottom: "a" top: "a" }' + LOSS % "a",
    "in place then two readers": DATA + conv("a", "data")
    + 'layer { name: "r" type: "ReLU" bottom: "a" top: "a" }' + conv("b", "a")
    + 'layer { name: "e" type: "Eltwise" bottom: "a" bottom: "b" top: "e" }' + LOSS % "e",
    "anonymous loss": DATA + conv("a", "data")
    + 'layer { name: "ip" type: "InnerProduct" bottom: "a" top: "ip" '
    "inner_product_param { num_output: 5 } }"
    'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" }',
    "loss weight moves to the split": DATA + conv("a", "data", "loss_weight: 0.5") + LOSS % "a",
    "loss with two tops": DATA + LOSS.replace('top: "loss"', 'top: "loss" top: "prob"') % "data",
    "loss with two tops and weights": DATA + LOSS.replace(
        'top: "loss"', 'top: "loss" top: "prob" loss_weight: 1 loss_weight: 0') % "data",
    "frozen": DATA + conv("a", "data", "param { lr_mult: 0 } param { lr_mult: 0 }")
    + conv("b", "a") + LOSS % "b",
    "all frozen below": DATA + conv("a", "data", "param { lr_mult: 0 } param { lr_mult: 0 }")
    + LOSS % "a",
    "propagate_down false": DATA + conv("a", "data") + conv("b", "a", "propagate_down: false")
    + LOSS % "b",
    "propagate_down true on data": DATA + conv("a", "data", "propagate_down: true") + LOSS % "a",
    "propagate_down too many": DATA
    + conv("a", "data", "propagate_down: true propagate_down: true") + LOSS % "a",
    "branch without loss": DATA + conv("a", "data") + conv("b", "a") + LOSS % "a",
    "shared parameters": DATA + conv("a", "data") + conv("b", "a", 'param { name: "w" }')
    + conv("c", "b", 'param { name: "w" }') + LOSS % "c",
    "shared with another shape": DATA + conv("a", "data", 'param { name: "w" }')
    + conv("b", "a", 'param { name: "w" }') + LOSS % "b",
    "shared lr_mult disagrees": DATA + conv("a", "data")
    + conv("b", "a", 'param { name: "w" lr_mult: 2 }')
    + conv("c", "b", 'param { name: "w" lr_mult: 3 }') + LOSS % "c",
    "shared lr_mult once": DATA + conv("a", "data")
    + conv("b", "a", 'param { name: "w" }')
    + conv("c", "b", 'param { name: "w" lr_mult: 3 }') + LOSS % "c",
    "too many params": DATA + conv("a", "data", "param {} param {} param {}") + LOSS % "a",
    "unknown bottom": DATA + conv("a", "dta") + LOSS % "a",
    "top twice": DATA + conv("a", "data") + conv("a", "data") + LOSS % "a",
    "batch norm on data": DATA
    + 'layer { name: "bn" type: "BatchNorm" bottom: "data" top: "bn" }' + LOSS % "bn",
    "batch norm with one param": DATA
    + 'layer { name: "bn" type: "BatchNorm" bottom: "data" top: "bn" param { decay_mult: 0 } }'
    + LOSS % "bn",
    "batch norm with params of 0": DATA
    + 'layer { name: "bn" type: "BatchNorm" bottom: "data" top: "bn" '
    "param { lr_mult: 0 } param { lr_mult: 0 } }" + LOSS % "bn",
    "batch norm with three params": DATA
    + 'layer { name: "bn" type: "BatchNorm" bottom: "data" top: "bn" '
    "param { lr_mult: 1 } param { lr_mult: 2 } param {} }" + LOSS % "bn",
    "phases": DATA + conv("a", "data", "include { phase: TRAIN }")
    + conv("b", "data", "include { phase: TEST }").replace('top: "b"', 'top: "a"') + LOSS % "a",
    "include and exclude": DATA
    + conv("a", "data", "include { phase: TRAIN } exclude { phase: TEST }") + LOSS % "a",
    "levels and stages": 'state { stage: "x" }' + DATA
    + conv("a", "data", "include { min_level: 0 max_level: 3 stage: 'x' not_stage: 'y' }")
    + conv("b", "data", "exclude { stage: 'x' }") + LOSS % "a",
    "no bottoms for a loss": 'layer { name: "loss" type: "SoftmaxWithLoss" top: "loss" }',
    "silence": DATA + conv("a", "data")
    + 'layer { name: "s" type: "Silence" bottom: "label" bottom: "a" }',
    "window larger than its input": DATA
    + 'layer { name: "r" type: "ReLU" bottom: "data" top: "data" }'
    'layer { name: "p" type: "Pooling" bottom: "data" top: "p" '
    "pooling_param { kernel_size: 1 stride: 4 } }"
    'layer { name: "c" type: "Convolution" bottom: "p" top: "c" '
    "convolution_param { num_output: 2 kernel_size: 1 stride: 2 } }"
    'layer { name: "unread" type: "Pooling" bottom: "c" top: "unread" '
    "pooling_param { kernel_size: 3 } }" + LOSS % "data",
    "old inputs": 'input: "data" input_dim: 2 input_dim: 3 input_dim: 5 input_dim: 7 '
    + conv("a", "data"),
}  # fmt: skip


@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
def test_rules_of_net_init(pycaffe: Pycaffe, tmp_path: Path, phase: Phase) -> None:
    judged = caffe_builds(pycaffe, tmp_path, list(NETS.values()), phase)
    ours = [we_build(text, phase) for text in NETS.values()]
    assert dict(zip(NETS, ours, strict=True)) == dict(zip(NETS, judged, strict=True))
    refused = [name for name, built in zip(NETS, judged, strict=True) if built is None]
    assert "top twice" in refused
    assert "window larger than its input" in refused
    assert "plain" not in refused


def test_an_empty_blob_is_built_and_aborts_at_its_first_touch(
    pycaffe: Pycaffe, tmp_path: Path
) -> None:
    """Why a window that is larger than its input is refused although Caffe's Net::Init takes it."""
    assert caffe_builds(pycaffe, tmp_path, [NETS["window larger than its input"]], "TRAIN") == [
        None
    ]
    log = (tmp_path / "0.log").read_text()
    assert "Top shape: 5 2 0 0 (0)" in log  # of the unread pool
    assert "Network initialization done." in log
    assert "Check failed: data_" in log


def test_force_backward_reaches_every_layer() -> None:
    message = prototxt.parse_net("force_backward: true" + NETS["all frozen below"])
    file = NetFile(message, None, net_state("TRAIN", message))
    net = file.build(file.layers(Sources()))
    assert all(node.site.backward for node in net.nodes)
    needs = {node.layer.name: node.site.bottom_need for node in net.nodes}
    assert needs["a"] == (True,)
    assert needs["loss"] == (True, False)  # never the labels


# --- nets that hypothesis makes ------------------------------------------------------------------


@dataclass
class Draft:
    """A net in the making: its text, and the shapes (C, H, W) of the blobs one may still read."""

    text: str = ""
    blobs: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    number: int = 0

    def add(self, kind: str, bottoms: list[str], settings: str, shape: tuple[int, int, int],
            *, in_place: bool = False) -> None:  # fmt: skip
        self.number += 1
        top = bottoms[0] if in_place else f"t{self.number}"
        reads = " ".join(f'bottom: "{bottom}"' for bottom in bottoms)
        self.text += (
            f'layer {{ name: "l{self.number}" type: "{kind}" {reads} top: "{top}" {settings} }}\n'
        )
        self.blobs[top] = shape


IN_PLACE = ["ReLU", "Sigmoid", "TanH", "Dropout", "BatchNorm", "Scale", "ELU", "PReLU", "Power"]
PLAIN = [*IN_PLACE, "AbsVal", "BNLL", "LRN", "MVN", "Softmax", "Split", "Bias", "Swish"]


@st.composite
def nets(draw: st.DrawFn) -> str:
    """A random net: convolutions, pools, joins, in-place layers, frozen and shared parameters."""
    sizes = draw(st.tuples(st.sampled_from([1, 2, 5]), st.sampled_from([2, 3, 4, 6]),
                           st.integers(7, 19), st.integers(7, 19)))  # fmt: skip
    batch, channels, height, width = sizes
    draft = Draft()
    draft.text = (
        'layer { name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param { '
        f"shape {{ dim: {batch} dim: {channels} dim: {height} dim: {width} }} "
        f"shape {{ dim: {batch} }} }} }}\n"
    )
    draft.blobs["data"] = (channels, height, width)
    for _ in range(draw(st.integers(1, 8))):
        bottom = draw(st.sampled_from(sorted(draft.blobs)))
        shape = draft.blobs[bottom]
        step = draw(st.sampled_from(["conv", "conv", "pool", "plain", "place", "join", "deconv"]))
        if step in ("conv", "deconv"):
            _add_convolution(draw, draft, bottom, shape, step)
        elif step == "pool":
            _add_pooling(draw, draft, bottom, shape)
        elif step == "place":
            draft.add(draw(st.sampled_from(IN_PLACE)), [bottom], "", shape, in_place=True)
        elif step == "plain":
            draft.add(draw(st.sampled_from(PLAIN)), [bottom], "", shape)
        else:
            same = [blob for blob, other in draft.blobs.items() if other == shape]
            other = draw(st.sampled_from(sorted(same)))
            if draw(st.booleans()):
                draft.add("Eltwise", [bottom, other], "", shape)
            else:
                doubled = (2 * shape[0], *shape[1:])
                draft.add("Concat", [bottom, other], "", doubled)
    last = draw(st.sampled_from(sorted(draft.blobs)))
    force = draw(st.sampled_from(["", "", "force_backward: false\n"]))
    return force + draft.text + LOSS % last


def _add_convolution(
    draw: st.DrawFn, draft: Draft, bottom: str, shape: tuple[int, int, int], step: str
) -> None:
    kernel, stride = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    pad, dilation = draw(st.integers(0, 2)), draw(st.sampled_from([1, 1, 2]))
    group = draw(st.sampled_from([1, 1, 2]))
    outputs = draw(st.sampled_from([2, 4, 5]))
    more = draw(st.sampled_from(["", "", "param { lr_mult: 0 }", "propagate_down: false",
                                 'param { name: "w" }', "loss_weight: 0.1"]))  # fmt: skip
    extent = dilation * (kernel - 1) + 1
    if step == "conv":
        spatial = [(size + 2 * pad - extent) // stride + 1 for size in shape[1:]]
    else:
        spatial = [stride * (size - 1) + extent - 2 * pad for size in shape[1:]]
    draft.add(
        {"conv": "Convolution", "deconv": "Deconvolution"}[step],
        [bottom],
        f"{more} convolution_param {{ num_output: {outputs} kernel_size: {kernel} "
        f"stride: {stride} pad: {pad} dilation: {dilation} group: {group} }}",
        (outputs, spatial[0], spatial[1]),
    )


def _add_pooling(draw: st.DrawFn, draft: Draft, bottom: str, shape: tuple[int, int, int]) -> None:
    kernel, stride, pad = draw(st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(0, 1)))
    method = draw(st.sampled_from(["MAX", "AVE"]))
    sizes = []
    for size in shape[1:]:
        out = -(-(size + 2 * pad - kernel) // stride) + 1
        sizes.append(out - 1 if pad and (out - 1) * stride >= size + pad else out)
    draft.add(
        "Pooling",
        [bottom],
        f"pooling_param {{ pool: {method} kernel_size: {kernel} stride: {stride} pad: {pad} }}",
        (shape[0], sizes[0], sizes[1]),
    )


@settings(
    max_examples=12,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(texts=st.lists(nets(), min_size=12, max_size=12))
def test_random_nets(pycaffe: Pycaffe, tmp_path: Path, texts: list[str]) -> None:
    judged = caffe_builds(pycaffe, tmp_path, texts, "TRAIN")
    for text, theirs in zip(texts, judged, strict=True):
        assert we_build(text, "TRAIN") == theirs, text


def test_unknown_phase_field_does_not_filter() -> None:
    """A layer's own `phase` field only overrides the net's; include rules filter."""
    layer = caffe_pb2.LayerParameter(name="a", type="ReLU", phase=caffe_pb2.TEST)
    message = caffe_pb2.NetParameter(layer=[layer])
    assert len(NetFile(message, None, net_state("TRAIN", message)).selected()) == 1

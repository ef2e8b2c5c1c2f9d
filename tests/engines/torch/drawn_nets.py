"""The random nets of tools/audit_search as trials: sources become inputs, and passes draw nothing.

A dropout drops nothing and a stochastic pooling averages, as in the audit's own comparisons.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np
from google.protobuf import text_format

from caffe_batch.experiments.made_data import numbers_for
from caffe_batch.layers import BUILT_IN
from caffe_batch.layers.base import Shape
from caffe_batch.layers.facts import NumberKind, Numbers
from caffe_batch.net.filtering import net_state, select
from caffe_batch.schema import caffe_pb2
from tests.engines.torch.on_caffe import Array, Trial
from tools.audit_search.draw import draw_case
from tools.audit_search.nets import FILE_BATCH as N
from tools.audit_search.sources import SHAPE


def drawn_trial(seed: int) -> Trial:
    """The net of a seed, with numbers for two passes."""
    message = text_format.Parse(draw_case(seed, ".").net_text(), caffe_pb2.NetParameter())
    state = net_state("TRAIN", message, caffe_pb2.NetState(stage=["on"]))
    kept = caffe_pb2.NetParameter(force_backward=message.force_backward)
    for _, layer in select(message.layer, state):
        del layer.include[:], layer.exclude[:]
        kept.layer.append(_undrawn(layer))
    return fed_trial(text_format.MessageToString(kept), seed)


def fed_trial(text: str, seed: int, passes: int = 2) -> Trial:
    """A net whose inputs hold what their readers take."""
    net = Trial(text).net()
    inputs = [
        (net.blobs[top].name, net.blobs[top].shape)
        for node in net.nodes if node.layer.type == "Input" for top in node.tops
    ]  # fmt: skip
    feeds = []
    for n in range(passes):
        draw = np.random.default_rng(zlib.crc32(f"{seed} {n}".encode()))
        feeds.append({name: _made(numbers_for(net, name), shape, draw) for name, shape in inputs})
    return Trial(text, feeds)


def _made(numbers: Numbers, shape: Shape, draw: np.random.Generator) -> Array:
    if numbers.kind is NumberKind.INDEX:
        values = draw.integers(max(1, numbers.below), size=shape).astype(np.float32)
        if numbers.ignored is not None:
            values[draw.random(shape) < 0.25] = numbers.ignored
        return values
    if numbers.kind is NumberKind.SELECTOR:
        values = np.zeros(shape, np.float32)
        values.reshape(-1)[::2] = 1
        return values
    if numbers.kind is NumberKind.BEGIN:
        values = np.ones(shape, np.float32)
        values[0] = 0
        return values
    if numbers.kind is NumberKind.NORMAL:
        return draw.normal(numbers.low, numbers.high - numbers.low, shape).astype(np.float32)
    return draw.uniform(numbers.low, numbers.high, shape).astype(np.float32)


def _undrawn(layer: caffe_pb2.LayerParameter) -> caffe_pb2.LayerParameter:
    """The layer with inputs in place of sources and of random numbers."""
    rule = BUILT_IN[layer.type]
    random_dummy = layer.type == "DummyData" and any(
        filler.type != "constant" for filler in layer.dummy_data_param.data_filler
    )
    if rule.has_batch_size or random_dummy:
        shapes = list(_source_shapes(layer))
        made = caffe_pb2.LayerParameter(name=layer.name, type="Input", top=layer.top)
        for shape in shapes:
            made.input_param.shape.add(dim=shape)
        return made
    if layer.type == "HDF5Output":
        return caffe_pb2.LayerParameter(name=layer.name, type="Silence", bottom=layer.bottom)
    for _, message in layer.ListFields():
        for name in ("filler", "weight_filler", "bias_filler"):
            if name in getattr(getattr(message, "DESCRIPTOR", None), "fields_by_name", ()):
                _fill_alike(getattr(message, name))
    if layer.type == "Dropout":
        layer.dropout_param.dropout_ratio = 1e-30
    return layer


def _fill_alike(filler: caffe_pb2.FillerParameter) -> None:
    """Uniform instead of normal numbers, which aren't the same on both sides."""
    if filler.type in ("gaussian", "msra"):
        filler.CopyFrom(caffe_pb2.FillerParameter(type="uniform", min=-0.7, max=0.8))


def _source_shapes(layer: caffe_pb2.LayerParameter) -> Iterator[Shape]:
    if layer.type == "DummyData":
        yield from (tuple(shape.dim) for shape in layer.dummy_data_param.shape)
        return
    if layer.type == "MemoryData":
        s = layer.memory_data_param
        yield (N, s.channels, s.height, s.width)
    else:
        crop = layer.transform_param.crop_size
        yield (N, SHAPE[0], crop, crop) if crop else (N, *SHAPE)
    yield from [(N,)] * (len(layer.top) - 1)

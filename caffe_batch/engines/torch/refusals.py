"""What the PyTorch engine doesn't run, found before anything runs; needs no torch."""

from __future__ import annotations

from collections.abc import Iterator

from caffe_batch.errors import NetError, Text, UnknownLayerError
from caffe_batch.layers import BUILT_IN
from caffe_batch.layers.pooling import PoolingSettings, pooled_shape, pooling_windows
from caffe_batch.net import Net
from caffe_batch.net.graph import Node

#: Nobody feeds these in a training.
_UNFED = {
    "Input": "a program fills its tops, and here none does",
    "MemoryData": "a program hands it arrays, and here none does",
}


def check_runs(net: Net) -> None:
    """Check that the engine runs every layer of a net.

    Raises:
        NetError: It doesn't; names the layer and the reason.
    """
    for error in refusals(net):
        raise error


def refusals(net: Net) -> Iterator[NetError]:
    """An error for each layer that the engine doesn't run."""
    for node in net.nodes:
        kind = node.layer.type
        if kind in _UNFED:
            hint: Text = "Give the net a data layer (Data, ImageData, HDF5Data, DummyData, ...)."
            yield NetError(
                f"{_UNFED[kind]}: the PyTorch engine doesn't run {kind}",
                layer=node.layer.name, hint=hint,
            )  # fmt: skip
        elif kind not in BUILT_IN and kind != "Python":
            yield UnknownLayerError(
                f"the PyTorch engine has no layer type {kind!r}",
                layer=node.layer.name,
                hint="It runs the types of Caffe 1.0; others need the engine caffe.",
            )
        elif kind == "Pooling" and _has_empty_window(node):
            yield NetError(
                "its last window lies beyond the input, where Caffe itself gives -FLT_MAX (MAX) "
                "or NaN (AVE): the PyTorch engine doesn't run that",
                layer=node.layer.name,
                hint="Use a stride no larger than the kernel, or round_mode: FLOOR.",
            )


def _has_empty_window(node: Node) -> bool:
    """Whether a window of the pooling covers nothing; only if the stride exceeds the kernel."""
    s: PoolingSettings = node.site.settings
    shape = node.site.bottoms[0]
    windows, pooled = pooling_windows(s, shape), pooled_shape(s, shape)
    return any(
        (pooled[2 + i] - 1) * windows.stride[i] - windows.pad[i] >= shape[2 + i] for i in range(2)
    )

"""Merges layers that act on each channel alone into the weights of the layer before them.

In a TEST net a BatchNorm multiplies each channel by a number and adds another one, and so do the
Scale or Bias after it. A convolution or an inner product whose output nothing else reads can do
that itself: its weights and its bias take the numbers in. They are calculated in double precision.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from caffe_batch.errors import InputError
from caffe_batch.layers.registry import Registry
from caffe_batch.net.convert import read_settings
from caffe_batch.net.kinds import kind
from caffe_batch.schema import caffe_pb2

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Blobs = list[NDArray[np.float64]]


@dataclass(frozen=True)
class Folded:
    """A net whose weights have taken in the layers that could be.

    Attributes:
        message: The net.
        weights: The same with its weights, as a .caffemodel holds it.
        layers: The layers that are gone.
    """

    message: caffe_pb2.NetParameter
    weights: caffe_pb2.NetParameter
    layers: tuple[str, ...]


def read_weights(path: Path) -> dict[str, Blobs]:
    """The blobs of each layer of a .caffemodel.

    Raises:
        InputError: It can't be read, or is in HDF5 format.
    """
    import numpy as np
    from google.protobuf.message import DecodeError

    if path.suffix == ".h5":
        raise InputError(
            f"{path} is in HDF5 format, and folding reads binary weights",
            hint="Train with snapshot_format: BINARYPROTO, or leave the folding out.",
        )
    net = caffe_pb2.NetParameter()
    try:
        net.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise InputError(f"{path} holds no weights: {error}") from error
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}") from error
    found: dict[str, Blobs] = {}
    for layer in net.layer or net.layers:
        if layer.blobs:
            found[layer.name] = [
                np.array(blob.double_data or blob.data, np.float64).reshape(_shape(blob))
                for blob in layer.blobs
            ]
    return found


def _shape(blob: caffe_pb2.BlobProto) -> Sequence[int]:
    if blob.HasField("shape"):
        return blob.shape.dim
    return blob.num, blob.channels, blob.height, blob.width


def fold(net: caffe_pb2.NetParameter, weights: Path, rules: Registry) -> Folded:
    """Merge what can be merged.

    Args:
        net: A net for inference.
        weights: Its .caffemodel.
        rules: What its layer types do.

    Raises:
        InputError: The weights can't be read, or don't fit the net.
    """
    blobs = read_weights(weights)
    changed = caffe_pb2.NetParameter()
    changed.CopyFrom(net)
    layers = list(changed.layer)
    fixed = _with_shared_blobs(layers)
    gone: list[str] = []
    left = caffe_pb2.NetParameter(name=net.name)
    for index, layer in enumerate(layers):
        if layer.name in gone:
            continue
        taker, place = rules[kind(layer)], index
        while len(layer.top) == 1 and layer.name not in fixed:
            follower = _only_reader(layers, place, layer.top[0])
            if follower is None or layers[follower].name in fixed:
                break
            next_layer = layers[follower]
            rule = rules[kind(next_layer)]
            change = rule.channel_change(
                read_settings(next_layer, rule), blobs.get(next_layer.name, [])
            )
            own = blobs.get(layer.name, [])
            taken = change and taker.with_change(read_settings(layer, taker), own, change)
            if not taken:
                break
            blobs[layer.name] = taken
            getattr(layer, taker.message).ClearField("bias_term")  # true unless it is written
            layer.top[:] = next_layer.top
            gone.append(next_layer.name)
            place = follower
        left.layer.add().CopyFrom(layer)
    return Folded(left, _with_blobs(left, blobs), tuple(gone))


def _only_reader(layers: Sequence[caffe_pb2.LayerParameter], place: int, blob: str) -> int | None:
    """The layer that alone reads a blob as a layer has made it, and reads and makes no other."""
    readers = []
    for index in range(place + 1, len(layers)):
        if blob in layers[index].bottom:
            readers.append(index)
        if blob in layers[index].top:
            break
    if len(readers) != 1:
        return None
    layer = layers[readers[0]]
    return readers[0] if len(layer.bottom) == len(layer.top) == 1 else None


def _with_shared_blobs(layers: Iterable[caffe_pb2.LayerParameter]) -> set[str]:
    """The layers that share weights with others."""
    owners: dict[str, set[str]] = {}
    for layer in layers:
        for spec in layer.param:
            if spec.name:
                owners.setdefault(spec.name, set()).add(layer.name)
    return set[str]().union(*(names for names in owners.values() if len(names) > 1))


def _with_blobs(net: caffe_pb2.NetParameter, blobs: Mapping[str, Blobs]) -> caffe_pb2.NetParameter:
    """A net with its weights."""
    import numpy as np

    full = caffe_pb2.NetParameter()
    full.CopyFrom(net)
    for layer in full.layer:
        for values in blobs.get(layer.name, ()):
            blob = layer.blobs.add()
            blob.shape.dim.extend(values.shape)
            blob.data.extend(values.astype(np.float32).ravel())
    return full

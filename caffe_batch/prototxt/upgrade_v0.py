"""Upgrades the syntax of 2013, ``layers { layer { type: "conv" } }``, to that of 2014.

Done as in Caffe (util/upgrade_proto.cpp: UpgradeV0PaddingLayers, UpgradeV0LayerParameter).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from caffe_batch.errors import PrototxtError, did_you_mean
from caffe_batch.prototxt.values import field_rules
from caffe_batch.schema.caffe_pb2 import NetParameter, V1LayerParameter

#: V0 type -> V1 type. "padding" has none: it is merged into the layer that follows.
TYPES = {
    "accuracy": "ACCURACY",
    "bnll": "BNLL",
    "concat": "CONCAT",
    "conv": "CONVOLUTION",
    "data": "DATA",
    "dropout": "DROPOUT",
    "euclidean_loss": "EUCLIDEAN_LOSS",
    "flatten": "FLATTEN",
    "hdf5_data": "HDF5_DATA",
    "hdf5_output": "HDF5_OUTPUT",
    "im2col": "IM2COL",
    "images": "IMAGE_DATA",
    "infogain_loss": "INFOGAIN_LOSS",
    "innerproduct": "INNER_PRODUCT",
    "lrn": "LRN",
    "multinomial_logistic_loss": "MULTINOMIAL_LOGISTIC_LOSS",
    "pool": "POOLING",
    "relu": "RELU",
    "sigmoid": "SIGMOID",
    "softmax": "SOFTMAX",
    "softmax_loss": "SOFTMAX_LOSS",
    "split": "SPLIT",
    "tanh": "TANH",
    "window_data": "WINDOW_DATA",
}

_GROUPS = {
    "concat": "concat_param",
    "conv": "convolution_param",
    "data": "data_param",
    "dropout": "dropout_param",
    "hdf5_data": "hdf5_data_param",
    "images": "image_data_param",
    "infogain_loss": "infogain_loss_param",
    "innerproduct": "inner_product_param",
    "lrn": "lrn_param",
    "pool": "pooling_param",
    "window_data": "window_data_param",
}

# V0 field -> its name in the groups of these types. For other types it is dropped, with a warning.
_SETTINGS = {
    "num_output": ("num_output", ("conv", "innerproduct")),
    "biasterm": ("bias_term", ("conv", "innerproduct")),
    "weight_filler": ("weight_filler", ("conv", "innerproduct")),
    "bias_filler": ("bias_filler", ("conv", "innerproduct")),
    "pad": ("pad", ("conv", "pool")),
    "kernelsize": ("kernel_size", ("conv", "pool")),
    "group": ("group", ("conv",)),
    "stride": ("stride", ("conv", "pool")),
    "pool": ("pool", ("pool",)),
    "dropout_ratio": ("dropout_ratio", ("dropout",)),
    "local_size": ("local_size", ("lrn",)),
    "alpha": ("alpha", ("lrn",)),
    "beta": ("beta", ("lrn",)),
    "k": ("k", ("lrn",)),
    "source": ("source", ("data", "hdf5_data", "images", "window_data", "infogain_loss")),
    "batchsize": ("batch_size", ("data", "hdf5_data", "images", "window_data")),
    "rand_skip": ("rand_skip", ("data", "images")),
    "shuffle_images": ("shuffle", ("images",)),
    "new_height": ("new_height", ("images",)),
    "new_width": ("new_width", ("images",)),
    "concat_dim": ("concat_dim", ("concat",)),
    "det_fg_threshold": ("fg_threshold", ("window_data",)),
    "det_bg_threshold": ("bg_threshold", ("window_data",)),
    "det_fg_fraction": ("fg_fraction", ("window_data",)),
    "det_context_pad": ("context_pad", ("window_data",)),
    "det_crop_mode": ("crop_mode", ("window_data",)),
}

# These become fields of transform_param, whatever the type.
_TRANSFORMS = {
    "scale": "scale",
    "meanfile": "mean_file",
    "cropsize": "crop_size",
    "mirror": "mirror",
}

_KEPT = ("name", "blobs", "blobs_lr", "weight_decay")


def targets(type_name: str) -> dict[str, tuple[str, ...]]:
    """For a V0 type: each V0 field with the path of the V1 field that it becomes."""
    found: dict[str, tuple[str, ...]] = {name: (name,) for name in _KEPT}
    found |= {old: ("transform_param", new) for old, new in _TRANSFORMS.items()}
    found |= {
        old: (_GROUPS[type_name], new)
        for old, (new, types) in _SETTINGS.items()
        if type_name in types
    }
    if type_name == "hdf5_output":
        found["hdf5_output_param"] = ("hdf5_output_param",)
    return found


def upgrade_v0(net: NetParameter, path: str | None) -> tuple[NetParameter, list[int], list[str]]:
    """The net in V1 syntax, the index in the old net of each of its ``layers``, and remarks on
    settings that were dropped because they mean nothing to their layer's type.

    As in Caffe, only the net's name, inputs and force_backward survive besides the layers.

    Raises:
        PrototxtError: A layer type is unknown, or padding can't be merged into a layer.
    """
    upgraded = NetParameter()
    for name in ("name", "force_backward"):
        if net.HasField(name):
            setattr(upgraded, name, getattr(net, name))
    upgraded.input.extend(net.input)
    upgraded.input_dim.extend(net.input_dim)
    origins, remarks = [], []
    for index, layer in _without_padding(net, path):
        origins.append(index)
        remarks += _upgrade_layer(layer, upgraded.layers.add(), path)
    return upgraded, origins, remarks


def _without_padding(net: NetParameter, path: str | None) -> list[tuple[int, V1LayerParameter]]:
    """The layers except those of type "padding", whose pad moves into the layer after them."""
    kept = []
    producer: dict[str, V1LayerParameter | None] = dict.fromkeys(net.input)
    for index, connection in enumerate(net.layers):
        layer = V1LayerParameter()
        layer.CopyFrom(connection)
        what = f"layer {layer.layer.name!r}"
        for position, bottom in enumerate(connection.bottom):
            if bottom not in producer:
                raise PrototxtError(
                    f"{what} reads {bottom!r}, which no layer before it makes", path=path
                )
            source = producer[bottom]
            if source is None or source.layer.type != "padding":
                continue
            if layer.layer.type not in ("conv", "pool") or len(connection.bottom) != 1:
                raise PrototxtError(
                    f"{what} follows a padding layer, which only conv and pool with one bottom may",
                    path=path,
                )
            if len(source.bottom) != 1 or len(source.top) != 1:
                raise PrototxtError(
                    f"the padding layer {source.layer.name!r} needs one bottom and one top",
                    path=path,
                )
            layer.layer.pad = source.layer.pad
            layer.bottom[position] = source.bottom[0]
        if connection.layer.type != "padding":
            kept.append((index, layer))
        producer.update(dict.fromkeys(connection.top, connection))
    return kept


def _upgrade_layer(old: V1LayerParameter, new: V1LayerParameter, path: str | None) -> list[str]:
    new.bottom.extend(old.bottom)
    new.top.extend(old.top)
    if not old.HasField("layer"):
        return []
    kind = old.layer.type
    if old.layer.HasField("type"):
        if kind not in TYPES:
            raise PrototxtError(
                f"layer {old.layer.name!r}: the syntax of 2013 has no type {kind!r}",
                path=path,
                hint=did_you_mean(kind, list(TYPES)),
            )
        new.type = V1LayerParameter.LayerType.Value(TYPES[kind])
    known, repeated = targets(kind), field_rules(old.layer.DESCRIPTOR)
    remarks = []
    for field, value in old.layer.ListFields():
        if field.name in known:
            values = value if repeated[field.name].repeated else [value]
            _assign(new, known[field.name], values)
        elif field.name in _SETTINGS or field.name == "hdf5_output_param":
            remarks.append(
                f"layer {old.layer.name!r}: {field.name} means nothing to a layer of type "
                f"{kind!r} and is dropped, as Caffe does"
            )
    return remarks


def _assign(message: Any, path: tuple[str, ...], values: Iterable[Any]) -> None:
    """Sets the field at a path of names: to all values if it is repeated, else to the only one."""
    for name in path[:-1]:
        message = getattr(message, name)
    rule = field_rules(message.DESCRIPTOR)[path[-1]]
    if rule.repeated:
        getattr(message, rule.name).extend(values)
        return
    (value,) = values
    if rule.message is None:
        setattr(message, rule.name, value)
    else:
        getattr(message, rule.name).CopyFrom(value)

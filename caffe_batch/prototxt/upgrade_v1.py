"""Upgrades the syntax of 2014, ``layers { type: CONVOLUTION }``, to the current one.

Done as in Caffe (util/upgrade_proto.cpp: UpgradeNetDataTransformation, UpgradeV1LayerParameter).
"""

from __future__ import annotations

from caffe_batch.prototxt.values import field_rules
from caffe_batch.schema.caffe_pb2 import LayerParameter, NetParameter, V1LayerParameter

#: V1 type -> current type.
TYPES = {
    "NONE": "",
    "ABSVAL": "AbsVal",
    "ACCURACY": "Accuracy",
    "ARGMAX": "ArgMax",
    "BNLL": "BNLL",
    "CONCAT": "Concat",
    "CONTRASTIVE_LOSS": "ContrastiveLoss",
    "CONVOLUTION": "Convolution",
    "DATA": "Data",
    "DECONVOLUTION": "Deconvolution",
    "DROPOUT": "Dropout",
    "DUMMY_DATA": "DummyData",
    "ELTWISE": "Eltwise",
    "EUCLIDEAN_LOSS": "EuclideanLoss",
    "EXP": "Exp",
    "FLATTEN": "Flatten",
    "HDF5_DATA": "HDF5Data",
    "HDF5_OUTPUT": "HDF5Output",
    "HINGE_LOSS": "HingeLoss",
    "IM2COL": "Im2col",
    "IMAGE_DATA": "ImageData",
    "INFOGAIN_LOSS": "InfogainLoss",
    "INNER_PRODUCT": "InnerProduct",
    "LRN": "LRN",
    "MEMORY_DATA": "MemoryData",
    "MULTINOMIAL_LOGISTIC_LOSS": "MultinomialLogisticLoss",
    "MVN": "MVN",
    "POOLING": "Pooling",
    "POWER": "Power",
    "RELU": "ReLU",
    "SIGMOID": "Sigmoid",
    "SIGMOID_CROSS_ENTROPY_LOSS": "SigmoidCrossEntropyLoss",
    "SILENCE": "Silence",
    "SLICE": "Slice",
    "SOFTMAX": "Softmax",
    "SOFTMAX_LOSS": "SoftmaxWithLoss",
    "SPLIT": "Split",
    "TANH": "TanH",
    "THRESHOLD": "Threshold",
    "WINDOW_DATA": "WindowData",
    # Forks:
    "CONVOLUTION3D": "CONVOLUTION3D",
    "DECONVOLUTION3D": "DECONVOLUTION3D",
    "POOLING3D": "POOLING3D",
    "VIDEO_DATA": "VIDEO_DATA",
    "IMAGE_SEG_DATA": "ImageSegData",
    "SEG_ACCURACY": "SegAccuracy",
    "INTERP": "Interp",
}

#: ParamSpec field -> the repeated V1 field that holds it, one entry per parameter.
PARAM_FIELDS = {
    "name": "param",
    "share_mode": "blob_share_mode",
    "lr_mult": "blobs_lr",
    "decay_mult": "weight_decay",
}

#: V1 types whose own settings contained scale, mean_file, crop_size and mirror.
TRANSFORMED = {
    "DATA": "data_param",
    "IMAGE_DATA": "image_data_param",
    "WINDOW_DATA": "window_data_param",
    "VIDEO_DATA": "image_data_param",
}
TRANSFORMS = ("scale", "mean_file", "crop_size", "mirror")


def move_transforms(net: NetParameter) -> None:
    """Moves the image settings of V1 data layers into ``transform_param``, in place."""
    readers = [
        (layer, getattr(layer, TRANSFORMED[kind]))
        for layer in net.layers
        if (kind := V1LayerParameter.LayerType.Name(layer.type)) in TRANSFORMED
    ]
    if not any(group.HasField(name) for _, group in readers for name in TRANSFORMS):
        return
    for layer, group in readers:
        # Caffe creates both messages in every such layer, whether or not it has settings.
        group.SetInParent()
        layer.transform_param.SetInParent()
        for name in TRANSFORMS:
            if group.HasField(name):
                setattr(layer.transform_param, name, getattr(group, name))
                group.ClearField(name)


def upgrade_v1(net: NetParameter) -> None:
    """Turns ``layers`` into ``layer``, in place."""
    for old in net.layers:
        _upgrade_layer(old, net.layer.add())
    net.ClearField("layers")


def _upgrade_layer(old: V1LayerParameter, new: LayerParameter) -> None:
    special = {*PARAM_FIELDS.values(), "type", "layer"}
    known = field_rules(old.DESCRIPTOR)
    for field, value in old.ListFields():
        if field.name in special:
            continue
        if known[field.name].repeated:
            getattr(new, field.name).extend(value)
        elif known[field.name].message:
            getattr(new, field.name).CopyFrom(value)
        else:
            setattr(new, field.name, value)
    if old.HasField("type"):
        new.type = TYPES[V1LayerParameter.LayerType.Name(old.type)]
    for name, source in PARAM_FIELDS.items():
        values = getattr(old, source)
        while len(new.param) < len(values):
            new.param.add()
        for param, value in zip(new.param, values, strict=False):
            setattr(param, name, value)

"""The layers of the PyTorch engine, one module a type, under the file names of the rules.

:data:`LAYERS` is an explicit list, as that of the rules is. Data layers have no class here: their
tops are fed (:data:`FED`).
"""

from __future__ import annotations

from caffe_batch.engines.torch.layers.base import Place, TorchLayer
from caffe_batch.engines.torch.layers.convolution import Convolution, Deconvolution
from caffe_batch.engines.torch.layers.inner_product import InnerProduct
from caffe_batch.engines.torch.layers.neurons import (
    BNLL,
    ELU,
    AbsVal,
    Clip,
    Dropout,
    Exp,
    Log,
    Power,
    ReLU,
    Sigmoid,
    Swish,
    TanH,
    Threshold,
)
from caffe_batch.engines.torch.layers.split import Silence, Split
from caffe_batch.errors import UnknownLayerError

#: The layers whose tops a pass is given.
FED = frozenset({"Data", "HDF5Data", "ImageData", "Input", "MemoryData", "WindowData"})

#: The classes by Caffe's own type name.
LAYERS: dict[str, type[TorchLayer]] = {
    "AbsVal": AbsVal,
    "BNLL": BNLL,
    "Clip": Clip,
    "Convolution": Convolution,
    "Deconvolution": Deconvolution,
    "Dropout": Dropout,
    "ELU": ELU,
    "Exp": Exp,
    "InnerProduct": InnerProduct,
    "Log": Log,
    "Power": Power,
    "ReLU": ReLU,
    "Sigmoid": Sigmoid,
    "Silence": Silence,
    "Split": Split,
    "Swish": Swish,
    "TanH": TanH,
    "Threshold": Threshold,
}


def make_layer(place: Place) -> TorchLayer:
    """The layer at a place.

    Raises:
        UnknownLayerError: Its type doesn't run on PyTorch.
    """
    kind = place.node.layer.type
    if kind not in LAYERS:
        raise UnknownLayerError(
            f"the PyTorch engine has no layer type {kind!r}",
            layer=place.name,
            hint="It runs the types of Caffe 1.0; others need Caffe.",
        )
    return LAYERS[kind](place)

"""The layers of the PyTorch engine, one module a type, under the file names of the rules.

:data:`LAYERS` is an explicit list, as that of the rules is; :mod:`.forks` has another one, of types
that Caffe 1.0 lacks and of those that a fork has changed. Data layers have no class here: their
tops are fed (:data:`FED`).
"""

from __future__ import annotations

from caffe_batch.engines.torch.layers.accuracy import Accuracy
from caffe_batch.engines.torch.layers.argmax import ArgMax
from caffe_batch.engines.torch.layers.base import Place, TorchLayer
from caffe_batch.engines.torch.layers.batch_norm import BatchNorm
from caffe_batch.engines.torch.layers.batch_reindex import BatchReindex, Filter
from caffe_batch.engines.torch.layers.concat import Concat, Slice
from caffe_batch.engines.torch.layers.convolution import Convolution, Deconvolution
from caffe_batch.engines.torch.layers.crop import Crop
from caffe_batch.engines.torch.layers.distance_loss import ContrastiveLoss, EuclideanLoss
from caffe_batch.engines.torch.layers.eltwise import Eltwise
from caffe_batch.engines.torch.layers.embed import Embed
from caffe_batch.engines.torch.layers.forks import FORK_LAYERS
from caffe_batch.engines.torch.layers.hdf5 import HDF5Output
from caffe_batch.engines.torch.layers.im2col import Im2col
from caffe_batch.engines.torch.layers.inner_product import InnerProduct
from caffe_batch.engines.torch.layers.input import DummyData
from caffe_batch.engines.torch.layers.label_loss import HingeLoss, MultinomialLogisticLoss
from caffe_batch.engines.torch.layers.lrn import LRN
from caffe_batch.engines.torch.layers.lstm import LSTM, LSTMUnit
from caffe_batch.engines.torch.layers.mvn import MVN
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
from caffe_batch.engines.torch.layers.parameter import Parameter
from caffe_batch.engines.torch.layers.pooling import SPP, Pooling
from caffe_batch.engines.torch.layers.prelu import PReLU
from caffe_batch.engines.torch.layers.python import Python
from caffe_batch.engines.torch.layers.reduction import Reduction
from caffe_batch.engines.torch.layers.reshape import Flatten, Reshape
from caffe_batch.engines.torch.layers.rnn import RNN
from caffe_batch.engines.torch.layers.scale import Bias, Scale
from caffe_batch.engines.torch.layers.sigmoid_cross_entropy_loss import SigmoidCrossEntropyLoss
from caffe_batch.engines.torch.layers.softmax import Softmax
from caffe_batch.engines.torch.layers.softmax_loss import InfogainLoss, SoftmaxWithLoss
from caffe_batch.engines.torch.layers.split import Silence, Split
from caffe_batch.engines.torch.layers.tile import Tile
from caffe_batch.errors import UnknownLayerError

#: The layers whose tops a pass is given.
FED = frozenset({"Data", "HDF5Data", "ImageData", "Input", "MemoryData", "WindowData"})

#: The classes by Caffe's own type name.
LAYERS: dict[str, type[TorchLayer]] = {
    "AbsVal": AbsVal,
    "Accuracy": Accuracy,
    "ArgMax": ArgMax,
    "BNLL": BNLL,
    "BatchNorm": BatchNorm,
    "BatchReindex": BatchReindex,
    "Bias": Bias,
    "Clip": Clip,
    "Concat": Concat,
    "ContrastiveLoss": ContrastiveLoss,
    "Convolution": Convolution,
    "Crop": Crop,
    "Deconvolution": Deconvolution,
    "Dropout": Dropout,
    "DummyData": DummyData,
    "ELU": ELU,
    "Eltwise": Eltwise,
    "Embed": Embed,
    "EuclideanLoss": EuclideanLoss,
    "Exp": Exp,
    "Filter": Filter,
    "Flatten": Flatten,
    "HDF5Output": HDF5Output,
    "HingeLoss": HingeLoss,
    "Im2col": Im2col,
    "InfogainLoss": InfogainLoss,
    "InnerProduct": InnerProduct,
    "LRN": LRN,
    "LSTM": LSTM,
    "LSTMUnit": LSTMUnit,
    "Log": Log,
    "MVN": MVN,
    "MultinomialLogisticLoss": MultinomialLogisticLoss,
    "PReLU": PReLU,
    "Parameter": Parameter,
    "Pooling": Pooling,
    "Power": Power,
    "Python": Python,
    "RNN": RNN,
    "ReLU": ReLU,
    "Reduction": Reduction,
    "Reshape": Reshape,
    "SPP": SPP,
    "Scale": Scale,
    "Sigmoid": Sigmoid,
    "SigmoidCrossEntropyLoss": SigmoidCrossEntropyLoss,
    "Silence": Silence,
    "Slice": Slice,
    "Softmax": Softmax,
    "SoftmaxWithLoss": SoftmaxWithLoss,
    "Split": Split,
    "Swish": Swish,
    "TanH": TanH,
    "Threshold": Threshold,
    "Tile": Tile,
}


def make_layer(place: Place) -> TorchLayer:
    """The layer at a place.

    Raises:
        UnknownLayerError: Its type doesn't run on PyTorch.
    """
    kind = place.node.layer.type
    made = FORK_LAYERS.get(type(place.rule), LAYERS.get(kind))
    if made is None:
        raise UnknownLayerError(
            f"the PyTorch engine has no layer type {kind!r}",
            layer=place.name,
            hint="It runs the types of Caffe 1.0 and some of forks (docs/forks.md).",
        )
    return made(place)

"""The rules of Caffe's own layer types: an explicit list.

Python layers have none: what they compute and hold depends on their code. Rules for other types
come from installed packages and from the user's own files (:mod:`caffe_batch.layers.loading`).
"""

from caffe_batch.layers.accuracy import Accuracy
from caffe_batch.layers.argmax import ArgMax
from caffe_batch.layers.batch_norm import BatchNorm
from caffe_batch.layers.batch_reindex import BatchReindex, Filter
from caffe_batch.layers.concat import Concat, Slice
from caffe_batch.layers.convolution import Convolution, Deconvolution
from caffe_batch.layers.crop import Crop
from caffe_batch.layers.data import Data, ImageData, WindowData
from caffe_batch.layers.distance_loss import ContrastiveLoss, EuclideanLoss
from caffe_batch.layers.eltwise import Eltwise
from caffe_batch.layers.embed import Embed
from caffe_batch.layers.hdf5 import HDF5Data, HDF5Output
from caffe_batch.layers.im2col import Im2col
from caffe_batch.layers.inner_product import InnerProduct
from caffe_batch.layers.input import DummyData, Input
from caffe_batch.layers.label_loss import HingeLoss, MultinomialLogisticLoss
from caffe_batch.layers.lrn import LRN
from caffe_batch.layers.lstm import LSTM, LSTMUnit
from caffe_batch.layers.memory_data import MemoryData
from caffe_batch.layers.mvn import MVN
from caffe_batch.layers.neurons import NEURONS
from caffe_batch.layers.parameter import Parameter
from caffe_batch.layers.pooling import SPP, Pooling
from caffe_batch.layers.prelu import PReLU
from caffe_batch.layers.reduction import Reduction
from caffe_batch.layers.registry import Registry
from caffe_batch.layers.reshape import Flatten, Reshape
from caffe_batch.layers.rnn import RNN
from caffe_batch.layers.scale import Bias, Scale
from caffe_batch.layers.sigmoid_cross_entropy_loss import SigmoidCrossEntropyLoss
from caffe_batch.layers.softmax import Softmax
from caffe_batch.layers.softmax_loss import InfogainLoss, SoftmaxWithLoss
from caffe_batch.layers.split import Silence, Split
from caffe_batch.layers.tile import Tile

#: The types of Caffe 1.0.
BUILT_IN = Registry(
    (
        # data in, data out
        Data(),
        DummyData(),
        HDF5Data(),
        HDF5Output(),
        ImageData(),
        Input(),
        MemoryData(),
        Parameter(),
        WindowData(),
        # convolution and pooling
        Convolution(),
        Deconvolution(),
        Im2col(),
        LRN(),
        Pooling(),
        SPP(),
        # element-wise
        *NEURONS,
        PReLU(),
        # normalisation
        BatchNorm(),
        Bias(),
        MVN(),
        Scale(),
        # fully connected, recurrent
        Embed(),
        InnerProduct(),
        LSTM(),
        LSTMUnit(),
        RNN(),
        # combining and reshaping
        ArgMax(),
        BatchReindex(),
        Concat(),
        Crop(),
        Eltwise(),
        Filter(),
        Flatten(),
        Reduction(),
        Reshape(),
        Silence(),
        Slice(),
        Softmax(),
        Split(),
        Tile(),
        # losses and scores
        Accuracy(),
        ContrastiveLoss(),
        EuclideanLoss(),
        HingeLoss(),
        InfogainLoss(),
        MultinomialLogisticLoss(),
        SigmoidCrossEntropyLoss(),
        SoftmaxWithLoss(),
    )
)

"""Parameter: a learnable blob as a top."""

from __future__ import annotations

from collections.abc import Sequence

from caffe_batch.engines.torch.layers.base import Place, Tensors, TorchLayer
from caffe_batch.schema import caffe_pb2


class Parameter(TorchLayer):
    """Its top has the memory of the blob, gradient included.

    A loss weight of a top stands in its gradient, and the solver clears the gradients of all
    parameters before each update: so such a weight has no effect in a training.
    """

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.keeps_loss_weights = place.site.phase == "TEST"

    def fillers(self) -> Sequence[caffe_pb2.FillerParameter]:
        return (caffe_pb2.FillerParameter(),)

    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        return (blobs[0].view_as(blobs[0]),)

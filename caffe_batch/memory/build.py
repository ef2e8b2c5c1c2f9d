"""Which Caffe is predicted: BVLC's with its own kernels or with cuDNN's, or NVIDIA's fork.

The prediction for Caffe's own kernels is exact. With cuDNN everything is exact except the
workspaces of convolutions, for which there are bounds. For NVCaffe it is an estimate between two
bounds: it was derived from the fork's sources and never measured.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from enum import Enum

from caffe_batch.errors import InputError, Option
from caffe_batch.layers.base import Mode
from caffe_batch.memory.ledger import LayerBytes, Part


class Build(Enum):
    """A build of Caffe, as ``--build`` names it."""

    CAFFE = "caffe"
    CUDNN = "cudnn"
    NVCAFFE = "nvcaffe"

    @property
    def uses_cudnn(self) -> bool:
        """Whether layers that leave their engine to Caffe run cuDNN's code."""
        return self is not Build.CAFFE


#: The most batches that an NVCaffe data layer queues: 3 parsers x 4 transformers, and the one in
#: use. It chooses these numbers itself and ignores ``prefetch``.
NVCAFFE_BATCHES = 13


def check_build(mode: Mode, build: Build, gpus: int, *, half: bool) -> None:
    """Raise an InputError for a combination that doesn't exist."""
    if mode == "cpu" and build is not Build.CAFFE:
        raise InputError(
            f"build {build.value} is for GPUs, and this is CPU mode",
            hint=[
                "Leave ",
                Option("build"),
                " out: in CPU mode every build runs Caffe's own code.",
            ],
        )
    if mode == "cpu" and gpus > 1:
        raise InputError(f"{gpus} GPUs in CPU mode", hint="CPU mode uses no GPU: leave --gpus out.")
    if half and build is not Build.NVCAFFE:
        raise InputError("Caffe 1.0 has no half precision", hint="Only the build nvcaffe has it.")


def nvcaffe_uncertain_bytes(layers: Iterable[LayerBytes], sharing: Collection[str]) -> int:
    """How much of a prediction NVCaffe may do without, in bytes.

    Its layers have other buffers; it queues fewer batches where one thread suffices; a Split's
    first gradient is that of its input; Eltwise may share memory with its inputs.

    Args:
        layers: The memory by layer.
        sharing: The layer types that may do without the memory of a top.
    """
    uncertain = 0
    for layer in layers:
        uncertain += layer.parts.get(Part.LAYER_BUFFERS, 0) + layer.parts.get(Part.DATA_PREFETCH, 0)
        if layer.type in sharing:
            uncertain += layer.parts.get(Part.ACTIVATIONS, 0) + layer.parts.get(Part.GRADIENTS, 0)
    return uncertain

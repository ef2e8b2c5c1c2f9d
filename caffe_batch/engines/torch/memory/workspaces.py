"""What libraries take of a GPU beside the tensors of a training, as intervals.

Nothing of it was measured on a GPU here. cuBLAS: the default of PyTorch's documentation ("cuBLAS
workspaces"), for each handle and stream: 8.125 MiB, or 32 MiB from Hopper on, twice if cuBLASLt has
one of its own. cuDNN: what an algorithm takes depends on the one that is chosen, and nothing
promises a limit; the upper end is a guess, one copy of the largest convolution's tensors, which is
what changing their layout takes. NCCL: its buffers, which aren't in the caching allocator. The CUDA
context is part of the budget's reserve (planning/budget.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from caffe_batch.layers.base import count
from caffe_batch.layers.facts import Arithmetic
from caffe_batch.net.graph import Net, Node

#: The workspace of cuBLAS for one handle.
CUBLAS_BYTES = (8_519_680, 2 * 32 * 2**20)
#: The buffers of one NCCL communicator.
NCCL_BYTES = (0, 256 * 2**20)
_FLOAT_BYTES = 4


@dataclass(frozen=True)
class Interval:
    """Bytes, at least and at most."""

    least: int
    most: int


def workspaces(net: Net, gpus: int) -> Interval:
    """What the libraries take in a training on each GPU.

    Args:
        net: The train net.
        gpus: GPUs that train together.
    """
    convolutions = [node for node in net.nodes if node.rule.arithmetic is Arithmetic.CONVOLUTION]
    products = any(node.rule.arithmetic is Arithmetic.PRODUCT for node in net.nodes)
    least, most = CUBLAS_BYTES if products or convolutions else (0, 0)
    most += max((_tensors(net, node) for node in convolutions), default=0)
    if gpus > 1:
        least, most = least + NCCL_BYTES[0], most + NCCL_BYTES[1]
    return Interval(least, most)


def _tensors(net: Net, node: Node) -> int:
    """The bytes of what a layer reads and writes."""
    blobs = [net.blobs[index].shape for index in (*node.bottoms, *node.tops)]
    return _FLOAT_BYTES * sum(count(shape) for shape in (*blobs, *node.param_shapes))

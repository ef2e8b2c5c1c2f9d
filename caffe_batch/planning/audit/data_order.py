"""Which records an update reads, and in which order: in one pass, in k passes, on several GPUs.

On several GPUs each has a net of its own. Data and HDF5Data skip the records that belong to the
others (data_layer.cpp and hdf5_data_layer.cpp, Skip); ImageData doesn't. Solver r seeds its
generator with random_seed + r (solver.cpp, Init), and from that come the generators of the
transformers (data_transformer.cpp, InitRand) and of ImageData's order. HDF5Data shuffles with the C
library's generator, from which each net takes what comes next.
"""

from __future__ import annotations

from collections.abc import Iterator

from caffe_batch.layers.base import Coupling, Layer
from caffe_batch.planning.audit.findings import Cause, Finding, Verdict

_SAME_RECORDS = (
    "An update reads the same records in the same order, and with random_seed set they are "
    "cropped and mirrored alike."
)
_ONE_GPU = {
    "Data": _SAME_RECORDS,
    "ImageData": _SAME_RECORDS,
    "HDF5Data": "An update reads the same rows in the same order, shuffled or not.",
    "MemoryData": "An update reads the same rows; the arrays must hold a multiple of batch_size.",
    "Input": "Exact if the program that fills it gives the samples of an update in turn.",
}

#: Layers of which each of G GPUs reads every Gth record.
_SHARED_OUT = ("Data", "HDF5Data")

_SHUFFLED = {
    "ImageData": "Each GPU reads the whole list in an order that it draws for itself: in an epoch "
    "an image may come several times, or not at all.",
    "HDF5Data": "Each GPU reads its share of an order that it draws for itself: in an epoch a row "
    "may come several times, or not at all.",
}


def finding_of_order(layer: Layer, coupling: Coupling, gpus: int) -> Iterator[Finding]:
    """Whether an update reads what the whole batch on one GPU reads; none for unknown types.

    Args:
        layer: A layer that makes data.
        coupling: What its rule says of the batch.
        gpus: GPUs that share each update.
    """
    if layer.type not in _ONE_GPU:
        return
    if gpus > 1 and (coupling.shuffles or coupling.draws or layer.type == "ImageData"):
        yield _on_each_gpu(layer, coupling)
        return
    shared = gpus > 1 and layer.type in _SHARED_OUT
    explanation = "An update reads the same records, each GPU its share of them."
    yield Finding(
        Cause.DATA_ORDER, layer.name, Verdict.EXACT,
        explanation if shared else _ONE_GPU[layer.type],
    )  # fmt: skip


def _on_each_gpu(layer: Layer, coupling: Coupling) -> Finding:
    """The finding where several GPUs don't read as one does."""
    if coupling.shuffles:
        return Finding(
            Cause.DATA_ORDER, layer.name, Verdict.APPROXIMATE, _SHUFFLED[layer.type],
            offer="Records that are shuffled once, in an LMDB or in HDF5 files, of which each GPU "
            "reads its share.",
        )  # fmt: skip
    if layer.type == "ImageData":
        return Finding(
            Cause.DATA_ORDER, layer.name, Verdict.DIFFERENT,
            "Each GPU reads the whole list for itself: without rand_skip an update sees the same "
            "images on all GPUs.",
            offer="shuffle: true, or an LMDB, of which each GPU reads its share.",
        )  # fmt: skip
    return Finding(
        Cause.DATA_ORDER, layer.name, Verdict.APPROXIMATE,
        "An update reads the same records, each GPU its share of them, but each GPU crops and "
        "mirrors with random numbers of its own: the same on average.",
    )  # fmt: skip

"""Which records an update reads, and in which order: in one pass, in k passes, on several GPUs.

Each of several GPUs has its own net. Data and HDF5Data skip the records that belong to the
others (data_layer.cpp and hdf5_data_layer.cpp, Skip); ImageData doesn't. Solver r seeds its
generator with random_seed + r (solver.cpp, Init), which in turn seeds those of the transformers
(data_transformer.cpp, InitRand) and of ImageData's order. HDF5Data shuffles with the C library's
generator, from which each net takes the next numbers.
"""

from __future__ import annotations

from caffe_batch.layers.base import Coupling, Rule
from caffe_batch.layers.facts import Source
from caffe_batch.planning.audit.findings import Cause, Finding, Verdict


def finding_of_order(name: str, rule: Rule, coupling: Coupling, gpus: int) -> Finding:
    """Whether an update reads what the whole batch on one GPU reads.

    Args:
        name: A layer that produces data.
        rule: The rule of its type, which says in which order it reads.
        coupling: What the rule says about the batch.
        gpus: GPUs that share each update.
    """
    source = rule.source
    if gpus == 1 or source is None:
        return Finding(Cause.DATA_ORDER, name, Verdict.EXACT, rule.record_order)
    if coupling.shuffles:
        return _shuffled(name, source)
    if not source.shared_out:
        return Finding(
            Cause.DATA_ORDER, name, Verdict.DIFFERENT,
            "Each GPU reads the whole list: without rand_skip an update sees the same "
            f"{source.record}s on all GPUs.",
            offer="shuffle: true, or an LMDB, of which each GPU reads its share.",
        )  # fmt: skip
    if coupling.draws:
        return Finding(
            Cause.DATA_ORDER, name, Verdict.APPROXIMATE,
            "An update reads the same records, each GPU its share of them, but each GPU crops and "
            "mirrors with its own random numbers: the same on average.",
        )  # fmt: skip
    return Finding(
        Cause.DATA_ORDER, name, Verdict.EXACT,
        "An update reads the same records, each GPU its share of them.",
    )  # fmt: skip


def _shuffled(name: str, source: Source) -> Finding:
    """The finding if each of several GPUs shuffles separately."""
    what = "its share of" if source.shared_out else "the whole list in"
    article = "an" if source.record[0] in "aeiou" else "a"
    return Finding(
        Cause.DATA_ORDER, name, Verdict.APPROXIMATE,
        f"Each GPU reads {what} an order that it draws on its own: in an epoch {article} "
        f"{source.record} may come several times, or not at all.",
        offer="Shuffle the records once and store them in an LMDB or in HDF5 files, of which each "
        "GPU reads its share.",
    )  # fmt: skip

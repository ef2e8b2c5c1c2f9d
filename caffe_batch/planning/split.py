"""The split of an effective batch into batch_size x iter_size x GPUs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isqrt

from caffe_batch.errors import InputError
from caffe_batch.memory.model import Prediction

#: The largest iter_size (an int32 in caffe.proto): up to here batch_size 1 is a candidate.
MAX_EFFECTIVE_BATCH = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to split the effective batch.

    Attributes:
        batch_size: As the files have it: samples of one forward/backward pass on each GPU, or for
            NVCaffe on all of them together.
        iter_size: Passes accumulated into one update.
        effective_batch: Samples of an update on all GPUs.
        predicted_peak_bytes: What Caffe asks for on each GPU at this batch_size, or None where
            Caffe refuses the net at this size (``refused`` says why).
        fits: Whether that is within the budget less the reserve, what cudaMalloc adds included.
    """

    batch_size: int
    iter_size: int
    effective_batch: int
    predicted_peak_bytes: int | None
    fits: bool
    refused: str = ""


def divisors(number: int) -> list[int]:
    """All divisors, smallest first.

    >>> divisors(12)
    [1, 2, 3, 4, 6, 12]
    """
    small = [d for d in range(1, isqrt(number) + 1) if number % d == 0]
    large = [number // d for d in reversed(small) if d * d != number]
    return small + large


def samples_per_gpu(effective_batch: int, gpus: int) -> int:
    """Samples that each GPU sees in one update (Caffe multiplies batch_size by the GPUs).

    Raises:
        InputError: The effective batch is below 1, below the GPUs, not a multiple of them, or
            beyond what Caffe can count.
    """
    if gpus < 1:
        raise InputError(f"{gpus} GPUs can't train", hint="Give --gpus 1 or more.")
    if effective_batch < 1:
        raise InputError(
            f"an effective batch of {effective_batch} has no samples",
            hint="Give the samples per update that the recipe means, 1 or more.",
        )
    if effective_batch > MAX_EFFECTIVE_BATCH:
        raise InputError(
            f"an effective batch of {effective_batch} is more than Caffe's iter_size can count",
            hint=f"Give the samples per update that the recipe means, {MAX_EFFECTIVE_BATCH} at "
            "most.",
        )
    if effective_batch < gpus:
        raise InputError(
            f"an effective batch of {effective_batch} is smaller than the {gpus} GPUs",
            hint=f"Each GPU takes at least one sample: give --effective-batch {gpus} or more, or "
            f"--gpus {effective_batch} or fewer.",
        )
    if effective_batch % gpus:
        below = effective_batch - effective_batch % gpus
        raise InputError(
            f"an effective batch of {effective_batch} can't be shared by {gpus} GPUs exactly",
            hint=f"The nearest that can are {below} and {below + gpus}.",
        )
    return effective_batch // gpus


def choose(candidates: Sequence[Candidate]) -> Candidate | None:
    """The largest batch_size that fits, or None."""
    fitting = [candidate for candidate in candidates if candidate.fits]
    return max(fitting, key=lambda candidate: candidate.batch_size, default=None)


def exact_candidates(
    effective_batch: int,
    gpus: int,
    usable_bytes: int,
    peaks: Callable[[Sequence[int]], Mapping[int, int | str]],
    *,
    divided: bool = False,
) -> list[Candidate]:
    """Every split whose product is the effective batch exactly, largest batch_size first.

    Args:
        effective_batch: Samples per update.
        gpus: GPUs that share it.
        usable_bytes: The budget less the reserve.
        peaks: The predicted peak at each of some batch sizes, in bytes, or in words why Caffe
            refuses it.
        divided: Whether a batch_size is for all GPUs together.
    """
    share = samples_per_gpu(effective_batch, gpus)
    together = gpus if divided else 1
    sizes = [size * together for size in reversed(divisors(share))]
    candidates = []
    for size, peak in peaks(sizes).items():
        known = peak if isinstance(peak, int) else None
        candidates.append(
            Candidate(
                batch_size=size,
                iter_size=share * together // size,
                effective_batch=effective_batch,
                predicted_peak_bytes=known,
                fits=known is not None and known <= usable_bytes,
                refused=peak if isinstance(peak, str) else "",
            )
        )
    return candidates


def count_rounding(
    candidates: Sequence[Candidate], usable_bytes: int, at: Callable[[int], Prediction]
) -> tuple[list[Candidate], Prediction | None]:
    """The candidates when what cudaMalloc adds to Caffe's requests counts too.

    It is asked for from the largest candidate that fits downwards until one still fits; smaller
    ones then count as fitting.

    Args:
        candidates: As :func:`exact_candidates` gave them.
        usable_bytes: The budget less the reserve.
        at: The prediction at a batch_size.

    Returns:
        The candidates, and the prediction for the largest that fits; None if none does.
    """
    settled = list(candidates)
    for place, candidate in enumerate(settled):
        if candidate.fits:
            prediction = at(candidate.batch_size)
            if prediction.allocated_bytes <= usable_bytes:
                return settled, prediction
            settled[place] = replace(candidate, fits=False)
    return settled, None

"""The split of an effective batch into batch_size x iter_size x GPUs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isqrt

from caffe_batch.errors import InputError


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to split the effective batch.

    Attributes:
        batch_size: Samples of one forward/backward pass on one GPU.
        iter_size: Passes accumulated into one update.
        effective_batch: batch_size x iter_size x GPUs.
        predicted_peak_bytes: What Caffe asks for on each GPU at this batch_size, or None where
            Caffe refuses the net at this size (``refused`` says why).
        fits: Whether that is within the budget less the reserve.
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
        InputError: The effective batch is below 1, below the GPUs, or not a multiple of them.
    """
    if gpus < 1:
        raise InputError(f"{gpus} GPUs can't train", hint="Give --gpus 1 or more.")
    if effective_batch < 1:
        raise InputError(
            f"an effective batch of {effective_batch} has no samples",
            hint="Give the samples per update that the recipe means, 1 or more.",
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
    peak_bytes: Callable[[int], int | str],
) -> list[Candidate]:
    """Every split whose product is the effective batch exactly, largest batch_size first.

    Args:
        effective_batch: Samples per update.
        gpus: GPUs that share it.
        usable_bytes: The budget less the reserve.
        peak_bytes: The predicted peak at a batch_size, or in words why Caffe refuses it.
    """
    share = samples_per_gpu(effective_batch, gpus)
    candidates = []
    for size in reversed(divisors(share)):
        peak = peak_bytes(size)
        known = peak if isinstance(peak, int) else None
        candidates.append(
            Candidate(
                batch_size=size,
                iter_size=share // size,
                effective_batch=effective_batch,
                predicted_peak_bytes=known,
                fits=known is not None and known <= usable_bytes,
                refused=peak if isinstance(peak, str) else "",
            )
        )
    return candidates

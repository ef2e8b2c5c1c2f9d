"""The split of an effective batch into batch_size x iter_size x GPUs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, isqrt, lcm

from caffe_batch.errors import InputError, Option

#: The largest iter_size (an int32 in caffe.proto): up to here batch_size 1 is a candidate.
MAX_EFFECTIVE_BATCH = 2**31 - 1


#: How far away to look for a better split, as a share of the effective batch.
NEIGHBOURHOOD = Fraction(1, 10)


#: How many small batch sizes, and how many small iter_sizes, a tolerance looks at.
MOST_NEIGHBOURS = 512


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to split the effective batch.

    Attributes:
        batch_size: As in the files: samples of one forward/backward pass on each GPU, or for
            NVCaffe on all of them together.
        iter_size: Passes accumulated into one update.
        effective_batch: Samples of an update on all GPUs.
        predicted_peak_bytes: What Caffe asks for on each GPU at this batch_size, or None if Caffe
            refuses the net at this size (``refused`` says why).
        fits: Whether that, with what cudaMalloc adds, is within the budget less the reserve.
    """

    batch_size: int
    iter_size: int
    effective_batch: int
    predicted_peak_bytes: int | None
    fits: bool
    refused: str = ""


@dataclass(frozen=True, slots=True)
class SplitOptions:
    """What the user asks of a split, beside its product.

    Attributes:
        tolerance: How far the product may be from the effective batch asked for, as a share of it.
        batch_size: The only batch_size allowed; None for any.
        iter_size: The only iter_size allowed; None for any.
        prefer_multiple_of: Batch sizes that are multiples of this are preferred.
        largest_batch: The largest batch_size allowed; None for any.
        divides: A number of samples that batch_size must divide; None for any.
    """

    tolerance: Fraction = Fraction(0)
    batch_size: int | None = None
    iter_size: int | None = None
    prefer_multiple_of: int = 1
    largest_batch: int | None = None
    divides: int | None = None

    @property
    def pinned(self) -> bool:
        """Whether a factor is fixed or bounded."""
        given = (self.batch_size, self.iter_size, self.largest_batch)
        return any(each is not None for each in given)

    def admits(self, batch_size: int, iter_size: int) -> bool:
        """Whether a split may be taken, whatever its product."""
        return (
            self.batch_size in (None, batch_size)
            and self.iter_size in (None, iter_size)
            and (self.largest_batch is None or batch_size <= self.largest_batch)
            and (self.divides is None or self.divides % batch_size == 0)
        )


@dataclass(frozen=True, slots=True)
class Sharing:
    """How GPUs share an update, and hence what a split's numbers mean.

    Attributes:
        gpus: GPUs that share each update.
        divided: Whether a batch_size is for all of them together (NVCaffe) instead of each.
        step: Every batch_size is a multiple of this (data layers of different batches).
    """

    gpus: int = 1
    divided: bool = False
    step: int = 1

    @property
    def unit(self) -> int:
        """Every batch_size is a multiple of this."""
        return lcm(self.gpus, self.step) if self.divided else self.step

    @property
    def each(self) -> int:
        """Samples of an update for each sample of batch_size x iter_size."""
        return 1 if self.divided else self.gpus


def divisors(number: int) -> list[int]:
    """All divisors, smallest first.

    >>> divisors(12)
    [1, 2, 3, 4, 6, 12]
    """
    small = [d for d in range(1, isqrt(number) + 1) if number % d == 0]
    large = [number // d for d in reversed(small) if d * d != number]
    return small + large


def check_effective_batch(effective_batch: int, gpus: int) -> None:
    """Refuses an effective batch that no split can make.

    Raises:
        InputError: The effective batch is below 1, below the GPUs, or beyond what Caffe can count.
    """
    if gpus < 1:
        raise InputError(f"{gpus} GPUs can't train", hint=["Give ", Option("gpus", 1), " or more."])
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
            hint=[
                "Each GPU takes at least one sample: give ",
                Option("effective_batch", gpus),
                " or more, or ",
                Option("gpus", effective_batch),
                " or fewer.",
            ],
        )


def samples_per_gpu(effective_batch: int, gpus: int) -> int:
    """Samples that each GPU sees in one update (Caffe multiplies batch_size by the GPUs).

    Raises:
        InputError: The effective batch can't be split at all, or not by the GPUs.
    """
    check_effective_batch(effective_batch, gpus)
    if effective_batch % gpus:
        below = effective_batch - effective_batch % gpus
        raise InputError(
            f"an effective batch of {effective_batch} can't be shared exactly by {gpus} GPUs",
            hint=f"The nearest that can are {below} and {below + gpus}.",
        )
    return effective_batch // gpus


def ranked(
    candidates: Sequence[Candidate], wanted: int = 0, prefer_multiple_of: int = 1
) -> list[Candidate]:
    """The candidates that fit, best first.

    Multiples of ``prefer_multiple_of`` come first; then the fewest passes (among exact splits, the
    largest batch_size), the effective batch nearest to the wanted one, the largest batch_size.
    """
    return sorted(
        (candidate for candidate in candidates if candidate.fits),
        key=lambda each: (
            each.batch_size % prefer_multiple_of != 0,
            each.iter_size,
            abs(each.effective_batch - wanted),
            -each.batch_size,
        ),
    )


def splits(
    effective_batch: int, sharing: Sharing, options: SplitOptions, largest: int
) -> list[tuple[int, int]]:
    """Every (batch_size, iter_size) that may be taken, largest batch_size first.

    All exact ones; with a tolerance also the nearest below and above for each small iter_size and
    for each small batch_size: a few dozen out of a few thousand possible ones.

    Args:
        effective_batch: Samples per update.
        sharing: GPUs, and what a batch_size means.
        options: What the user asks of it.
        largest: The largest batch_size of a neighbour: larger ones wouldn't fit.

    Raises:
        InputError: There is none; it says which effective batches would do.
    """
    if not options.tolerance:
        samples_per_gpu(effective_batch, sharing.gpus)
    found = {
        pair for pair in _near(effective_batch, sharing, options, largest) if options.admits(*pair)
    }
    if not found:
        raise _no_split(effective_batch, sharing, options)
    return sorted(found, key=lambda pair: (-pair[0], pair[1]))


def _near(
    wanted: int, sharing: Sharing, options: SplitOptions, largest: int
) -> Iterator[tuple[int, int]]:
    """The exact splits, and those within the tolerance."""
    if wanted % sharing.gpus == 0:
        share = wanted // sharing.each
        for size in divisors(share // sharing.unit) if share % sharing.unit == 0 else ():
            yield size * sharing.unit, share // (size * sharing.unit)
    if not options.tolerance:
        return
    small = range(1, min(isqrt(wanted), MOST_NEIGHBOURS) + 1)
    sizes = [sharing.unit * n for n in (*small, largest // sharing.unit) if n]
    sizes += [n for n in [options.batch_size] if n]
    counts = [*small] + [n for n in [options.iter_size] if n]
    pairs = [(size, count) for size in sizes for count in _times(wanted, size * sharing.each)]
    for count in counts:
        for size in _times(wanted, count * sharing.each * sharing.unit):
            fits = max(1, min(size, largest // sharing.unit))
            pairs.append((fits * sharing.unit, count))
    for size, count in pairs:
        if abs(size * count * sharing.each - wanted) <= options.tolerance * wanted:
            yield size, count


def _times(wanted: int, unit: int) -> tuple[int, int]:
    """How many times a unit goes into a number, rounded down and rounded up; at least once."""
    return max(1, wanted // unit), -(-wanted // unit)


def _no_split(wanted: int, sharing: Sharing, options: SplitOptions) -> InputError:
    pinned = [
        f"{name} {value}"
        for name, value in (("batch_size", options.batch_size), ("iter_size", options.iter_size))
        if value is not None
    ]
    if not pinned:
        below = wanted - wanted % sharing.gpus
        return InputError(
            f"no effective batch within {float(options.tolerance):.3g} of {wanted} can be shared "
            f"exactly by {sharing.gpus} GPUs",
            hint=f"The nearest that can are {below} and {below + sharing.gpus}.",
        )
    unit = sharing.each * (options.batch_size or 1) * (options.iter_size or 1)
    if options.batch_size is None:
        unit *= sharing.unit
    near = sorted({max(1, wanted // unit) * unit, -(-wanted // unit) * unit})
    each = f" on {sharing.gpus} GPUs" if sharing.gpus > 1 else ""
    return InputError(
        f"an effective batch of {wanted} can't be made with {' and '.join(pinned)}{each}",
        hint=[
            "Give ",
            Option("effective_batch", near[0]),
            *(f" or {each}" for each in near[1:]),
            ", another split, or ",
            Option("tolerance", "5%"),
            ".",
        ],
    )


def make_candidates(
    effective_batch: int,
    sharing: Sharing,
    options: SplitOptions,
    usable_bytes: int,
    peaks: Callable[[Sequence[int]], Mapping[int, int | str]],
) -> list[Candidate]:
    """Every split that may be taken with its predicted peak, largest batch_size first.

    Args:
        effective_batch: Samples per update.
        sharing: GPUs, and what a batch_size means.
        options: What the user asks of it.
        usable_bytes: The budget less the reserve.
        peaks: Returns the predicted peak at each of some batch sizes in bytes, or in words why
            Caffe refuses it.
    """
    check_effective_batch(effective_batch, sharing.gpus)
    upper = ceil(effective_batch * (1 + options.tolerance) / sharing.each)
    largest = upper
    if options.tolerance:
        largest = largest_that_fits(upper, usable_bytes, peaks, sharing.step)
    pairs = splits(effective_batch, sharing, options, largest)
    known = peaks(list(dict.fromkeys(size for size, _ in pairs)))
    candidates = []
    for size, count in pairs:
        peak = known[size]
        bytes_ = peak if isinstance(peak, int) else None
        candidates.append(
            Candidate(
                batch_size=size,
                iter_size=count,
                effective_batch=size * count * sharing.each,
                predicted_peak_bytes=bytes_,
                fits=bytes_ is not None and bytes_ <= usable_bytes,
                refused=peak if isinstance(peak, str) else "",
            )
        )
    return candidates


def largest_that_fits(
    upper: int,
    usable_bytes: int,
    peaks: Callable[[Sequence[int]], Mapping[int, int | str]],
    unit: int = 1,
) -> int:
    """The largest batch_size up to ``upper`` that fits; 0 if none does.

    Args:
        upper: The largest one to consider.
        usable_bytes: The budget less the reserve.
        peaks: As for :func:`make_candidates`.
        unit: Every batch_size is a multiple of this.
    """
    low, high = 0, upper // unit
    while low < high:  # low units fit, and no more than high do
        step = max(1, (high - low) // 64)
        sizes = [*range(low + step, high, step), high]
        of_units = peaks([size * unit for size in sizes])
        found = {size: of_units[size * unit] for size in sizes}
        low = max((size for size in sizes if _fits(found[size], usable_bytes)), default=low)
        high = min((size for size in sizes if size > low), default=high + 1) - 1
    return low * unit


def good_neighbours(
    effective_batch: int,
    sharing: Sharing,
    chosen: Candidate,
    usable_bytes: int,
    peaks: Callable[[Sequence[int]], Mapping[int, int | str]],
) -> list[Candidate]:
    """The nearest effective batches below and above that take at most half the passes.

    The nearest of those that take at most 1.5 times the fewest passes found.
    Empty if the chosen split isn't a poor one, that is, if twice its batch wouldn't fit.

    Args:
        effective_batch: Samples per update.
        sharing: GPUs, and what a batch_size means.
        chosen: The exact split.
        usable_bytes: The budget less the reserve.
        peaks: As for :func:`make_candidates`.
    """
    twice = 2 * chosen.batch_size
    if chosen.iter_size < 2 or not _fits(peaks([twice])[twice], usable_bytes):
        return []
    options = SplitOptions(tolerance=NEIGHBOURHOOD)
    near = [
        each
        for each in make_candidates(effective_batch, sharing, options, usable_bytes, peaks)
        if each.fits and 2 * each.iter_size <= chosen.iter_size
    ]
    fewest = min((each.iter_size for each in near), default=0)
    good = [each for each in near if 2 * each.iter_size <= 3 * fewest]

    def nearest(side: Iterable[Candidate]) -> list[Candidate]:
        ranked = sorted(side, key=lambda c: (abs(c.effective_batch - effective_batch), c.iter_size))
        return ranked[:1]

    return [
        *nearest(each for each in good if each.effective_batch < effective_batch),
        *nearest(each for each in good if each.effective_batch > effective_batch),
    ]


def split_remarks(
    wanted: int, chosen: Candidate, near: Sequence[Candidate], sharing: Sharing, preferred: int
) -> Iterator[str]:
    """What to know about a split, a sentence or two each.

    Args:
        wanted: The effective batch asked for.
        chosen: The split.
        near: Better splits nearby.
        sharing: GPUs, and what a batch_size means.
        preferred: What batch_size should be a multiple of.
    """
    size, count = chosen.batch_size, chosen.iter_size
    if chosen.effective_batch != wanted:
        yield (
            f"The effective batch is {chosen.effective_batch} instead of {wanted} "
            f"({chosen.effective_batch / wanted - 1:+.2%}), within the tolerance."
        )
    if size % preferred:
        yield f"No batch_size that fits is a multiple of {preferred}."
    if near:
        better = " or ".join(
            f"{each.effective_batch} = {each.batch_size} x {each.iter_size}" for each in near
        )
        yield (
            f"{wanted} splits badly: {count} passes of {size}. "
            f"Better ones nearby, within a tolerance of 10%: {better}."
        )
    if sharing.gpus > 1 and not sharing.divided:
        yield (
            f"Caffe multiplies: batch_size {size} is for each of the {sharing.gpus} GPUs. "
            "(NVIDIA's fork, the build nvcaffe, divides it.)"
        )


def _fits(peak: int | str, usable_bytes: int) -> bool:
    return isinstance(peak, int) and peak <= usable_bytes

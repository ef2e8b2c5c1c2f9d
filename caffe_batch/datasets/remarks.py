"""What a user should know of the pictures of a data set, in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from caffe_batch.datasets.pictures import REMARKS, opencv
from caffe_batch.datasets.records import Record
from caffe_batch.datasets.settings import Settings
from caffe_batch.datasets.sources import Item

#: How many files a sentence names.
_NAMED = 3

Seen = Sequence[tuple[Item, Record]]


def remarks(
    train: Seen,
    test: Seen,
    duplicates: Sequence[tuple[str, str]],
    settings: Settings,
    out: Path,
) -> Iterator[str]:
    """The sentences, the gravest first.

    Args:
        train: The files of the training set, and what became of them.
        test: Those of the test set; empty if there is none.
        duplicates: Test pictures that the training set has as well, each with the one there.
        settings: How they were converted.
        out: Where the data set is.
    """
    aside = [(item.name, record.problem) for item, record in (*train, *test) if record.problem]
    if aside:
        names = counted(map(with_reason, aside))
        yield f"Set aside, since they can't be used: {names}. {out / 'set_aside.csv'} names all."
    if duplicates:
        what = "left out of" if settings.drop_duplicates else "still in"
        names = counted(f"{one} = {other}" for one, other in duplicates)
        yield (
            f"Test pictures that the training set has as well, {what} the test set: {names}. "
            f"{out / 'duplicates.csv'} names all."
        )
    yield from _contradictions(train)
    seen = [(item, record) for item, record in (*train, *test) if record.digest]
    for remark, text in REMARKS.items():
        odd = [item.name for item, record in seen if remark in record.remarks]
        if odd:
            yield f"{text}: {counted(odd)}."
    if not settings.gray and all(record.gray for _, record in seen):
        yield "All pictures are gray and now have three equal channels; the option gray stores one."
    if settings.resize:
        yield from _resizing(seen)


def _contradictions(train: Seen) -> Iterator[str]:
    """Training pictures with the same pixels and different labels."""
    labels: dict[str, Item] = {}
    pairs = []
    for item, record in train:
        first = labels.setdefault(record.digest, item) if record.digest else item
        if first.label != item.label:
            pairs.append(f"{first.name} = {item.name}")
    if pairs:
        yield f"Training pictures that equal one of another class: {counted(pairs)}."


def _resizing(seen: Seen) -> Iterator[str]:
    """From which sizes, and by what."""
    sizes = {record.size: item.name for item, record in reversed(seen)}
    if len(sizes) > 1:
        (low, small), (high, large) = (
            choose(sizes.items(), key=lambda pair: (pair[0][0] * pair[0][1], pair[0]))
            for choose in (min, max)
        )
        yield (
            f"The pictures had {len(sizes):,} sizes (height x width), from {low[0]} x {low[1]} "
            f"({small}) to {high[0]} x {high[1]} ({large})."
        )
    if opencv() is None:
        yield (
            "OpenCV isn't installed, so Pillow resized the pictures: smoother than Caffe's own "
            "tools. pip install opencv-python-headless gives what they give."
        )


def with_reason(aside: tuple[str, str]) -> str:
    """A file that was set aside, with the reason."""
    return f"{aside[0]!r}: {aside[1]}"


def counted(names: Iterable[str]) -> str:
    """How many there are, and some of them.

    >>> counted(["a", "b", "c", "d"])
    '4 (a, b, c, ...)'
    """
    known = list(names)
    more = ", ..." if len(known) > _NAMED else ""
    return f"{len(known):,} ({', '.join(known[:_NAMED])}{more})"

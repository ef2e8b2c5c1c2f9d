"""A data set on the terminal and as a picture: how many pictures each class has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from caffe_batch.datasets import DESCRIPTION, Converted, Dataset, Look, Viewed
from caffe_batch.reporting.console import PlainTable
from caffe_batch.reporting.figures import (
    BLUE,
    ORANGE,
    finish_panels,
    new_figure,
    plain,
    write_figure,
)
from caffe_batch.sizes import format_size

#: How many classes the table lists; of more it lists the largest and the smallest ones.
_ROWS = 40
#: How many shapes of records are listed.
_SHAPES = 6
#: Up to this many classes are named in the picture.
_NAMED = 60
#: The longest name of a class in the picture.
_LETTERS = 28


def class_table(dataset: Dataset) -> Table:
    """How many records each class has."""
    table = PlainTable(box=None, pad_edge=False, header_style="bold")
    table.add_column("label", justify="right")
    table.add_column("class")
    sets = [("train", dataset.train), *([("test", dataset.test)] if dataset.test else [])]
    for name, _ in sets:
        table.add_column(name, justify="right")
    order = list(range(dataset.classes))
    if dataset.classes > _ROWS:
        order.sort(key=lambda label: -dataset.train.by_class[label])
    half = _ROWS // 2
    for place, label in enumerate(order):
        if dataset.classes > _ROWS and half <= place < dataset.classes - half:
            if place == half:
                table.add_row("", f"... {dataset.classes - _ROWS:,} more ...", *("" for _ in sets))
            continue
        counts = (f"{part.by_class[label]:,}" for _, part in sets)
        table.add_row(str(label), dataset.labels[label], *counts)
    table.add_row("", "all", *(f"{part.records:,}" for _, part in sets), style="bold")
    return table


def data_sentences(made: Converted) -> Iterator[str]:
    """What was made, in sentences."""
    dataset = made.dataset
    what = "image files" if dataset.encoded else "pixels"
    if dataset.shape is None:
        yield f"The records are {what} of different sizes."
    else:
        channels, height, width = dataset.shape
        colour = "gray" if channels == 1 else "blue, green and red"
        yield f"The records are {what}, {channels} x {height} x {width} ({colour})."
    means = ", ".join(f"{value:.2f}" for value in dataset.mean_values)
    yield f"Mean of the training set: {means}" + (
        f" ({dataset.mean_file})." if dataset.mean_file else "; no mean image, since sizes differ."
    )
    if made.resumed:
        yield f"An earlier call had dealt with {made.resumed:,} of the pictures."
    named = f", {made.picture.name} shows the classes" if made.picture else ""
    yield f"Files: {dataset.folder}; {DESCRIPTION} describes them{named}."


@dataclass(frozen=True)
class ClassRow:
    """A class in a look: its records in each part, and their sum as a share of the largest one."""

    label: int
    name: str
    counts: tuple[int, ...]
    percent: float


def class_rows(look: Look) -> list[ClassRow]:
    """The classes of all parts, by label."""
    labels = sorted({label for part in look.parts for label in part.by_class})
    sums = {label: sum(part.by_class[label] for part in look.parts) for label in labels}
    most = max(sums.values(), default=1)
    return [
        ClassRow(
            label,
            look.class_name(label),
            tuple(part.by_class[label] for part in look.parts),
            100 * sums[label] / most,
        )
        for label in labels
    ]


def facts(part: Viewed) -> Iterator[tuple[str, str]]:
    """What is known of a source, as title and text."""
    yield "kind", part.kind
    whole = "" if part.complete else f", of which {part.read:,} were read"
    yield "records", f"{part.records:,}{whole}"
    if part.bytes is not None:
        yield "size", format_size(part.bytes)
    if part.by_class:
        yield (
            "classes",
            f"{len(part.by_class):,}, labels {min(part.by_class)} to {max(part.by_class)}",
        )
    for number, (shape, records) in enumerate(part.shapes.most_common(_SHAPES)):
        yield "shape" if not number else "", f"{' x '.join(map(str, shape))} ({records:,})"
    if len(part.shapes) > _SHAPES:
        yield "", f"and {len(part.shapes) - _SHAPES:,} other shapes"
    if part.kind in ("LMDB", "LevelDB"):
        yield "stored as", "image files" if part.encoded else "values"
    for name, (sizes, kind) in part.datasets.items():
        yield f"dataset {name}", f"{' x '.join(map(str, sizes)) or 'one value'}, {kind}"
    if part.faulty:
        yield "faulty", f"{part.faulty:,}"


def look_table(look: Look) -> Table:
    """The classes of a look; of many only the first and the last ones."""
    table = PlainTable(box=None, pad_edge=False, header_style="bold")
    table.add_column("label", justify="right")
    table.add_column("class")
    for part in look.parts:
        table.add_column(part.name, justify="right")
    rows = class_rows(look)
    half = _ROWS // 2
    cut = rows if len(rows) <= _ROWS else [*rows[:half], None, *rows[-half:]]
    for row in cut:
        if row is None:
            table.add_row("", f"... {len(rows) - _ROWS:,} more ...")
        else:
            table.add_row(str(row.label), row.name, *(f"{count:,}" for count in row.counts))
    return table


def draw_classes(dataset: Dataset, path: Path) -> None:
    """Draw how many records each class has.

    Raises:
        ImportError: matplotlib is not installed (the extra ``plot``).
        OSError: The picture can't be written.
    """
    named = dataset.classes <= _NAMED
    figure = new_figure(8, max(2.5, 0.9 + 0.22 * dataset.classes) if named else 4.2)
    panel = figure.subplots()
    sets = [("train", dataset.train, BLUE)]
    sets += [("test", dataset.test, ORANGE)] if dataset.test else []
    if named:
        places = range(dataset.classes)
        left = [0] * dataset.classes
        for name, part, colour in sets:
            label = f"{name} ({part.records:,})"
            panel.barh(places, part.by_class, left=left, color=colour, label=label)
            left = [before + own for before, own in zip(left, part.by_class, strict=True)]
        panel.set_yticks(places, [_short(label) for label in dataset.labels])
        panel.invert_yaxis()
        panel.set_xlabel("pictures")
    else:
        order = sorted(range(dataset.classes), key=lambda label: -dataset.train.by_class[label])
        for name, part, colour in sets:
            counts = [part.by_class[label] for label in order]
            panel.step(
                range(dataset.classes), counts, color=colour, label=f"{name} ({part.records:,})"
            )
        panel.set_xlabel(f"{dataset.classes:,} classes, by their training pictures")
        panel.set_ylabel("pictures")
        panel.set_ylim(bottom=0)
    finish_panels([panel], grid="x" if named else "y")
    figure.legend(frameon=False, loc="outside upper right", ncols=len(sets))
    write_figure(figure, path, dpi=120)


def _short(name: str) -> str:
    text = plain(name)
    return text if len(text) <= _LETTERS else f"{text[: _LETTERS - 3]}..."

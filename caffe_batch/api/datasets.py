"""``data``: makes a data set from pictures, or looks at one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from caffe_batch import datasets
from caffe_batch.datasets import Look
from caffe_batch.datasets.conversion import Converted, Progress
from caffe_batch.datasets.settings import Settings, parse_resize, parse_share
from caffe_batch.datasets.sources import Naming, find_pictures
from caffe_batch.errors import InputError, Option
from caffe_batch.files import read_regular, write_text


def data(
    source: str | Path,
    out: str | Path,
    *,
    test: str | Path | None = None,
    root: str | Path | None = None,
    labels: str | Path | None = None,
    renumber: bool = False,
    allow_one_class: bool = False,
    resize: str | int | tuple[int, int] | None = None,
    fit: Literal["squash", "crop", "pad"] = "squash",
    keep_sizes: bool = False,
    gray: bool = False,
    encoded: bool = False,
    encode_type: Literal["jpg", "png"] | None = None,
    test_share: str | float = "20%",
    seed: int = 0,
    shuffle: bool = True,
    drop_duplicates: bool = False,
    processes: int | None = None,
    progress: Progress = lambda name, done, files: None,
) -> Converted:
    """Make a training and a test LMDB from pictures, with labels, mean and a description.

    Args:
        source: A folder with one subfolder per class, a list (``path label`` per line), a CSV file
            (with columns path and label), or a folder with two sets: train and test (or val) as
            folders or lists.
        out: The folder to make; its ``dataset.json`` describes it.
        test: The source of the test set; by default a share of each class.
        root: The folder that paths in lists are relative to; by default the list's own folder.
        labels: A file with the names of all classes, one per line.
        renumber: Close the gaps between the numbers of a list's labels.
        allow_one_class: Accept a source with only one class.
        resize: Height and width of the records: ``256``, ``"240x320"``.
        fit: How to treat the proportions when resizing: ignore them (``"squash"``), crop what is
            too long (``"crop"``), or add black (``"pad"``).
        keep_sizes: Accept pictures of different sizes as they are.
        gray: One channel instead of three.
        encoded: Store image files instead of pixels.
        encode_type: Their format; by default that of the file.
        test_share: The share of each class that becomes the test set; 0 makes none.
        seed: The seed of the split and of the order.
        shuffle: Shuffle the training records.
        drop_duplicates: Leave out test pictures that are in the training set too.
        processes: The number of processes; by default one per processor.
        progress: Called with the name of a set, how many of its files are done, and how many there
            are.

    Raises:
        InputError: The pictures don't make a data set, ``out`` exists, or Pillow or numpy is
            missing.
        OSError: The disk is full; the same call continues from there.
    """
    from caffe_batch.reporting.data_view import draw_classes
    from caffe_batch.reporting.figures import why_not_drawn

    settings = Settings(
        parse_resize(resize),
        fit,
        keep_sizes,
        gray,
        encoded,
        encode_type,
        shuffle,
        seed,
        parse_share(test_share),
        drop_duplicates,
    )
    for folder in (source, *([] if test is None else [test])):
        if Path(folder).is_dir() and Path(out).resolve().is_relative_to(Path(folder).resolve()):
            raise InputError(
                f"{out} lies in {folder}, where every subfolder is a class or a set",
                hint=["Choose another place with ", Option("out", "DIR"), "."],
            )
    found = find_pictures(
        Path(source),
        None if test is None else Path(test),
        root=None if root is None else Path(root),
        naming=Naming(_names(labels), renumber, allow_one_class),
    )
    made = datasets.convert(found, Path(out), settings, processes=processes, progress=progress)
    picture = Path(out) / "classes.png"
    wrong = list(why_not_drawn(picture.name, lambda: draw_classes(made.dataset, picture)))
    return replace(made, notes=(*made.notes, *wrong), picture=None if wrong else picture)


def data_info(
    path: str | Path,
    *,
    read_all: bool = False,
    root: str | Path | None = None,
    page: str | Path | None = None,
    progress: Progress = lambda name, done, files: None,
) -> Look:
    """What a data set, a folder of pictures, a database, an HDF5 file or a list contains.

    Args:
        path: Where it is.
        read_all: Read every record instead of a sample.
        root: The folder that paths in a list are relative to.
        page: An HTML file to write, with pictures of each class.
        progress: Called with the name of a source, how many of its records are read, and how many
            will be.

    Raises:
        InputError: It is none of them, or can't be read.
    """
    found = datasets.look_at(
        Path(path), complete=read_all, root=None if root is None else Path(root), progress=progress
    )
    if page is not None:
        from caffe_batch.reporting.data_page import render_data

        write_text(Path(page), render_data(found))
    return found


def _names(labels: str | Path | None) -> tuple[str, ...]:
    """The names of all classes from a file.

    Raises:
        InputError: It can't be read, or names a class twice.
    """
    if labels is None:
        return ()
    try:
        text = read_regular(Path(labels)).decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise InputError(f"{labels} can't be read: {error.strerror}") from error
    names = tuple(line.removesuffix("\r") for line in text.removesuffix("\n").split("\n"))
    if len(set(names)) < len(names) or "" in names:
        raise InputError(f"{labels} has an empty line, or names a class twice")
    return names

"""Finds the pictures of a source and their classes: folders, lists, CSV files, two sets."""

from __future__ import annotations

import csv
import io
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from caffe_batch.errors import InputError, Option, did_you_mean
from caffe_batch.files import not_a_file, read_regular

#: Endings of the files in a folder that count as pictures: what OpenCV reads, and GIF.
ENDINGS = frozenset(
    (
        ".bmp", ".dib", ".gif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm",
        ".ppm", ".tif", ".tiff", ".webp",
    )
)  # fmt: skip
#: Names that the sets of a ready-made split may have.
TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "testing", "val", "valid", "validation")

_PATH_COLUMNS = ("path", "file", "filename", "file_name", "image", "picture")
_LABEL_COLUMNS = ("label", "class", "class_name", "category", "target")
_SET_COLUMNS = ("set", "split", "subset", "fold")

#: The largest label that a Datum holds.
_LARGEST_LABEL = 2**31 - 1
#: How many names a message gives.
_NAMED = 5


@dataclass(frozen=True, slots=True)
class Item:
    """A picture.

    Attributes:
        path: Its file.
        name: What it is called in the source; part of the record's key.
        label: Its class, from 0.
    """

    path: Path
    name: str
    label: int


@dataclass(frozen=True)
class Found:
    """The pictures of a source.

    Attributes:
        classes: Names, by label.
        train: Pictures of the training set, or all of them if ``test`` is None.
        test: Pictures of the test set; None if the source doesn't say which they are.
        notes: What a user should know, in sentences.
    """

    classes: tuple[str, ...]
    train: tuple[Item, ...]
    test: tuple[Item, ...] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Naming:
    """How the labels of lists become classes.

    Attributes:
        names: Names of all classes, by label; empty if the source names them.
        renumber: Close the gaps between numbers.
        one_class: Accept a single class.
    """

    names: tuple[str, ...] = ()
    renumber: bool = False
    one_class: bool = False


def find_pictures(
    source: Path, test: Path | None = None, *, root: Path | None = None, naming: Naming = Naming()
) -> Found:
    """The pictures of a source.

    Args:
        source: A folder with a folder for each class, a folder with two such folders (train, and
            test or val) or two lists (train.txt, and test.txt or val.txt), a list, or a CSV file.
        test: Where the test set is, if not in the source.
        root: What the paths of lists begin at; the folder of the list if None.
        naming: What the labels are.

    Raises:
        InputError: There is nothing of the kind, a file is missing, or labels make no classes.
    """
    sets = _ready_made(source) if test is None else (source, test)
    whole = sets is None
    train = _listed(source if sets is None else sets[0], root)
    tested = None if sets is None else _listed(sets[1], root)
    if whole and train.sets:
        train, tested = train.of_set(TRAIN_NAMES), train.of_set(TEST_NAMES)
    read = [train, tested] if tested else [train]
    classes, numbers, notes = _classes([entry for each in read for entry in each.entries], naming)
    if len(classes) < 2 and not naming.one_class:
        raise InputError(
            f"{source} has only one class, {classes[0]!r}, and a classifier needs two",
            hint=[
                "A source has a folder for each class. For a net without classes (an autoencoder)"
                " say ",
                Option("allow_one_class", True),
                ".",
            ],
        )
    items = [
        tuple(Item(entry.path, entry.name, numbers[entry.label]) for entry in each.entries)
        for each in read
    ]
    all_notes = (*(note for each in read for note in each.notes), *notes)
    return Found(classes, items[0], items[1] if tested else None, tuple(dict.fromkeys(all_notes)))


@dataclass(frozen=True, slots=True)
class _Entry:
    """A picture whose label is still as the source writes it."""

    path: Path
    name: str
    label: str
    place: str
    is_folder: bool = False
    set: str = ""


@dataclass(frozen=True)
class _Listed:
    source: Path
    entries: tuple[_Entry, ...]
    notes: tuple[str, ...] = ()
    sets: bool = False

    def of_set(self, names: Sequence[str]) -> _Listed:
        """The pictures of one set of a CSV file."""
        own = tuple(entry for entry in self.entries if entry.set in names)
        if not own:
            raise InputError(f"{self.source} has no picture of the set {names[0]!r}")
        return replace(self, entries=own)


def _ready_made(source: Path) -> tuple[Path, Path] | None:
    """The two sets of a source that is divided already."""
    if not source.is_dir():
        return None
    for ending, is_one in (("", Path.is_dir), (".txt", Path.is_file), (".csv", Path.is_file)):
        train = [source / f"{name}{ending}" for name in TRAIN_NAMES]
        test = [source / f"{name}{ending}" for name in TEST_NAMES]
        trains, tests = ([each for each in paths if is_one(each)] for paths in (train, test))
        if trains and tests:
            if len(trains) + len(tests) > 2:
                names = ", ".join(path.name for path in (*trains, *tests))
                raise InputError(
                    f"{source} has more than two sets: {names}",
                    hint=["Name both: SOURCE is one, and ", Option("test", "SOURCE"), " the other"],
                )
            return trains[0], tests[0]
    return None


def _listed(source: Path, root: Path | None) -> _Listed:
    """The pictures of a folder, a list or a CSV file."""
    if source.is_dir():
        return _in_folder(source)
    problem = not_a_file(source)
    if problem:
        raise InputError(f"{source}: {problem}", hint="Name a folder of pictures, or a list.")
    try:
        text = read_regular(source).decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise InputError(f"{source} can't be read: {error.strerror}") from error
    if "\0" in text:
        raise InputError(
            f"{source} is not a list of pictures but a binary file",
            hint="A list has a line `path label` for each picture.",
        )
    folder = source.parent if root is None else root
    lines = _of_csv if source.suffix.lower() == ".csv" else _of_list
    entries = tuple(lines(source, text, folder))
    if not entries:
        raise InputError(f"{source} lists no picture")
    missing = [entry for entry in entries if not_a_file(entry.path)]
    if missing:
        first = missing[0]
        raise InputError(
            f"of the {len(entries):,} files that {source} lists {len(missing):,} can't be found; "
            f"the first is {str(first.path)!r} ({first.place})",
            hint=["Paths begin at the list's folder, or at ", Option("root", "DIR"), "."],
        )
    names = Counter(entry.name for entry in entries)
    twice = [name for name, number in names.items() if number > 1]
    if twice:
        raise InputError(
            f"{source} lists a file more than once: {_some(twice)}",
            hint="A picture has one label and is in one set.",
        )
    return _Listed(source, entries, sets=any(entry.set for entry in entries))


def _in_folder(source: Path) -> _Listed:
    """The pictures of a folder of classes."""
    walk = _Walk(source)
    try:
        inside = sorted(os.scandir(source), key=lambda each: os.fsencode(each.name))
    except OSError as error:
        raise InputError(f"{source} can't be read: {error.strerror}") from error
    folders = [each for each in inside if _is_folder(each) and not each.name.startswith(".")]
    entries: list[_Entry] = []
    empty: list[str] = []
    for folder in folders:
        own = [
            _Entry(path, os.path.relpath(path, source), folder.name, folder.path, is_folder=True)
            for path in walk.pictures(Path(folder.path), (source,))
        ]
        entries += own
        if not own:
            empty.append(folder.name)
    loose = [each.name for each in inside if is_picture(each.name) and not _is_folder(each)]
    if not entries:
        what = (
            "its pictures lie in it directly"
            if loose
            else "no folder in it has a picture"
            if folders
            else "it is empty"
            if not inside
            else "it has no folders"
        )
        raise InputError(
            f"{source} has no classes: {what}",
            hint="Put the pictures of each class into a folder of its own, or write a list with a "
            "line `path label` for each.",
        )
    if empty:
        raise InputError(
            f"{source} has folders without a picture: {_some(empty)}",
            hint="Each folder is a class. Remove it, or put pictures into it "
            f"({', '.join(sorted(ENDINGS))}).",
        )
    notes = list(walk.notes())
    if loose:
        notes.append(f"Left out, since they are in no class's folder: {_some(loose)}.")
    return _Listed(source, tuple(entries), tuple(notes))


@dataclass
class _Walk:
    """A walk through the folders of a source."""

    source: Path
    others: list[str] = field(default_factory=list)
    loops: list[str] = field(default_factory=list)

    def pictures(self, folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
        """The pictures below a folder, in the order of their names."""
        if any(folder.samefile(each) for each in above):
            self.loops.append(os.path.relpath(folder, self.source))
            return
        try:
            inside = sorted(os.scandir(folder), key=lambda each: os.fsencode(each.name))
        except OSError as error:
            raise InputError(f"{folder} can't be read: {error.strerror}") from error
        for each in inside:
            if each.name.startswith("."):
                continue
            path = Path(each.path)
            if _is_folder(each):
                yield from self.pictures(path, (*above, folder))
            elif is_picture(each.name):
                yield path
            else:
                self.others.append(os.path.relpath(path, self.source))

    def notes(self) -> Iterator[str]:
        """What was left out."""
        if self.others:
            yield f"Left out, since their names aren't those of pictures: {_some(self.others)}."
        if self.loops:
            yield f"Links that lead back to a folder above aren't followed: {_some(self.loops)}."


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def is_picture(name: str) -> bool:
    """Whether a file is called like a picture."""
    return not name.startswith(".") and Path(name).suffix.lower() in ENDINGS


def pictures_in(folder: Path) -> list[Path]:
    """The pictures below a folder, in the order of their names; links in circles aren't followed.

    Raises:
        InputError: A folder can't be read.
    """
    return list(_Walk(folder).pictures(folder, ()))


def _of_list(source: Path, text: str, folder: Path) -> Iterator[_Entry]:
    """The lines of a list as convert_imageset reads them: the label follows the last blank."""
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.removesuffix("\r")
        if not line.strip():
            continue
        name, blank, label = line.rpartition(" ")
        tabbed, tab, last = line.rpartition("\t")
        if tab and " " not in last:
            name, blank, label = tabbed, tab, last
        place = f"line {number:,} of {source}"
        if not blank or not name.strip() or not label:
            raise InputError(
                f"{place} is {line!r}, and `path label` is expected",
                hint="The label is what follows the last blank, and nothing may follow it.",
            )
        name = name.rstrip(" \t")
        yield _Entry(folder / name, name, label, place)


def _of_csv(source: Path, text: str, folder: Path) -> Iterator[_Entry]:
    """The rows of a CSV file; its first row names the columns."""
    try:
        rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        header = [name.strip().lower() for name in next(rows, [])]
        path, label = (_column(source, header, names) for names in (_PATH_COLUMNS, _LABEL_COLUMNS))
        sets = next((header.index(name) for name in _SET_COLUMNS if name in header), None)
        for row in rows:
            place = f"line {rows.line_num:,} of {source}"
            if not any(row):
                continue
            if len(row) != len(header):
                raise InputError(
                    f"{place} has {len(row)} columns, and the first line names {len(header)}",
                    hint='A path with a comma is written in quotes: "a,b.png".',
                )
            name = row[path]
            of_set = row[sets].strip().lower() if sets is not None else ""
            if sets is not None and of_set not in (*TRAIN_NAMES, *TEST_NAMES):
                raise InputError(
                    f"{place} has the set {row[sets]!r}",
                    hint=f"A set is one of {', '.join((*TRAIN_NAMES, *TEST_NAMES))}.",
                )
            if not name or not row[label].strip():
                raise InputError(f"{place} has no path or no label")
            yield _Entry(folder / name, name, row[label].strip(), place, set=of_set)
    except csv.Error as error:
        raise InputError(f"{source} is not a CSV file: {error}") from error


def _column(source: Path, header: Sequence[str], names: Sequence[str]) -> int:
    for name in names:
        if name in header:
            return header.index(name)
    raise InputError(
        f"{source} has no column {names[0]!r}; its first line names "
        f"{_some(header) if header else 'none'}",
        hint=next(filter(None, (did_you_mean(each, names) for each in header if each)), None)
        or f"The first line of a CSV file names its columns, such as {names[0]}.",
    )


def _classes(
    entries: Sequence[_Entry], naming: Naming
) -> tuple[tuple[str, ...], dict[str, int], list[str]]:
    """The names of the classes, the number for each label as written, and notes."""
    texts = dict.fromkeys(entry.label for entry in entries)
    folders = any(entry.is_folder for entry in entries)
    huge = next((text for text in texts if re.fullmatch(r"\d{11,}", text)), None)
    if huge and not folders:
        raise InputError(
            f"the label {huge[:20]}{'...' * (len(huge) > 20)} is larger than Caffe's largest, "
            f"{_LARGEST_LABEL}"
        )
    numbers = {} if folders else {text: int(text) for text in texts if re.fullmatch(r"\d+", text)}
    if not numbers:
        return _named(entries, texts, naming)
    if len(numbers) < len(texts):
        odd = next(entry for entry in entries if entry.label not in numbers)
        raise InputError(
            f"{odd.place} has the label {odd.label!r}, and others are whole numbers from 0",
            hint="Caffe reads labels as whole numbers. Either all labels are numbers, or all are "
            "names.",
        )
    largest = max(numbers, key=lambda text: numbers[text])
    if numbers[largest] > _LARGEST_LABEL:
        raise InputError(f"the label {largest} is larger than Caffe's largest, {_LARGEST_LABEL}")
    values = sorted(set(numbers.values()))
    if naming.names:
        if values[-1] >= len(naming.names):
            raise InputError(
                f"the label {values[-1]} has no name: {len(naming.names):,} classes are named, "
                "from 0"
            )
        unused = len(naming.names) - len(values)
        notes = [f"Classes without a picture: {unused:,}."] if unused else []
        return naming.names, numbers, notes
    gaps = values != list(range(len(values)))
    if gaps and not naming.renumber:
        lacking = next(number for number, value in enumerate(values) if number != value)
        raise InputError(
            f"the labels are {len(values):,} numbers from {values[0]} to {values[-1]}, and "
            f"{lacking} is not among them",
            hint=[
                Option("renumber", True),
                " closes the gaps; ",
                Option("labels", "FILE"),
                " names all classes, one a line, if some have no picture.",
            ],
        )
    if not gaps:
        return tuple(map(str, values)), numbers, []
    places = {value: number for number, value in enumerate(values)}
    notes = [f"The labels {values[0]} to {values[-1]} became 0 to {len(values) - 1}."]
    return tuple(map(str, values)), {text: places[own] for text, own in numbers.items()}, notes


def _named(
    entries: Sequence[_Entry], texts: Iterable[str], naming: Naming
) -> tuple[tuple[str, ...], dict[str, int], list[str]]:
    """As :func:`_classes`, of labels that are names."""
    for entry in entries:
        if re.fullmatch(r"[-+]?\d+(\.\d*)?([eE][-+]?\d+)?", entry.label) and not entry.is_folder:
            raise InputError(
                f"{entry.place} has the label {entry.label!r}, which is no class",
                hint="Labels are whole numbers from 0, or names.",
            )
        if "\n" in entry.label or "\r" in entry.label:
            raise InputError(
                f"the name of the class {entry.label!r} has a line break, and labels.txt has a "
                "line for each class",
                hint="Rename it.",
            )
    names = naming.names or _in_order(texts)
    unknown = [text for text in texts if text not in names]
    if unknown:
        raise InputError(
            f"the class {unknown[0]!r} is not among the {len(names):,} that are named",
            hint=did_you_mean(unknown[0], names),
        )
    notes, alike = [], dict[str, list[str]]()
    for name in names:
        alike.setdefault(unicodedata.normalize("NFC", name).casefold(), []).append(name)
    for same in alike.values():
        if len(same) > 1:
            listed = " and ".join(map(repr, same))
            notes.append(
                f"The classes {listed} differ only in upper and lower case or in how accents are "
                f"written; they are {len(same)} classes."
            )
    used = set(texts)
    if len(used) < len(names):
        notes.append(f"Classes without a picture: {len(names) - len(used):,}.")
    return names, {name: number for number, name in enumerate(names)}, notes


def _in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Names of classes as they are numbered: numbers by value, all else by bytes.

    >>> _in_order(["10", "9"]), _in_order(["b", "10", "9"])
    (('9', '10'), ('10', '9', 'b'))
    """
    known = list(names)
    if all(re.fullmatch("[0-9]+", name) for name in known):
        return tuple(sorted(known, key=lambda name: (int(name), name)))
    return tuple(sorted(known, key=lambda name: name.encode("utf-8", "surrogateescape")))


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(map(repr, names[:_NAMED])) + more

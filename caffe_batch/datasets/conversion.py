"""The conversion of a folder of pictures into a data set: from the first look to the last rename.

Everything is written into ``OUT.unfinished``: into ``set`` what becomes ``OUT`` at the very end, by
one rename, and into ``work`` what an interrupted conversion needs to go on. It goes on if the same
pictures and settings are given.

Source: compute_image_mean.cpp (the mean file).
"""

from __future__ import annotations

import csv
import errno
import fcntl
import io
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from caffe_batch.datasets.description import DESCRIPTION, LABELS, Dataset, Part, read_dataset
from caffe_batch.datasets.filling import UNFINISHED, Filling
from caffe_batch.datasets.pictures import (
    DamagedPictureError,
    decoded,
    opencv,
    require_reader,
)
from caffe_batch.datasets.records import BATCH, Record
from caffe_batch.datasets.remarks import counted, remarks, with_reason
from caffe_batch.datasets.settings import Settings
from caffe_batch.datasets.sources import Found, Item
from caffe_batch.datasets.splitting import mixed, split
from caffe_batch.datasets.workers import batches
from caffe_batch.errors import InputError, Option
from caffe_batch.files import read_regular, replace_bytes, replace_text
from caffe_batch.net.data.survey import evenly
from caffe_batch.schema import caffe_pb2

#: Called with the name of a set, how many of its files are done, and how many there are.
Progress = Callable[[str, int, int], None]

#: Below this many files for each process, starting one costs more than it saves.
FILES_PER_PROCESS = 200

#: How many pictures are opened before anything is written.
_TRIED = 24
#: The folders of an unfinished conversion, and the file that says which one it is.
_SET, _WORK, _SELF = "set", "work", "conversion"


@dataclass(frozen=True)
class Converted:
    """A finished conversion.

    Attributes:
        dataset: What was made.
        set_aside: Files that could not be used, with the reason.
        duplicates: Test pictures that the training set has as well, each with the one there.
        notes: What a user should know, in sentences.
        resumed: How many files an earlier run had dealt with.
        picture: A picture of the classes; None if it isn't drawn.
    """

    dataset: Dataset
    set_aside: tuple[tuple[str, str], ...]
    duplicates: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    resumed: int
    picture: Path | None = None

    def json(self) -> dict[str, Any]:
        """For other programs."""
        return {
            "out": str(self.dataset.folder),
            "dataset": self.dataset.json(),
            "set_aside": [{"file": name, "reason": why} for name, why in self.set_aside],
            "duplicates": [{"test": test, "train": train} for test, train in self.duplicates],
            "notes": list(self.notes),
            "resumed": self.resumed,
        }


@dataclass(frozen=True)
class _Set:
    """One set, before it is converted."""

    name: str
    items: Sequence[Item]


def convert(
    found: Found,
    out: Path,
    settings: Settings,
    *,
    processes: int | None = None,
    progress: Progress = lambda name, done, files: None,
) -> Converted:
    """Make a data set.

    Args:
        found: The pictures.
        out: Its folder, which must not exist, or be empty.
        settings: How pictures become records.
        processes: How many work on it; None: one for each processor, where there is enough to do.
        progress: Called from time to time.

    Raises:
        InputError: The pictures make no data set, or the folder is taken.
        MissingExtraError: Pillow or numpy isn't installed.
        OSError: The disk is full; the next call goes on from there.
    """
    require_reader()
    _check_out(out)
    sets = _sets(found, settings)
    _try_some(sets, settings)
    with _workplace(out, _fingerprint(found, sets, settings)) as folder:
        made = _Conversion(found, sets, folder, settings)
        made.run(_processes(processes, sets), progress)
        (folder / _SET).rename(out)
    shutil.rmtree(folder)
    return made.converted(out)


def _check_out(out: Path) -> None:
    if out.exists() and out.samefile(Path.cwd()):
        raise InputError(
            f"{out} is the working directory", hint="Choose a folder for the data set."
        )
    if out.is_symlink() or out.exists():
        if not out.is_dir() or out.is_symlink():
            raise InputError(f"{out} exists already and is no folder")
        if any(out.iterdir()):
            raise InputError(
                f"{out} exists already",
                hint=["Remove it, or choose another folder with ", Option("out", "DIR"), "."],
            )


def _sets(found: Found, settings: Settings) -> list[_Set]:
    """The sets in the order of their records."""
    if found.test is None:
        train, test = split(found.train, found.classes, settings.test_share, settings.seed)
    else:
        train, test = list(found.train), list(found.test)
    if settings.shuffle:
        train = mixed(train, settings.seed)
    return [_Set("train", train), *([_Set("test", test)] if test else [])]


def _try_some(sets: Sequence[_Set], settings: Settings) -> None:
    """Refuse pictures of different sizes before anything is written, as far as a few tell.

    Raises:
        InputError: They differ, and nothing is said about it.
    """
    if settings.resize or settings.keep_sizes:
        return
    first: tuple[Item, tuple[int, int]] | None = None
    for each in sets:
        for index in evenly(len(each.items), _TRIED):
            item = each.items[index]
            try:
                shape = decoded(read_regular(item.path), gray=settings.gray).pixels.shape
            except (DamagedPictureError, OSError):
                continue
            size = (int(shape[0]), int(shape[1]))
            first = first or (item, size)
            if size != first[1]:
                raise _unequal(first[0].name, first[1], item.name, size)


def _unequal(
    one: str, one_size: tuple[int, int], other: str, other_size: tuple[int, int]
) -> InputError:
    return InputError(
        f"the pictures differ in size: {one!r} is {one_size[0]} x {one_size[1]} (height x width), "
        f"{other!r} is {other_size[0]} x {other_size[1]}",
        hint=[
            Option("resize", 256),
            " makes them alike. ",
            Option("keep_sizes", True),
            " keeps them; then Caffe needs a crop_size, or batch_size 1.",
        ],
    )


def _processes(asked: int | None, sets: Sequence[_Set]) -> int:
    """How many processes make the records; 0: this one."""
    if asked is not None:
        return 0 if asked == 1 else asked
    useful = sum(len(each.items) for each in sets) // FILES_PER_PROCESS
    number = min(len(os.sched_getaffinity(0)), useful)
    return number if number > 1 else 0


def _fingerprint(found: Found, sets: Sequence[_Set], settings: Settings) -> str:
    """What tells this conversion from any other: its settings and files."""
    digest = blake2b(digest_size=16)
    digest.update(json.dumps([settings.json(), found.classes, opencv() is not None]).encode())
    for each in sets:
        digest.update(each.name.encode())
        for item in each.items:
            try:
                stat = item.path.stat()
                facts = (item.name, item.label, stat.st_size, stat.st_mtime_ns)
            except OSError as error:  # a link to nothing, which is set aside later
                facts = (item.name, item.label, error.errno or 0, 0)
            digest.update(json.dumps(facts).encode())
    return digest.hexdigest()


@contextmanager
def _workplace(out: Path, fingerprint: str) -> Iterator[Path]:
    """The folder in which a data set is made, for this process alone.

    It is removed if the pictures make no data set, and left for the next call at any other end.
    """
    out = Path(os.path.abspath(out))  # the working directory has no name of its own
    folder = out.with_name(f"{out.name}{UNFINISHED}")
    own = folder / _SELF
    foreign = folder.exists() and not own.is_file()
    if foreign and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is needed for the work and exists already")
    for part in (_SET, _WORK):
        (folder / part).mkdir(exist_ok=True, parents=True)
    with own.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            raise InputError(f"another process is making {out} just now") from error
        file.seek(0)
        before = file.read()
        if before and before != fingerprint:
            raise InputError(
                f"{folder} is of another conversion: its pictures or settings were different",
                hint="Remove it to start anew, or choose another folder.",
            )
        if not before:
            file.write(fingerprint)
            file.flush()
        try:
            yield folder
        except InputError:
            shutil.rmtree(folder, ignore_errors=True)
            raise


class _Conversion:
    """A conversion at work in its folder."""

    def __init__(
        self, found: Found, sets: Sequence[_Set], folder: Path, settings: Settings
    ) -> None:
        self._found, self._sets, self._settings = found, sets, settings
        self._folder = folder / _SET
        self._fillings = {
            each.name: Filling(self._folder, folder / _WORK, each.name) for each in sets
        }
        self._resumed = sum(filling.sums.done for filling in self._fillings.values())

    def run(self, processes: int, progress: Progress) -> None:
        """Make the records, then everything that follows from them."""
        in_train: dict[str, str] = {}
        for each in self._sets:
            self._fill(each, processes, progress, in_train)
            if each.name == "train":
                for item, record in self._records(each.name):
                    if record.digest:
                        in_train.setdefault(record.digest, item.name)
        self._duplicates = [
            (item.name, in_train[record.digest])
            for item, record in self._records("test")
            if record.digest in in_train
        ]
        self._write(in_train)

    def _records(self, name: str) -> Iterator[tuple[Item, Record]]:
        """The files of a set and what became of them; none if there is no such set."""
        for each in self._sets:
            if each.name == name:
                yield from zip(each.items, self._fillings[name].seen(), strict=True)

    def _fill(
        self,
        each: _Set,
        processes: int,
        progress: Progress,
        in_train: dict[str, str],
    ) -> None:
        """Put the records of a set into its database."""
        filling = self._fillings[each.name]
        start = done = filling.sums.done
        progress(each.name, done, len(each.items))
        work = [each.items[at : at + BATCH] for at in range(start, len(each.items), BATCH)]
        files = ([(item.path, item.label) for item in items] for items in work)
        size = next((record for record in filling.seen() if record.digest), None)
        for items, batch in zip(work, batches(files, self._settings, processes), strict=True):
            for item, record in zip(items, batch.records, strict=True):
                size = self._checked(item, record, size, each)
            if self._settings.drop_duplicates and each.name == "test":
                for record in batch.records:
                    if record.digest in in_train:
                        record.datum = None
            filling.add(batch, [(done + own, item.name) for own, item in enumerate(items)])
            done += len(items)
            progress(each.name, done, len(each.items))
        filling.commit()

    def _checked(
        self, item: Item, record: Record, first: Record | None, each: _Set
    ) -> Record | None:
        """The first record of a set, with which all others have to agree."""
        if record.datum is None or self._settings.keep_sizes:
            return first
        if first is None:
            other = self._fillings["train"].seen() if each.name == "test" else ()
            first = next((own for own in other if own.digest), record)
        if record.shape != first.shape:
            raise _unequal("the first picture", first.size, item.name, record.size)
        return first

    def _write(self, in_train: dict[str, str]) -> None:
        """Everything but the databases; dataset.json comes last."""
        parts = {}
        for each in self._sets:
            counts = Counter(
                item.label
                for item, record in self._records(each.name)
                if record.digest and not self._drops(each.name, record, in_train)
            )
            by_class = tuple(counts[label] for label in range(len(self._found.classes)))
            parts[each.name] = Part(f"{each.name}_lmdb", sum(by_class), by_class)
        self._check_classes(parts)
        sums = self._fillings["train"].sums
        mean_file = None
        if sums.total is not None:
            mean_file = "mean.binaryproto"
            mean = sums.total / sums.records
            channels, height, width = mean.shape
            blob = caffe_pb2.BlobProto(num=1, channels=channels, height=height, width=width)
            blob.data.extend(mean.astype("float32").ravel())
            replace_bytes(self._folder / mean_file, blob.SerializeToString(deterministic=True))
        aside = self._set_aside()
        _write_csv(self._folder / "set_aside.csv", ("file", "reason"), aside)
        _write_csv(self._folder / "duplicates.csv", ("test", "train"), self._duplicates)
        labels = b"".join(os.fsencode(name) + b"\n" for name in self._found.classes)
        replace_bytes(self._folder / LABELS, labels)
        shapes = {
            record.shape
            for each in self._sets
            for _, record in self._records(each.name)
            if record.digest
        }
        dataset = Dataset(
            folder=self._folder,
            backend="lmdb",
            encoded=self._settings.encoded,
            shape=shapes.pop() if len(shapes) == 1 else None,
            labels=self._found.classes,
            train=parts["train"],
            test=parts.get("test"),
            mean_file=mean_file,
            mean_values=tuple(total / sums.pixels for total in sums.channels),
            settings=self._settings.json(),
            resized_by=_resizer() if self._settings.resize else "",
            set_aside=len(aside),
            duplicates=len(self._duplicates),
        )
        replace_text(self._folder / DESCRIPTION, dataset.to_text())

    def _drops(self, name: str, record: Record, in_train: dict[str, str]) -> bool:
        """Whether a picture is left out because the training set has it."""
        drops = self._settings.drop_duplicates and name == "test"
        return drops and record.digest in in_train

    def _check_classes(self, parts: dict[str, Part]) -> None:
        """Refuse a data set that nothing can be learned from.

        Raises:
            InputError: A class that the source has pictures of has none in the training set, or a
                set is empty.
        """
        aside = self._set_aside()
        reasons = counted(map(with_reason, aside))
        why = f"; set aside: {reasons}" if aside else ""
        for name, part in parts.items():
            if not part.records:
                raise InputError(f"no picture of the {name} set is left{why}")
        named = {item.label for each in self._sets for item in each.items}
        for label in sorted(named):
            if not parts["train"].by_class[label]:
                raise InputError(
                    f"the class {self._found.classes[label]!r} has no picture in the training set"
                    f"{why}",
                    hint="A class that only the test set has can't be learned.",
                )

    def _set_aside(self) -> list[tuple[str, str]]:
        return [
            (item.name, record.problem)
            for each in self._sets
            for item, record in self._records(each.name)
            if record.problem
        ]

    def _remarks(self, out: Path) -> Iterator[str]:
        train, test = (list(self._records(name)) for name in ("train", "test"))
        return remarks(train, test, self._duplicates, self._settings, out)

    def converted(self, out: Path) -> Converted:
        """What was made, once it is at its place."""
        return Converted(
            dataset=read_dataset(out),
            set_aside=tuple(self._set_aside()),
            duplicates=tuple(self._duplicates),
            notes=(*self._found.notes, *self._remarks(out)),
            resumed=self._resumed,
        )


def _resizer() -> str:
    return "opencv" if opencv() is not None else "pillow"


def _write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a table; none if it has no rows."""
    if not rows:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    replace_text(path, text.getvalue())

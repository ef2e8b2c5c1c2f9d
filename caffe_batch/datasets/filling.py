"""Fills an LMDB with records so that a conversion that is killed goes on where it was.

The records arrive in portions, each one transaction. Before one is committed, what is known after
it goes to a file; which of the two states is true, the number of records in the database tells.
Every transaction has an environment of its own: so the bytes of the file depend on
the records alone, and not on when the program was interrupted.

Source: convert_imageset.cpp (the keys, 1,000 records a transaction).
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lmdb

from caffe_batch.datasets.records import Batch, Record
from caffe_batch.files import replace_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

#: A transaction is committed once it has this many records, or this many bytes.
PORTION = 1000
PORTION_BYTES = 64 * 2**20

#: What the folder of an interrupted call has behind the name of the one to be made.
UNFINISHED = ".unfinished"

#: What LMDB reserves at least: addresses only, the file is as large as its content.
_LEAST_MAP = 1 << 24
#: The longest key that LMDB takes.
_LONGEST_KEY = 511


def key(number: int, name: str) -> bytes:
    """The key of a record as convert_imageset makes it: its number and its name.

    >>> key(12, "cat/a b.png")
    b'00000012_cat/a b.png'
    """
    return (b"%08d_" % number + os.fsencode(name))[:_LONGEST_KEY]


@dataclass
class Sums:
    """What is added up over the records.

    Attributes:
        done: How many files of the set have been dealt with.
        records: How many of them are in the database.
        total: Sum of the pixels (C, H, W); None if there are none, or if sizes differ.
        channels: Sum of each channel.
        pixels: How many pixels a channel has in all.
    """

    done: int = 0
    records: int = 0
    total: NDArray[np.uint64] | None = None
    channels: list[int] = field(default_factory=list)
    pixels: int = 0

    def add(self, batch: Batch) -> None:
        """Take in a batch."""
        import numpy as np

        own = sum(record.datum is not None for record in batch.records)
        if own:
            if not self.records and batch.total is not None:
                self.total = batch.total.astype(np.uint64)
            elif (
                self.total is not None
                and batch.total is not None
                and self.total.shape == batch.total.shape
            ):
                self.total += batch.total
            else:
                self.total = None
            self.channels = [
                before + more
                for before, more in zip(
                    self.channels or [0] * len(batch.channels), batch.channels, strict=True
                )
            ]
            self.pixels += batch.pixels
        self.done += len(batch.records)
        self.records += own

    def to_bytes(self) -> bytes:
        """As a file."""
        import numpy as np

        numbers = {
            "done": self.done,
            "records": self.records,
            "channels": self.channels,
            "pixels": self.pixels,
        }
        stream = BytesIO()
        total = np.zeros(0, np.uint64) if self.total is None else self.total
        np.savez(stream, numbers=np.frombuffer(json.dumps(numbers).encode(), np.uint8), total=total)
        return stream.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Sums:
        """From such a file."""
        import numpy as np

        with np.load(BytesIO(data), allow_pickle=False) as found:
            total = found["total"]
            return cls(
                **json.loads(found["numbers"].tobytes()), total=total if total.size else None
            )


class Filling:
    """An LMDB in the making, with its state beside it.

    Args:
        folder: Where the LMDB is.
        work: Where the state is.
        name: Of the set: the LMDB is ``NAME_lmdb``.

    Attributes:
        sums: What is known of the records that are in the database for good.
        path: The LMDB.
    """

    def __init__(self, folder: Path, work: Path, name: str) -> None:
        self.path = folder / f"{name}_lmdb"
        self._state = work / f"{name}.state"
        self._next = work / f"{name}.next"
        self._journal = work / f"{name}.journal"
        self.sums = self._resumed()
        self._seen = self._trimmed()
        self._ahead = deepcopy(self.sums)
        self._portion: list[tuple[bytes, bytes]] = []
        self._lines: list[str] = []
        self._size = 0

    def add(self, batch: Batch, numbered: Sequence[tuple[int, str]]) -> None:
        """Take in a batch.

        Args:
            batch: The records.
            numbered: Number and name of each file.

        Raises:
            OSError: The disk is full.
        """
        for record, (number, name) in zip(batch.records, numbered, strict=True):
            self._lines.append(_line(number, record))
            self._seen.append(_seen(record))
            if record.datum is not None:
                self._portion.append((key(number, name), record.datum))
                self._size += len(record.datum)
        self._ahead.add(batch)
        if len(self._portion) >= PORTION or self._size >= PORTION_BYTES:
            self.commit()

    def commit(self) -> None:
        """Write what was taken in.

        Raises:
            OSError: The disk is full.
        """
        with self._journal.open("a", encoding="utf-8") as journal:
            journal.writelines(self._lines)
            journal.flush()
            os.fsync(journal.fileno())
        replace_bytes(self._next, self._ahead.to_bytes())
        with (
            _environment(self.path, self._size, len(self._portion)) as environment,
            environment.begin(write=True) as transaction,
        ):
            for own, value in self._portion:
                transaction.put(own, value, append=True)
        self._next.replace(self._state)
        self.sums = deepcopy(self._ahead)
        self._portion, self._lines, self._size = [], [], 0

    def seen(self) -> list[Record]:
        """What became of all files so far, without the records themselves."""
        return self._seen

    def _resumed(self) -> Sums:
        """The state that belongs to what is in the database."""
        there = _entries(self.path)
        if there is None:
            for path in (self._state, self._next, self._journal):
                path.unlink(missing_ok=True)
            return Sums()
        for path in (self._next, self._state):
            with suppress(OSError, ValueError, KeyError, TypeError):
                found = Sums.from_bytes(path.read_bytes())
                if found.records == there:
                    if path == self._next:
                        path.replace(self._state)
                    return found
        if there:
            raise _damaged(self.path)
        return Sums()

    def _trimmed(self) -> list[Record]:
        """What became of the files that are done; lines that came too early are cut off."""
        if not self._journal.exists() and not self.sums.done:
            return []
        try:
            with self._journal.open("r+", encoding="utf-8") as journal:
                found = [_read(journal.readline()) for _ in range(self.sums.done)]
                journal.truncate(journal.tell())
        except (FileNotFoundError, KeyError, TypeError, ValueError) as error:
            raise _damaged(self._journal) from error
        return found


def _is_unfinished(folder: Path) -> bool:
    return folder.name.endswith(UNFINISHED)


def _damaged(path: Path) -> OSError:
    """The error about a file of an interrupted call, in the folder beside the one to be made."""
    unfinished = next(filter(_is_unfinished, path.parents), path.parent)
    return OSError(errno.EUCLEAN, f"is damaged; remove {unfinished} and start again", str(path))


def _entries(path: Path) -> int | None:
    """How many records an LMDB has; None if there is none.

    Raises:
        OSError: It is damaged.
    """
    if not (path / "data.mdb").is_file():
        return None
    try:
        with _environment(path, 0, 0) as environment:
            return int(environment.stat()["entries"])
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        raise _damaged(path) from error


@contextmanager
def _environment(path: Path, size: int, records: int) -> Iterator[Any]:
    """An LMDB, open to take this many more bytes.

    Raises:
        OSError: The disk is full, or it is no LMDB.
    """
    path.mkdir(exist_ok=True)
    data = path / "data.mdb"
    there = data.stat().st_size if data.exists() else 0
    wanted = there + 2 * (size + 8192 * records)
    map_size = max(_LEAST_MAP, 1 << wanted.bit_length())
    try:
        with lmdb.open(str(path), map_size=map_size, meminit=True) as environment:
            yield environment
        with suppress(OSError):  # it names processes; LMDB makes it again
            (path / "lock.mdb").unlink()
    except lmdb.Error as error:
        number = _number_of(error, path, size)
        raise OSError(number, os.strerror(number), str(path)) from error


def _number_of(error: lmdb.Error, path: Path, size: int) -> int:
    """The number of the operating system's error that LMDB met; it gives only its text.

    Where a disk takes only a part of a write, LMDB speaks of an input/output error.
    """
    known = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS)
    code = next((number for number in known if os.strerror(number) in str(error)), errno.EIO)
    is_full = code == errno.EIO and shutil.disk_usage(path).free < size
    return errno.ENOSPC if is_full else code


def _line(number: int, record: Record) -> str:
    seen = _seen(record)
    facts = [number, seen.problem, seen.digest, seen.size, seen.shape, seen.remarks, seen.gray]
    return json.dumps(facts) + "\n"


def _read(line: str) -> Record:
    _, problem, digest, size, shape, remarks, gray = json.loads(line)
    return Record(None, problem, digest, tuple(size), tuple(shape), tuple(remarks), gray)


def _seen(record: Record) -> Record:
    """A record's facts without its bytes."""
    return Record(
        None, record.problem, record.digest, record.size, record.shape, record.remarks, record.gray
    )

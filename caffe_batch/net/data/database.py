"""LMDB and LevelDB: how many records there are, and some or all of them.

Source: db_lmdb.cpp, db_leveldb.cpp, data_layer.cpp. Caffe opens both by the name of their folder.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from threading import RLock
from typing import Any, Protocol

from caffe_batch.errors import InputError
from caffe_batch.net.data.extras import extra

Record = tuple[bytes, bytes]

_NUMBER = re.compile(rb"\d+")


class Database(Protocol):
    """An open database of either kind."""

    @property
    def records(self) -> int:
        """How many there are; at least one."""

    def forward(self, start: int = 0) -> Iterator[Record]:
        """Key and value of all records from the one with this number on, in Caffe's order."""

    def backward(self) -> Iterator[Record]:
        """The same, starting from the last one."""

    def behind(self, key: bytes) -> Record | None:
        """The first record whose key isn't before this one."""


def sample(database: Database, number: int) -> Iterator[Record]:
    """About ``number`` records: the first ones, the last ones, and some spread over the rest.

    All of them if there are no more than that.
    """
    if database.records <= number:
        yield from database.forward()
        return
    first = list(islice(database.forward(), number // 4))
    last = list(islice(database.backward(), number // 4))
    between = (database.behind(key) for key in _spread(first[0][0], last[0][0], number // 2))
    found = dict((*first, *filter(None, between), *last))
    yield from sorted(found.items())


def _spread(first: bytes, last: bytes, number: int) -> Iterator[bytes]:
    """Keys spread evenly between two: as numbers if both begin with one, otherwise as bytes."""
    low, high = _NUMBER.match(first), _NUMBER.match(last)
    decimal = low is not None and high is not None and len(low[0]) == len(high[0])
    width = len(low[0]) if low is not None and decimal else 16
    if low is not None and high is not None and decimal:
        start, end = int(low[0]), int(high[0])
    else:
        start, end = (
            int.from_bytes(key[:width].ljust(width, b"\0"), "big") for key in (first, last)
        )
    for step in range(1, number + 1):
        value = start + (end - start) * step // (number + 1)
        yield b"%0*d" % (width, value) if decimal else value.to_bytes(width, "big")


#: Neither library opens a database twice in one process, and the threads of ``compare`` check the
#: data of several trainings at once.
_OPENING = RLock()


@contextmanager
def open_database(path: Path, *, lmdb: bool) -> Iterator[Database]:
    """Open a database for a look; another thread that wants one waits until it is closed.

    Raises:
        InputError: It isn't of this kind, is empty or truncated, or its reader isn't installed.
    """
    with _OPENING, keep_open(path, lmdb=lmdb) as database:
        yield database


@contextmanager
def keep_open(path: Path, *, lmdb: bool) -> Iterator[Database]:
    """Open a database to read it for long; no other thread may open the same one meanwhile.

    Raises:
        InputError: As for :func:`open_database`.
    """
    _check_kind(path, lmdb=lmdb)
    with (_open_lmdb if lmdb else _open_leveldb)(path) as database:
        yield database


def _check_kind(path: Path, *, lmdb: bool) -> None:
    """Refuse what Caffe couldn't open, before a library makes files of its own there."""
    wanted, other = ("LMDB", "LevelDB") if lmdb else ("LevelDB", "LMDB")
    if not path.is_dir():
        folder = path.parent
        inside = _is_lmdb(folder) if path.name == "data.mdb" else _is_leveldb(folder)
        raise InputError(
            f"{path} is not a readable {wanted}: it is a file, and Caffe opens the folder"
            + (" around it" if inside else ""),
            hint=f"Write source: {str(folder)!r}." if inside else None,
        )
    is_wanted, is_other = (_is_lmdb(path), _is_leveldb(path))[:: 1 if lmdb else -1]
    if not is_wanted:
        part = "data.mdb" if lmdb else "CURRENT"
        raise InputError(
            f"{path} is not a readable {wanted}: there is no {part} in it",
            hint=f"It is a {other}, which needs `backend: {other.upper()}` in data_param."
            if is_other
            else None,
        )


def _is_lmdb(folder: Path) -> bool:
    return (folder / "data.mdb").is_file()


def _is_leveldb(folder: Path) -> bool:
    return (folder / "CURRENT").is_file()


class _Lmdb:
    def __init__(self, transaction: Any, records: int) -> None:
        self._transaction, self.records = transaction, records

    def forward(self, start: int = 0) -> Iterator[Record]:
        with self._transaction.cursor() as cursor:
            if cursor.first():
                passed = cursor.iternext(keys=False, values=False)
                deque(islice(passed, start + 1), maxlen=0)  # it stands on the one it gave last
                yield from cursor.iternext()

    def backward(self) -> Iterator[Record]:
        with self._transaction.cursor() as cursor:
            yield from cursor.iterprev()

    def behind(self, key: bytes) -> Record | None:
        with self._transaction.cursor() as cursor:
            return cursor.item() if cursor.set_range(key) else None


@contextmanager
def _open_lmdb(path: Path) -> Iterator[Database]:
    import lmdb

    try:
        with lmdb.open(
            str(path), readonly=True, lock=False, readahead=False
        ) as environment, environment.begin() as transaction:  # fmt: skip
            stat = environment.stat()
            whole = (environment.info()["last_pgno"] + 1) * stat["psize"]
            size = (path / "data.mdb").stat().st_size
            if size < whole:  # reading beyond its end would kill this program, and Caffe later
                raise InputError(
                    f"LMDB {path} is truncated: it has {size:,} of {whole:,} bytes",
                    hint="Copy or create it again.",
                )
            if not stat["entries"]:
                raise InputError(f"LMDB {path} is empty")
            yield _Lmdb(transaction, stat["entries"])
    except lmdb.Error as error:
        raise InputError(f"{path} is not a readable LMDB ({error})") from error


class _LevelDb:
    def __init__(self, database: Any, records: int) -> None:
        self._database, self.records = database, records

    def forward(self, start: int = 0) -> Iterator[Record]:
        if not start:
            yield from self._database.iterator()
            return
        keys = self._database.iterator(include_value=False)
        yield from self._database.iterator(start=next(islice(keys, start, None)))

    def backward(self) -> Iterator[Record]:
        yield from self._database.iterator(reverse=True)

    def behind(self, key: bytes) -> Record | None:
        return next(self._database.iterator(start=key), None)


@contextmanager
def _open_leveldb(path: Path) -> Iterator[Database]:
    plyvel = extra("plyvel", "leveldb", f"LevelDB {path}")
    try:
        database = plyvel.DB(str(path), create_if_missing=False)
    except (plyvel.Error, OSError) as error:
        raise InputError(f"{path} is not a readable LevelDB ({error})") from error
    try:
        records = sum(1 for _ in database.iterator(include_value=False))
        if not records:
            raise InputError(f"LevelDB {path} is empty")
        yield _LevelDb(database, records)
    except plyvel.Error as error:
        raise InputError(f"{path} is damaged ({error})", hint="Copy or create it again.") from error
    finally:
        database.close()

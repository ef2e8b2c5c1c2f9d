"""The installed runtimes on disk: ``<data directory>/runtimes/<name>/``.

A runtime's folder appears there complete, by a single rename, and disappears by a single rename;
the names of folders that are being made or deleted begin with a dot. Each folder holds
``runtime.json`` (the record) and ``root/`` (the files), and may be moved or copied as a whole.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import platformdirs

from caffe_batch.errors import InputError, RuntimeMissingError, did_you_mean
from caffe_batch.runtimes.base import InstallObserver
from caffe_batch.runtimes.debian import ARCHITECTURES, DebianRuntime

#: The runtime that ``install`` makes by default, preferred where there are several.
DEFAULT_NAME = "debian-11"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


@dataclass(frozen=True)
class Record:
    """The content of ``runtime.json``: what was installed, as its first run after unpacking said.

    Attributes:
        machine: The processor, as ``platform.machine()`` names it.
        mirror, suite: Where the packages came from.
        packages: The version of each package.
        caffe_version: The engine_version of RuntimeInfo.
        python_version, gpu: As in RuntimeInfo.
        size_bytes: Disk space taken by the files.
    """

    machine: str
    mirror: str
    suite: str
    packages: dict[str, str]
    caffe_version: str
    python_version: str
    gpu: bool
    size_bytes: int


@dataclass(frozen=True)
class Installed:
    """An installed runtime: its name, its folder and its record."""

    name: str
    folder: Path
    record: Record

    @property
    def runtime(self) -> DebianRuntime:
        """How to start it.

        Raises:
            RuntimeMissingError: It was installed for another kind of processor.
        """
        if self.record.machine != platform.machine():
            raise RuntimeMissingError(
                f"the runtime {self.name!r} is for {self.record.machine},"
                f" and this machine is {platform.machine()}",
                hint="Run `caffe-batch runtime install --name NAME` on this machine.",
            )
        return DebianRuntime(self.name, root_of(self.folder), ARCHITECTURES[self.record.machine])


def data_directory() -> Path:
    """The user's data directory: CAFFE_BATCH_HOME, else the platform's usual location.

    Raises:
        InputError: CAFFE_BATCH_HOME begins with a user that this machine doesn't have.
    """
    home = os.environ.get("CAFFE_BATCH_HOME")
    if home:
        try:
            return Path(home).expanduser().absolute()
        except RuntimeError as error:
            raise InputError(
                f"CAFFE_BATCH_HOME is {home!r}, and {Path(home).parts[0]} is no user's home here",
                hint="Set it to a directory, or unset it.",
            ) from error
    return platformdirs.user_data_path("caffe-batch")


def runtimes_directory() -> Path:
    """The folder of the installed runtimes, which need not exist."""
    return data_directory() / "runtimes"


def root_of(folder: Path) -> Path:
    """The root folder inside a runtime's folder."""
    return folder / "root"


def check_name(name: str) -> str:
    """Returns the name if it is valid for a runtime.

    Raises:
        InputError: It isn't.
    """
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{name!r} can't be the name of a runtime",
            hint="Use letters, digits and . _ + -, and begin with a letter or a digit.",
        )
    return name


def installed() -> dict[str, Installed]:
    """The installed runtimes by name, the default one first.

    Raises:
        RuntimeMissingError: A record is damaged.
    """
    try:
        names = [name for name in os.listdir(runtimes_directory()) if _NAME.fullmatch(name)]
    except FileNotFoundError:
        return {}
    folders = [runtimes_directory() / name for name in sorted(names)]
    found = [_read(folder) for folder in folders if (folder / "runtime.json").is_file()]
    found.sort(key=lambda each: each.name != DEFAULT_NAME)
    return {each.name: each for each in found}


def write_record(folder: Path, record: Record) -> None:
    """Writes the record into a runtime's folder."""
    text = json.dumps(asdict(record), indent=2, sort_keys=True)
    (folder / "runtime.json").write_text(text + "\n", encoding="utf-8")


def remove(name: str) -> None:
    """Deletes an installed runtime. Any training that is running on it breaks.

    Raises:
        InputError: There is no such runtime.
    """
    folder = runtimes_directory() / check_name(name)
    with locked(), workshop() as scratch:
        try:
            folder.rename(scratch / name)
        except FileNotFoundError as error:
            names = [*installed()]
            known = f"Installed: {', '.join(names)}." if names else "None is installed."
            raise InputError(
                f"there is no installed runtime {name!r}", hint=did_you_mean(name, names) or known
            ) from error


def put(made: Path, name: str) -> Path:
    """Moves a complete folder out of a workshop to its final name, replacing what is there."""
    folder = runtimes_directory() / name
    if folder.exists():
        folder.rename(made.with_name(f"{name}.old"))
    made.rename(folder)
    return folder


@contextmanager
def locked(observer: InstallObserver | None = None) -> Iterator[int]:
    """Holds the lock under which runtimes are made and deleted, waiting for it if necessary.

    Yields:
        The lock's file descriptor. A child that inherits it keeps the lock for as long as it
        lives, even if this process is killed.
    """
    directory = runtimes_directory()
    directory.mkdir(parents=True, exist_ok=True)
    lock = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if observer:
                observer("Waiting for another install or remove to finish", 0)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock
    finally:
        os.close(lock)


@contextmanager
def workshop() -> Iterator[Path]:
    """An empty folder beside the runtimes, deleted at the end. The caller holds the lock.

    Folders left behind by killed installs are deleted first.
    """
    directory = runtimes_directory()
    for left in directory.glob(".tmp-*"):
        shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=".tmp-", dir=directory))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _read(folder: Path) -> Installed:
    record = folder / "runtime.json"
    try:
        content = json.loads(record.read_text("utf-8"))
        known = {field.name: content[field.name] for field in fields(Record)}  # others may follow
        return Installed(folder.name, folder, Record(**known))
    except (KeyError, TypeError, ValueError) as error:
        raise RuntimeMissingError(
            f"the record of an installed runtime is damaged: {record}: {error}",
            hint=f"Run `caffe-batch runtime remove {folder.name}` and install it again.",
        ) from error

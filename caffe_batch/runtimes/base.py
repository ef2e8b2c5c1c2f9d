"""What a runtime is: a Python that can import an engine, and how to start it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from caffe_batch.errors import CaffeBatchError

#: Called as an install advances, with the current step in words and the share of it done (0 to 1).
InstallObserver = Callable[[str, float], None]


class InstallError(CaffeBatchError, RuntimeError):
    """An install that began and could not finish: network, signature, disk. Exit code 1."""


@dataclass(frozen=True)
class WorkerPlaces:
    """What a worker needs of this machine's files.

    Attributes:
        folder: What it writes to: the job directory, or a temporary folder.
        directory: Where it runs.
        folders: What else it reads.
        fifo: Where a FIFO for its events may be made.
    """

    folder: Path
    directory: Path
    folders: tuple[Path, ...]
    fifo: Path


@dataclass(frozen=True)
class Runtime(ABC):
    """A Python that can run an engine, wherever it lives.

    Two methods are enough for a script that reads no files but its own: start
    ``subprocess.Popen(runtime.command([script]), env=runtime.environment())``. The others matter
    where that isn't the Python itself but a client that starts it somewhere else; everything that
    needs them goes through :class:`caffe_batch.training.process.WorkerProcess`.

    Attributes:
        name: What the user calls it: the name of an installed runtime or an interpreter's path.
    """

    name: str

    @abstractmethod
    def command(self, args: Sequence[str]) -> list[str]:
        """The argv that runs this runtime's Python with ``args`` (a script, ``-c``, ...)."""

    @abstractmethod
    def environment(self) -> dict[str, str]:
        """The whole environment of such a process, made from this process's own."""

    @property
    def fifo(self) -> Path | None:
        """Where the worker's events go; None if it inherits the files of the process here."""
        return None

    def for_worker(self, places: Callable[[], WorkerPlaces]) -> Runtime:
        """The same runtime, able to see the files of a worker; ``places`` says which, if asked."""
        return self

    def clear(self) -> None:
        """Ends what still runs for the worker although the process here has ended."""
        return

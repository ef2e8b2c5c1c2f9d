"""What a runtime is: a Python that can import an engine, and how to start it."""

from __future__ import annotations

import os
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
    """The files of this machine that a worker needs.

    Attributes:
        folder: The folder it writes to: the job directory, or a temporary folder.
        directory: Its working directory.
        folders: Other folders that it reads.
        fifo: The path at which a FIFO for its events may be made.
    """

    folder: Path
    directory: Path
    folders: tuple[Path, ...]
    fifo: Path


def host_environment() -> dict[str, str]:
    """The environment of this process, without what puts the working directory before all modules.

    An empty entry of PYTHONPATH means the working directory to Python, as ``PYTHONPATH=:/layers``
    has one: a numpy.py that lies there would run in numpy's place. Workers look there last.
    """
    kept = dict(os.environ)
    named = os.pathsep.join(filter(None, kept.pop("PYTHONPATH", "").split(os.pathsep)))
    return {**kept, **({"PYTHONPATH": named} if named else {})}


@dataclass(frozen=True)
class Runtime(ABC):
    """A Python that can run an engine, wherever it lives.

    Two methods are enough for a script that reads no other files: start
    ``subprocess.Popen(runtime.command([script]), env=runtime.environment())``. The others matter
    where that isn't the Python itself but a client that starts it somewhere else; everything that
    needs them goes through :class:`caffe_batch.training.process.WorkerProcess`.

    Attributes:
        name: The user's name for it: that of an installed runtime, or an interpreter's path.
    """

    name: str

    @abstractmethod
    def command(self, args: Sequence[str]) -> list[str]:
        """The argv that runs this runtime's Python with ``args`` (a script, ``-c``, ...)."""

    @abstractmethod
    def environment(self) -> dict[str, str]:
        """The complete environment of such a process, derived from this process's own."""

    def tool(self, name: str) -> list[str] | None:
        """The argv that starts one of the programs beside its Python; None if it has none such."""
        return None

    @property
    def fifo(self) -> Path | None:
        """The FIFO for the worker's events; None if the worker inherits its parent's files."""
        return None

    def for_worker(self, places: Callable[[], WorkerPlaces]) -> Runtime:
        """The same runtime with access to a worker's files; ``places`` is called if needed."""
        return self

    def clear(self) -> None:
        """Ends what is still running for the worker after the process here has ended."""
        return

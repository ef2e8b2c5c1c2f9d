"""What a runtime is: a Python that can import caffe, and how to start it."""

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
class JobPlaces:
    """What a training needs of this machine's files.

    Attributes:
        job: The job directory, which it writes to.
        directory: Where it runs.
        folders: What else it reads.
        fifo: Where a FIFO for its events may be made.
    """

    job: Path
    directory: Path
    folders: tuple[Path, ...]
    fifo: Path


@dataclass(frozen=True)
class Runtime(ABC):
    """A Python with caffe, wherever it lives.

    Two methods are all that most of the program needs: start
    ``subprocess.Popen(runtime.command([script]), env=runtime.environment())``. The others have a
    meaning where that isn't the Python itself, but a client that starts it somewhere else.

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

    def for_job(self, places: Callable[[], JobPlaces]) -> Runtime:
        """The same runtime, able to see the files of a job; ``places`` says which, if asked."""
        return self

    def clear(self) -> None:
        """Ends what still runs for the job although the process here has ended."""
        return


@dataclass(frozen=True)
class RuntimeInfo:
    """What a runtime says about itself (:func:`caffe_batch.runtimes.inspect`).

    Attributes:
        caffe_version: As ``caffe.__version__`` has it, for example ``1.0.0``.
        caffe_path: The package's ``__init__.py``, as that Python sees it.
        python_version, numpy_version: For example ``3.9.2`` and ``1.19.5``.
        gpu: Whether this build of Caffe has GPU code.
        gpu_problem: What the first use of a GPU said; None if it works or the build has no GPU
            code.
        nccl: Whether this build can train on several GPUs.
        layer_types: Caffe's registered layer types, sorted.
        import_s: Seconds that ``import caffe`` took.
    """

    caffe_version: str
    caffe_path: str
    python_version: str
    numpy_version: str
    gpu: bool
    gpu_problem: str | None
    nccl: bool
    layer_types: tuple[str, ...]
    import_s: float

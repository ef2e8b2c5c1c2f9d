"""Measures the host memory that real Caffe takes in CPU mode, in two ways.

Counted: what libcaffe asks the allocator for, to the byte (counter.c, which needs a C compiler).
Resident: how the resident set of the process grows, which any Linux says. It is not the same:
memory that was asked for and never written isn't resident, and the allocator's own is.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from caffe_batch.runtimes import Runtime

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Counted:
    """What libcaffe asked for during two updates, in bytes.

    Attributes:
        after_build: The most at once until the solver was constructed.
        peak: The most at once.
        small: What is there in the end in blocks of at most 128 bytes. The shapes of all blobs are
            among them.
    """

    after_build: int
    peak: int
    small: int


@dataclass(frozen=True)
class Resident:
    """How much more than a process that has trained another net was resident, in bytes.

    Attributes:
        peak: The most, without what belongs to files.
        files: Pages of files in the end: code, and an LMDB, which is mapped into memory.
    """

    peak: int
    files: int


def build_counter(folder: Path) -> Path | None:
    """Builds counter.c; None if this machine has no C compiler.

    It must not refer to this machine's C library, which may be newer than the runtime's.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    library = folder / "counter.so"
    options = ["-shared", "-fPIC", "-O2", "-nostdlib", "-ffreestanding", "-fno-stack-protector"]
    warnings = ["-Wall", "-Wextra", "-Werror"]
    files = ["-o", str(library), str(HERE / "counter.c"), "-lgcc"]
    subprocess.run([compiler, *options, *warnings, *files], check=True)
    return library


def count(folders: Sequence[Path], runtime: Runtime, counter: Path) -> list[Counted | None]:
    """Trains the solver.prototxt of each folder, whose relative paths start there.

    Args:
        folders: What to train.
        runtime: Trains it.
        counter: What :func:`build_counter` built.

    Returns:
        What each took; None where Caffe aborted.
    """
    answers = _work(folders, runtime, {"LD_PRELOAD": str(counter)})
    return [Counted(**answer) if answer else None for answer in answers]


def weigh(folders: Sequence[Path], runtime: Runtime) -> list[Resident | None]:
    """The same by the resident set."""
    return [Resident(**answer) if answer else None for answer in _work(folders, runtime, {})]


def _work(
    folders: Sequence[Path], runtime: Runtime, variables: dict[str, str]
) -> list[dict[str, int]]:
    threads = {"OPENBLAS_NUM_THREADS": "1"}  # each has buffers of its own
    done = subprocess.run(
        runtime.command([str(HERE / "host_memory_worker.py"), *map(str, folders)]),
        env={**runtime.environment(), **threads, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]

"""A runtime that is an unpacked Debian: files in one folder, run without changing the host.

Its Python is started through the folder's own dynamic loader and finds all its libraries there,
so the host's C library may be older or newer than the folder's.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from caffe_batch.runtimes.base import Runtime

#: The release, and the packages to install from it: pycaffe, Caffe's programs, and the fastest BLAS
#: for a CPU.
SUITE = "bullseye"
PACKAGES = ("python3-caffe", "caffe", "libopenblas0-pthread")
PYTHON = "usr/bin/python3.9"

#: How a program that the loader can start begins.
_ELF = b"\x7fELF"

#: Variables that configure the host's Python and libraries, and would break the runtime's.
_HOSTS_OWN = {
    "LD_AUDIT",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "PYTHONEXECUTABLE",
    "PYTHONHOME",
    "PYTHONPATH",
    "PYTHONPLATLIBDIR",
    "PYTHONSTARTUP",
}

#: Carries the user's PYTHONPATH to the line of code in PTH_FILE.
_EXTRA_PATH = "CAFFE_BATCH_PYTHONPATH"
PTH_FILE = "usr/lib/python3/dist-packages/caffe_batch.pth"
PTH_LINE = (
    "import os, sys; sys.path.extend(os.path.abspath(p) for p in "
    f"os.environ.get({_EXTRA_PATH!r}, '').split(os.pathsep) if p)\n"
)


@dataclass(frozen=True)
class Architecture:
    """One kind of processor, as the kernel, Debian and the C library name it.

    Attributes:
        machine: The name that ``platform.machine()`` gives.
        debian: dpkg's name.
        triplet: The name of the library folders.
        loader: The dynamic loader, relative to the root folder.
    """

    machine: str
    debian: str
    triplet: str
    loader: str


ARCHITECTURES = {
    arch.machine: arch
    for arch in (
        Architecture("x86_64", "amd64", "x86_64-linux-gnu", "lib64/ld-linux-x86-64.so.2"),
        Architecture("aarch64", "arm64", "aarch64-linux-gnu", "lib/ld-linux-aarch64.so.1"),
    )
}


@dataclass(frozen=True)
class DebianRuntime(Runtime):
    """An unpacked Debian with ``python3-caffe``.

    The host's LD_PRELOAD, LD_LIBRARY_PATH and Python variables don't reach it, nor do the packages
    in the user's site folder. Modules on the user's PYTHONPATH (Python layers) are found, but
    after the runtime's own, so that a numpy of the host's Python can't get in the way.

    Attributes:
        root: The folder that holds ``usr/``, ``lib/`` and so on.
        architecture: The kind of processor that its programs are built for.
    """

    root: Path
    architecture: Architecture

    def library_folders(self) -> list[str]:
        """Where its loader looks for libraries, the threaded OpenBLAS before any other BLAS."""
        triplet = self.architecture.triplet
        folders = [f"usr/lib/{triplet}/openblas-pthread", f"usr/lib/{triplet}", f"lib/{triplet}"]
        return [str(self.root / folder) for folder in (*folders, "usr/lib")]

    def command(self, args: Sequence[str]) -> list[str]:
        return [*self._loaded(self.root / PYTHON), *args]

    def tool(self, name: str) -> list[str] | None:
        """Those of usr/bin that are machine code: scripts there name interpreters of the host."""
        path = self.root / "usr/bin" / name
        try:
            with path.open("rb") as file:
                is_binary = file.read(len(_ELF)) == _ELF
        except OSError:
            return None
        return self._loaded(path) if is_binary else None

    def _loaded(self, program: Path) -> list[str]:
        loader = str(self.root / self.architecture.loader)
        return [loader, "--library-path", ":".join(self.library_folders()), str(program)]

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in _HOSTS_OWN}
        own = {
            # pycaffe imports matplotlib, which would read the host's /etc/matplotlibrc.
            "MATPLOTLIBRC": str(self.root / "etc/matplotlibrc"),
            "PYTHONHOME": str(self.root / "usr"),
            "PYTHONNOUSERSITE": "1",
            "PYTHONUTF8": "1",
        }
        return {**kept, **own, _EXTRA_PATH: os.environ.get("PYTHONPATH", "")}

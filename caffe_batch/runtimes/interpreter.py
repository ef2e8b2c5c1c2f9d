"""A runtime that is a Python interpreter on this machine, able to import caffe by itself."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from caffe_batch.runtimes.base import Runtime, host_environment


@dataclass(frozen=True)
class Interpreter(Runtime):
    """An executable that behaves as ``python``; its path is the runtime's name.

    It inherits the environment: a Caffe built by hand is usually found through the
    user's own PYTHONPATH and LD_LIBRARY_PATH.
    """

    def command(self, args: Sequence[str]) -> list[str]:
        return [self.name, *args]

    def tool(self, name: str) -> list[str] | None:
        """Those in the interpreter's folder, then those on the PATH."""
        folders = os.pathsep.join([str(Path(self.name).parent), os.environ.get("PATH", "")])
        found = shutil.which(name, path=folders)
        return [found] if found else None

    def environment(self) -> dict[str, str]:
        return host_environment()

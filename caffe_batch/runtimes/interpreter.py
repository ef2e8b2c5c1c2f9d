"""A runtime that is a Python interpreter on this machine, able to import caffe by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from caffe_batch.runtimes.base import Runtime, host_environment


@dataclass(frozen=True)
class Interpreter(Runtime):
    """An executable that behaves as ``python``; its path is the runtime's name.

    It inherits the environment: a Caffe built by hand is usually found through the
    user's own PYTHONPATH and LD_LIBRARY_PATH.
    """

    def command(self, args: Sequence[str]) -> list[str]:
        return [self.name, *args]

    def environment(self) -> dict[str, str]:
        return host_environment()

"""The memory of one GPU, as NVML reports it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

#: Between two readings of the memory.
SAMPLE_S = 0.005
SETTLE_S, SETTLE_TURNS = 0.5, 20


@dataclass(frozen=True)
class Device:
    """A GPU that can be queried."""

    handle: Any

    def used_bytes(self) -> int:
        """Memory held by all processes and the driver."""
        return self._memory().used  # type: ignore[no-any-return]

    def free_bytes(self) -> int:
        """Memory that is free."""
        return self._memory().free  # type: ignore[no-any-return]

    def settled_bytes(self) -> int:
        """Memory in use once it stops changing: an ended process releases its memory late."""
        before = self.used_bytes()
        for _ in range(SETTLE_TURNS):
            time.sleep(SETTLE_S)
            now = self.used_bytes()
            if now == before:
                break
            before = now
        return before

    def _memory(self) -> Any:
        import pynvml

        return pynvml.nvmlDeviceGetMemoryInfo(self.handle)


@contextmanager
def device(number: int) -> Iterator[Device]:
    """The GPU of that number."""
    import pynvml

    pynvml.nvmlInit()
    try:
        yield Device(pynvml.nvmlDeviceGetHandleByIndex(number))
    finally:
        pynvml.nvmlShutdown()


@contextmanager
def peak_of(read: Callable[[], int]) -> Iterator[Callable[[], int]]:
    """Reads a figure repeatedly within the context; yields a function for the largest so far."""
    ended = threading.Event()
    most = [read()]

    def look() -> None:
        while not ended.wait(SAMPLE_S):
            most[0] = max(most[0], read())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield lambda: most[0]
    finally:
        ended.set()
        thread.join()

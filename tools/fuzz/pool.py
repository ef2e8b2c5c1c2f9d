"""A child process that runs trials, and is replaced when one hangs or kills it."""

from __future__ import annotations

import faulthandler
import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tools.fuzz.trials import Trial, faults

#: Seconds of CPU that a trial may take, and seconds without using any.
CPU_S, IDLE_S = 10.0, 60.0

#: The address space of the child; a trial that needs more is a fault.
_MOST_BYTES = 4 << 30

_TICKS = os.sysconf("SC_CLK_TCK")


class Child:
    """Runs the trials of seeds; a context manager.

    Args:
        draw: Makes the trial of a seed.
    """

    def __init__(self, draw: Callable[[int], Trial]) -> None:
        self._draw = draw
        self._folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        self._start()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        shutil.rmtree(self._folder, ignore_errors=True)

    def try_seed(self, seed: int) -> tuple[int, list[dict[str, Any]]]:
        """Run the trial of a seed; how many calls it has, and what is wrong with them."""
        self._pipe.send(seed)
        call, used = ["drawing"], _cpu_s(self._pid)
        moved = time.monotonic()
        last = used
        while True:
            try:
                if self._pipe.poll(0.5):
                    said = json.loads(self._pipe.recv())
                    if "wrong" in said:
                        return said["calls"], said["wrong"]
                    continue
            except (EOFError, OSError):
                self._end()
                status = self._process.exitcode
                self._start()
                return 1, [{"call": call, "what": f"ends the process: {status}"}]
            now = _cpu_s(self._pid)
            if now > last:
                last, moved = now, time.monotonic()
            if now - used > CPU_S or time.monotonic() - moved > IDLE_S:
                what = f"hangs: {now - used:.0f} s of CPU\n{self._stack()}"
                self._end()
                self._start()
                return 1, [{"call": call, "what": what}]

    def _stack(self) -> str:
        """Where the child is just now."""
        os.kill(self._pid, signal.SIGUSR2)
        time.sleep(1)
        return (self._folder / "stack").read_text()[:3000]

    def _start(self) -> None:
        context = multiprocessing.get_context("fork")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, self._pipe, self._draw, self._folder)
        )
        self._process.start()
        theirs.close()
        self._pid = self._process.pid or 0

    def _end(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()


def _serve(
    pipe: Connection, parents: Connection, draw: Callable[[int], Trial], folder: Path
) -> None:
    """Run trials in this process until the parent goes."""
    parents.close()  # else it would never be seen to go
    os.setsid()
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_BYTES, _MOST_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with (folder / "stack").open("w") as stack:
        faulthandler.register(signal.SIGUSR2, stack)
        while True:
            try:
                seed = pipe.recv()
            except EOFError:
                sys.exit()
            trial = draw(seed)
            with tempfile.TemporaryDirectory(dir=folder) as work:
                wrong = [
                    {"call": list(fault.call), "what": fault.what}
                    for fault in faults(trial, Path(work))
                ]
            pipe.send(json.dumps({"calls": len(trial.calls), "wrong": wrong}))


def _cpu_s(pid: int) -> float:
    """Seconds of CPU that a process has used, its ended children included."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / _TICKS

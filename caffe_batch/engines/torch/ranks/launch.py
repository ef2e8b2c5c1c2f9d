"""Starts the ranks of this machine, watches them, and says which one failed first.

It is the worker that the supervisor sees: the ranks are its children, in its process group, so that
a signal to the group reaches them all. One that somebody sends to it alone it passes on. When it
dies, the kernel ends its ranks (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caffe_batch.engines.caffe.inside.worker_log import WorkerLog
from caffe_batch.engines.torch.ranks.statuses import HUNG_STATUS, LAUNCHER, LOST_STATUS, WELL
from caffe_batch.engines.torch.worker.requests import SIGNALS
from caffe_batch.engines.torch.worker.speech import log

#: Seconds that the other ranks have to end by themselves.
GRACE_S = 10.0

#: Seconds after which ranks that don't all come together give up.
JOIN_S = 45.0

_LOOK_S = 0.05
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Verdict:
    """How ranks have ended.

    Attributes:
        status: What the launcher exits with.
        why: Which rank was the first to fail, in a clause; empty if none did.
    """

    status: int
    why: str = ""


class Launch:
    """The ranks of this machine.

    Args:
        starts: Starts a rank, by its number on this machine.
        number: How many.
        first: The number of the first of them among all ranks.
        clock: For tests.
        pause: Waits for so many seconds; returns a signal to be passed on, or None.
    """

    def __init__(
        self,
        starts: Callable[[int], subprocess.Popen[bytes]],
        number: int,
        first: int = 0,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], int | None] = lambda seconds: time.sleep(seconds),
    ) -> None:
        self._first, self._clock, self._pause = first, clock, pause
        self._ranks = [starts(index) for index in range(number)]

    def watch(self) -> Verdict:
        """Wait until all of them have ended; ends those that don't after one has."""
        ended: dict[int, int] = {}  # in the order of their ends
        since: float | None = None
        while len(ended) < len(self._ranks):
            for index, rank in enumerate(self._ranks):
                status = rank.poll()
                if index not in ended and status is not None:
                    ended[index] = status
            if ended and since is None:
                since = self._clock()
            if since is not None and self._clock() - since > GRACE_S:
                break
            number = self._pause(_LOOK_S)
            if number is not None:
                for rank in self._ranks:
                    rank.send_signal(number)
        left = [index for index in range(len(self._ranks)) if index not in ended]
        for index in left:
            self._ranks[index].kill()
        for index in left:
            self._ranks[index].wait()
        return judge(ended, left, self._first)


def judge(ended: Mapping[int, int], left: Sequence[int], first: int = 0) -> Verdict:
    """How ranks have ended.

    Args:
        ended: Exit statuses by the number on this machine, in the order in which they ended.
        left: Those that had to be killed, after the others had ended.
        first: The number of the first of them among all ranks.
    """
    failed = [(i, status) for i, status in ended.items() if status not in (*WELL, LOST_STATUS)]
    if failed:
        index, status = failed[0]
        return Verdict(
            status if status >= 0 else 128 - status,
            f"rank {first + index} ended first, {ending(status)}",
        )
    if left and LOST_STATUS in ended.values():
        ranks = " and ".join(str(first + index) for index in left)
        return Verdict(HUNG_STATUS, f"rank {ranks} didn't answer")
    lost = [index for index, status in ended.items() if status == LOST_STATUS]
    if lost:
        return Verdict(LOST_STATUS, "the ranks here lost another one")
    return Verdict(next(iter(ended.values()), 0))


def ending(status: int) -> str:
    """How a process has ended, in a clause."""
    if status >= 0:
        return f"with status {status}"
    return f"killed by {signal.Signals(-status).name}"


def launch(settings: Mapping[str, Any]) -> int:
    """Run a training on several ranks; returns the launcher's exit status.

    Args:
        settings: The worker's; ``ranks`` of them are started.
    """
    number: int = settings["ranks"]
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # inherited: a rank handles what has come
    with tempfile.TemporaryDirectory(prefix="caffe-batch-") as folder:
        meeting = str(Path(folder) / "ranks")

        def start(index: int) -> subprocess.Popen[bytes]:
            place = {
                "rank": index, "local_rank": index, "ranks": number, "launcher": os.getpid(),
                "file": meeting, "join_s": JOIN_S, "patience_s": settings["patience_s"],
            }  # fmt: skip
            return subprocess.Popen(
                [sys.executable, sys.argv[0], json.dumps({**settings, "rank": place})],
                env={"GLOO_SOCKET_IFNAME": "lo", **os.environ},
                close_fds=False,
            )

        found = Launch(start, number, pause=signal_to_pass_on).watch()
    if found.why:
        WorkerLog(settings["log"], settings["log_bytes"]).rejoin()
        log(found.why, f"{LAUNCHER}:1", "W")
    return found.status


def signal_to_pass_on(seconds: float) -> int | None:
    """A signal of SIGNALS, which are blocked, that comes within so many seconds to this process.

    The supervisor, its parent, sends each to the whole group: that one isn't passed on.
    """
    found = signal.sigtimedwait(SIGNALS, seconds)
    return None if found is None or found.si_pid == os.getppid() else found.si_signo


def end_with(launcher: int) -> None:
    """Let this process, a rank, end when its launcher does."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != launcher:
        sys.exit(LOST_STATUS)

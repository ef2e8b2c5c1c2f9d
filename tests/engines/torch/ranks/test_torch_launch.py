"""The launcher: which rank failed first, and that none is left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from caffe_batch.engines.events import Updated
from caffe_batch.engines.torch.ending import classify
from caffe_batch.engines.torch.ranks import launch
from caffe_batch.engines.torch.ranks.launch import Launch, Verdict, judge
from caffe_batch.engines.torch.ranks.statuses import HUNG_STATUS, LOST_STATUS
from caffe_batch.jobs.ending import EndReason
from tests.holding import PATIENCE_S, wait_for

KILLED, LOST, HUNG = -signal.SIGKILL, LOST_STATUS, HUNG_STATUS


@pytest.mark.parametrize(
    ("ended", "left", "status", "why"),
    [
        ({0: 0, 1: 0}, [], 0, ""),
        ({1: 40, 0: 40}, [], 40, ""),
        ({1: KILLED, 0: LOST}, [], 137, "rank 1 ended first, killed by SIGKILL"),
        ({0: LOST, 1: KILLED}, [], 137, "rank 1 ended first, killed by SIGKILL"),
        ({2: 1, 0: LOST, 1: 1}, [], 1, "rank 2 ended first, with status 1"),
        ({0: LOST, 2: LOST}, [1], HUNG, "rank 1 didn't answer"),
        ({1: LOST}, [0, 2], HUNG, "rank 0 and 2 didn't answer"),
        ({1: KILLED}, [0], 137, "rank 1 ended first, killed by SIGKILL"),
        ({0: LOST, 1: LOST}, [], LOST, "the ranks here lost another one"),
        ({0: 0}, [1], 0, ""),
        ({0: 41, 1: 41}, [], 41, "rank 0 ended first, with status 41"),
    ],
)  # fmt: skip
def test_which_rank_was_first(
    ended: Mapping[int, int], left: Sequence[int], status: int, why: str
) -> None:
    assert judge(ended, left) == Verdict(status, why)


def test_ranks_are_counted_over_all_machines() -> None:
    assert judge({1: KILLED, 0: LOST}, [], first=4).why.startswith("rank 5 ended first")


def test_none_is_left_running(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "GRACE_S", 0.2)
    started: list[subprocess.Popen[bytes]] = []

    def start(index: int) -> subprocess.Popen[bytes]:
        code = ("import time; time.sleep(600)", "raise SystemExit(7)")[index]
        started.append(subprocess.Popen([sys.executable, "-c", code]))
        return started[-1]

    assert Launch(start, 2).watch() == Verdict(7, "rank 1 ended first, with status 7")
    assert [process.returncode for process in started] == [KILLED, 7]


def test_a_rank_ends_with_its_launcher(tmp_path: Path) -> None:
    rank = (
        "import os, sys, time; from caffe_batch.engines.torch.ranks.launch import end_with; "
        "end_with(os.getppid()); open(sys.argv[1], 'w').write(f'{os.getpid()}.'); time.sleep(600)"
    )
    launch_it = f"import subprocess as s, sys; s.run([sys.executable, '-c', {rank!r}, sys.argv[1]])"
    file = tmp_path / "pid"
    launcher = subprocess.Popen([sys.executable, "-c", launch_it, str(file)])
    wait_for(lambda: file.exists() and file.read_text().endswith("."))
    pid = int(file.read_text().rstrip("."))
    launcher.kill()
    launcher.wait()

    def is_gone() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
        except FileNotFoundError:
            return True

    wait_for(is_gone)


LOG = """\
I1128 06:54:10.726498 31340 solver.py:1] Solving tiny
W1128 06:54:11.000000 31340 ranks.py:1] a rank doesn't answer: Connection closed by peer
{}W1128 06:54:12.000000 31339 launch.py:1] {}
"""

MEMORY = """\
Traceback (most recent call last):
  File "train.py", line 1, in main
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 1 has a total \
capacity of 7.00 GiB.
"""


RANK = """
import signal, sys, time
from pathlib import Path
from caffe_batch.engines.torch.worker.requests import SIGNALS
found = []
for each in SIGNALS:
    signal.signal(each, lambda number, _: found.append(number))
signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
Path(sys.argv[1]).touch()
while signal.SIGTERM not in found:
    time.sleep(0.01)
time.sleep(0.3)  # one that comes a second time
Path(sys.argv[1]).write_text(" ".join(map(str, map(int, found))))
"""

LAUNCHER = """
import signal, subprocess, sys
from caffe_batch.engines.torch.ranks.launch import Launch, signal_to_pass_on
from caffe_batch.engines.torch.worker.requests import SIGNALS
signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
start = lambda index: subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[2 + index]])
sys.exit(Launch(start, 2, pause=signal_to_pass_on).watch().status)
"""


def test_each_rank_gets_each_signal_once(tmp_path: Path) -> None:
    """From the supervisor, which signals the group; from another process, to the launcher alone."""
    files = [tmp_path / "0", tmp_path / "1"]
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, RANK, *map(str, files)], start_new_session=True
    )
    wait_for(lambda: all(file.exists() for file in files))
    os.killpg(launcher.pid, signal.SIGHUP)
    for number in (signal.SIGUSR1, signal.SIGTERM):
        code = f"import os; os.kill({launcher.pid}, {int(number)})"
        assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert launcher.wait(PATIENCE_S) == 0
    got = [int(signal.SIGHUP), int(signal.SIGUSR1), int(signal.SIGTERM)]
    assert [sorted(map(int, file.read_text().split())) for file in files] == [sorted(got)] * 2


@pytest.mark.parametrize(
    ("status", "said", "why", "reason", "detail"),
    [
        (137, "", "rank 1 ended first, killed by SIGKILL", EndReason.KILLED,
         "rank 1: killed by SIGKILL"),
        (1, MEMORY, "rank 1 ended first, with status 1", EndReason.GPU_MEMORY,
         "rank 1: CUDA out of memory. Tried to allocate 2.00 GiB"),
        (HUNG, "", "rank 1 didn't answer", EndReason.STALLED, "rank 1 didn't answer"),
        (LOST, "", "the ranks here lost another one", EndReason.RANK_LOST,
         "the ranks here lost another one: a rank doesn't answer: Connection closed by peer"),
        (1, "F1128 06:54:11.500000 31340 worker.py:1] rank 1 can't begin: x: no such file\n",
         "rank 0 ended first, with status 1", EndReason.CHECK_FAILED,
         "rank 1 can't begin: x: no such file"),
    ],
)  # fmt: skip
def test_the_first_cause_is_told(
    status: int, said: str, why: str, reason: EndReason, detail: str
) -> None:
    found = classify(status, Updated(3, 1.0, ()), LOG.format(said, why).splitlines())
    assert (found.reason, found.detail) == (reason, detail)

"""The workers of these tests, where they are PyTorch's; the others run in Caffe's Python."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import OutOfMemoryError

from caffe_batch.engines.torch.worker.main import use_this_package

use_this_package()

from caffe_batch.engines.torch.ranks import launch  # noqa: E402
from caffe_batch.engines.torch.worker import (  # noqa: E402
    micro_gradients,
    nets,
    requests,
    solving,
    tasks,
    train,
)


def held(settings: Mapping[str, Any]) -> int:
    """As held_worker.py."""
    training_class: Any = solving.Training
    update = training_class._update
    updates, name = os.environ["HELD"].split(",", 1)

    def wait_and_update(training: solving.Training) -> None:
        file = Path(name)
        if training.done == int(updates) and file.exists():
            Path(name + ".reached").touch()
            while file.exists():
                time.sleep(0.005)
        update(training)

    training_class._update = wait_and_update
    return tasks.run(settings)


def signalled(settings: Mapping[str, Any]) -> int:
    """As signalled_worker.py."""
    net_class: Any = nets.FedNet
    forward = net_class.forward
    passes, name = os.environ.get("SIGNALLED", "0,").split(",")
    left = int(passes)

    def forward_and_signal(net: nets.FedNet, *keep: Any) -> Any:
        nonlocal left
        done = forward(net, *keep)
        left -= net.net.gradients
        if left == 0 and net.net.gradients:
            os.kill(os.getpid(), getattr(signal, name))
        return done

    net_class.forward = forward_and_signal
    return tasks.run(settings)


def eager(settings: Mapping[str, Any]) -> int:
    """As eager_worker.py."""
    micro_gradients.SHARE = float("inf")
    return tasks.run(settings)


#: As torch says it; a traceback shows the line that raises, which must not say it as well.
_NO_MEMORY = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 1 has a total capacity of 7 GiB."


def harmed(settings: Mapping[str, Any]) -> int:
    """A worker one of whose ranks comes to harm in a pass, once.

    HARMED is "RANK,PASS,WHAT,FILE": in that pass, counted from 1, the rank gets the signal WHAT,
    or torch finds no memory if that is ``memory``. FILE then exists, and nothing happens again.
    With "SIGNAL to the group", or "to the launcher", the rank sends it there, and waits for it.
    """
    net_class: Any = nets.FedNet
    forward = net_class.forward
    requests_class: Any = requests.Requests
    listen = requests_class.listen
    rank, left, what, name = os.environ["HARMED"].split(",")
    passes = int(left)
    own: list[requests.Requests] = []

    def listen_here(found: requests.Requests) -> None:
        own.append(found)
        listen(found)

    def signal_all(number: int, *, group: bool) -> None:
        os.killpg(0, number) if group else os.kill(os.getppid(), number)
        while not own[0].pending:
            time.sleep(0.005)

    def forward_with_harm(net: nets.FedNet, *keep: Any) -> Any:
        nonlocal passes
        passes -= net.net.gradients
        if passes == 0 and net.net.gradients and not Path(name).exists():
            Path(name).touch()
            if what == "memory":
                raise OutOfMemoryError(_NO_MEMORY)
            name_of, _, whom = what.partition(" to the ")
            number = getattr(signal, name_of)
            signal_all(number, group=whom == "group") if whom else os.kill(os.getpid(), number)
        return forward(net, *keep)

    if "rank" not in settings and what != "SIGKILL":
        return forked(settings, harmed)
    if settings.get("rank", {}).get("rank") == int(rank):
        requests_class.listen = listen_here
        net_class.forward = forward_with_harm
    return tasks.run(settings)


#: The calls of functions, of C's too, within which a rank is killed: those of about six updates.
_MOST_CALLS = 5000


def killed(settings: Mapping[str, Any]) -> int:
    """A worker one of whose ranks gets SIGKILL at a random moment, be it in a snapshot or a test.

    KILLS is "NUMBER,SEED,FOLDER": once FOLDER has NUMBER files, nothing happens any more. A moment
    is a call of a function, of C's too. Its ranks are forked, as loading torch takes seconds.
    """
    number, seed, folder = os.environ["KILLS"].split(",", 2)
    earlier = len(list(Path(folder).iterdir()))
    draw = random.Random(int(seed) + earlier)
    chosen, left = draw.randrange(settings["ranks"]), draw.randrange(_MOST_CALLS)
    solve: Any = solving.Training.solve

    def solve_until_killed(training: solving.Training) -> Any:
        def count(frame: object, event: str, _: object) -> None:
            nonlocal left
            left -= event in ("call", "c_call")
            if left < 0:
                (Path(folder) / str(earlier)).touch()
                os.kill(os.getpid(), signal.SIGKILL)

        if training._ranks.rank == chosen and earlier < int(number):
            sys.setprofile(count)
        return solve(training)

    training_class: Any = solving.Training
    training_class.solve = solve_until_killed
    return forked(settings, tasks.run)


def forked(settings: Mapping[str, Any], rank: Callable[[Mapping[str, Any]], int]) -> int:
    """A worker whose ranks are forks of their launcher, which has torch loaded.

    Args:
        settings: The worker's.
        rank: What each of them does with its settings.
    """
    launch_module: Any = launch
    launch_module.subprocess = _Forks
    _Forks.rank = rank
    return tasks.run(settings)


class _Forks:
    """What the launcher uses of ``subprocess``."""

    rank: Any = None

    class Popen:
        returncode: int | None = None

        def __init__(self, command: Sequence[str], *, env: Mapping[str, str], **_: Any) -> None:
            self.pid = os.fork()
            if self.pid == 0:
                os.environ.update(env)
                status = train.FAILED_STATUS
                try:
                    status = _Forks.rank(json.loads(command[-1]))
                finally:
                    sys.stderr.flush()
                    os._exit(status)

        def poll(self, options: int = os.WNOHANG) -> int | None:
            if self.returncode is None:
                pid, status = os.waitpid(self.pid, options)
                self.returncode = os.waitstatus_to_exitcode(status) if pid else None
            return self.returncode

        def wait(self) -> int | None:
            return self.poll(0)

        def send_signal(self, number: int) -> None:
            if self.poll() is None:
                os.kill(self.pid, number)

        def kill(self) -> None:
            self.send_signal(signal.SIGKILL)

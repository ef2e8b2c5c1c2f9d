"""The workers of these tests, where they are PyTorch's; the others run in Caffe's Python."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import OutOfMemoryError

from caffe_batch.engines.torch.worker.main import use_this_package

use_this_package()

from caffe_batch.engines.torch.worker import micro_gradients, nets, solving, tasks  # noqa: E402


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
    """
    net_class: Any = nets.FedNet
    forward = net_class.forward
    rank, left, what, name = os.environ["HARMED"].split(",")
    passes = int(left)

    def forward_with_harm(net: nets.FedNet, *keep: Any) -> Any:
        nonlocal passes
        passes -= net.net.gradients
        if passes == 0 and net.net.gradients and not Path(name).exists():
            Path(name).touch()
            if what == "memory":
                raise OutOfMemoryError(_NO_MEMORY)
            os.kill(os.getpid(), getattr(signal, what))
        return forward(net, *keep)

    if settings.get("rank", {}).get("rank") == int(rank):
        net_class.forward = forward_with_harm
    return tasks.run(settings)

"""Runs the worker's training in the process of the tests, where torch is loaded already."""

from __future__ import annotations

import multiprocessing
import os
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from caffe_batch.engines.torch.worker import train
from caffe_batch.engines.torch.worker.requests import Requests
from caffe_batch.engines.torch.worker.speech import Events, fatal
from caffe_batch.errors import CaffeBatchError


def settings_of(solver: Path) -> dict[str, Any]:
    """The worker's settings for a solver beside its net, without ``task`` and ``events``."""
    return {
        "solver": str(solver), "job": str(solver.parent), "snapshots": str(solver.parent),
        "resume": None, "weights": [], "log": str(solver.parent / "log"), "log_bytes": 1 << 30,
        "record_every": 1, "frozen": None, "max_loss": None, "rules": [], "samples": None,
        "snapshot_at_tests": False, "shared": [],
        "device": "cpu", "gpu": None, "precision": "float32",
    }  # fmt: skip


def train_here(solver: Path, *, events: Path = Path(os.devnull), **changes: Any) -> int:
    """Train a solver beside its net; returns the worker's exit status.

    Args:
        solver: The solver; snapshots go where its snapshot_prefix says.
        events: Where the events are written.
        changes: Of the worker's settings.
    """
    torch.set_num_threads(1)  # threads that wait at barriers are slow on a busy machine
    descriptor = os.open(events, os.O_WRONLY | os.O_CREAT)
    try:
        settings = {**settings_of(solver), **changes}
        return train.main(settings, Events(descriptor), Requests())
    finally:
        os.close(descriptor)


#: Processes that have torch loaded when they begin.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["caffe_batch.engines.torch.worker.train"])


def train_on(ranks: int, solver: Path, *, events: Path, **changes: Any) -> list[int | None]:
    """As :func:`train_here`, on several ranks; returns their exit statuses.

    Args:
        ranks: How many.
        solver: The solver.
        events: Where the first one's events are written.
        changes: Of the workers' settings.
    """
    meeting = events.with_suffix(".ranks")
    meeting.unlink(missing_ok=True)
    begun = [start_rank(rank, ranks, meeting, solver, events, **changes) for rank in range(ranks)]
    for process in begun:
        process.join()
    return [process.exitcode for process in begun]


def start_rank(
    rank: int, ranks: int, meeting: Path, solver: Path, events: Path, **changes: Any
) -> BaseProcess:
    """Start one of several ranks, which come together at the file ``meeting``.

    Of the changes, ``place`` has those of the rank's own settings; ``directory`` is where it runs,
    and ``said`` the file for what it writes into the log.
    """
    place = {
        "rank": rank, "local_rank": rank, "ranks": ranks, "file": str(meeting), "join_s": 300.0,
        "patience_s": 300.0, **changes.pop("place", {}),
    }  # fmt: skip
    written = Path(os.devnull) if rank else events
    changes = {"rank": place, **changes}
    process = FORKS.Process(target=_rank, args=(solver, written, changes))
    process.start()
    return process


def _rank(solver: Path, events: Path, changes: dict[str, Any]) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    os.chdir(changes.pop("directory", "."))
    said = changes.pop("said", None)
    if said is not None:
        sys.stderr = said.open("w", buffering=1)
    try:
        status = train_here(solver, events=events, **changes)
    except CaffeBatchError as error:  # as tasks.py does
        fatal(error.message)
        status = train.FAILED_STATUS
    os._exit(status)

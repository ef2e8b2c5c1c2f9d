"""Runs the worker's training in the process of the tests, where torch is loaded already."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from caffe_batch.engines.torch.worker import train
from caffe_batch.engines.torch.worker.requests import Requests
from caffe_batch.engines.torch.worker.speech import Events


def settings_of(solver: Path) -> dict[str, Any]:
    """The worker's settings for a solver beside its net, without ``task`` and ``events``."""
    return {
        "solver": str(solver), "job": str(solver.parent), "snapshots": str(solver.parent),
        "resume": None, "weights": [], "log": str(solver.parent / "log"), "log_bytes": 1 << 30,
        "record_every": 1, "frozen": None, "max_loss": None, "rules": [], "samples": None,
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

"""What a worker says when torch is loaded and its device is chosen."""

from __future__ import annotations

import platform
from collections.abc import Sequence

import torch

from caffe_batch.engines.torch.worker.speech import Events


def started(events: Events, device: str, choices: Sequence[str]) -> None:
    """Report it."""
    events.send(
        "started",
        engine_version=torch.__version__,
        python_version=platform.python_version(),
        device=device,
        choices=list(choices),
    )

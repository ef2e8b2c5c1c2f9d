"""The checkout's caffe-batch, as a command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def caffe_batch(folder: Path, *arguments: str, runtime: str | None = None) -> str:
    """Runs the program in a folder and returns what it prints.

    Args:
        folder: Its working directory.
        arguments: Command, options and arguments.
        runtime: Name of the runtime, for commands that train.

    Raises:
        RuntimeError: The program failed; the message ends with its last lines.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    if runtime:
        environment["CAFFE_BATCH_RUNTIME"] = runtime
    done = subprocess.run(
        [sys.executable, "-m", "caffe_batch", *arguments],
        cwd=folder, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"caffe-batch {arguments[0]}: {(done.stderr or done.stdout)[-2000:]}")
    return done.stdout

"""GPU memory that the CUDA context and library handles take: measured once, then remembered.

``caffe-batch doctor`` trains a tiny net in a child process, asks NVML for the memory of that
process and subtracts what Caffe itself asked for. The rest is the fixed cost of a process that
uses the GPU: the CUDA context with Caffe's kernels in it, and the handles of cuBLAS and cuRAND. It
depends on the GPU and on the driver, so it is remembered for each pair of them.

It does not include the handles that each data layer's thread makes, cuDNN's handles (three for each
group of a convolution) and NCCL's buffers.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Timer

from caffe_batch.errors import InputError
from caffe_batch.files import write_json
from caffe_batch.memory.predict import predict
from caffe_batch.planning.budget import DEFAULT_RESERVE_BYTES
from caffe_batch.runtimes import machine
from caffe_batch.runtimes.base import Runtime
from caffe_batch.runtimes.store import data_directory

#: Follows the key of a GPU where the figure was learned from runs that ran out of memory.
_LEARNED = ", learned"

#: A GPU with at least this share of its earlier free memory counts as free as before.
_SAME = 0.95

#: Creating a context can take a minute where the driver compiles Caffe's kernels for the GPU.
TIMEOUT_S = 300

#: Its layers take the same memory in every build of Caffe, and use all of its handles.
NET = """\
layer { name: "data" type: "DummyData" top: "data" top: "target"
  dummy_data_param { shape { dim: 2 dim: 3 } shape { dim: 2 dim: 5 } } }
layer { name: "drop" type: "Dropout" bottom: "data" top: "drop" }
layer { name: "ip" type: "InnerProduct" bottom: "drop" top: "ip"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "ip" bottom: "target" top: "loss" }
"""
SOLVER = 'net: "net.prototxt"\nbase_lr: 0.01\nlr_policy: "fixed"\nmax_iter: 2\n'

#: Trains, says so, and keeps the GPU until its stdin is closed.
CHILD = """\
import os
import sys
import caffe
caffe.set_mode_gpu()
caffe.set_device(int(sys.argv[1]))
caffe.SGDSolver("solver.prototxt").step(2)
print("trained", os.getpid(), flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class Reserve:
    """The memory of a GPU that is not available to Caffe's own requests.

    Attributes:
        bytes: How much.
        measured: Whether it was measured on this GPU with this driver; otherwise it is assumed.
        problem: Why an attempt to measure it failed.
    """

    bytes: int
    measured: bool
    problem: str | None = None


class UnmeasuredError(InputError):
    """The fixed cost of a GPU can't be measured here."""


def default_reserve(number: int = 0) -> Reserve:
    """The reserve of a GPU where the user gives none: the remembered one, else an assumption.

    If a run has shown that this isn't enough (:func:`learn_reserve`), the reserve learned from it.

    Args:
        number: CUDA's number of the GPU.
    """
    file = _file()
    if not file.exists():
        return Reserve(DEFAULT_RESERVE_BYTES, measured=False)
    gpus = machine.cuda_gpus()
    measured, learned = recall(file, gpus, number), recall(file, gpus, number, _LEARNED)
    least = DEFAULT_RESERVE_BYTES if measured is None else measured
    if learned is not None and learned > least:
        return Reserve(learned, measured=True)
    return Reserve(least, measured=measured is not None)


def learn_reserve(number: int, free_bytes: int, needed_bytes: int) -> None:
    """Learns from a run that asked for less than was free on a GPU and still ran out of memory.

    The reserve is then larger than the difference. If less is free now than before the run,
    another program has taken memory, and nothing is learned.

    Args:
        number: CUDA's number of the GPU.
        free_bytes: What was free there before the run.
        needed_bytes: What Caffe asked for, as predicted.
    """
    gpus = machine.cuda_gpus()
    free_now = gpus.devices[number].free_bytes if number < len(gpus.devices) else None
    if free_now is not None and free_now >= _SAME * free_bytes and free_bytes >= needed_bytes:
        known = recall(_file(), gpus, number, _LEARNED) or 0
        remember(_file(), gpus, number, max(known, free_bytes - needed_bytes + 1), _LEARNED)


def measure_reserve(runtime: Runtime, gpus: machine.Gpus, number: int = 0) -> Reserve:
    """Measures the reserve of a GPU and remembers it; falls back to :func:`default_reserve`."""
    try:
        found = fixed_bytes(*_measure(runtime, number))
    except UnmeasuredError as error:
        known = default_reserve(number)
        return Reserve(known.bytes, known.measured, error.message)
    remember(_file(), gpus, number, found)
    return Reserve(found, measured=True)


def fixed_bytes(process_bytes: int, requested_bytes: int) -> int:
    """The fixed cost of a process: the GPU memory it holds, less what Caffe asked for.

    >>> fixed_bytes(process_bytes=300_000_000, requested_bytes=2_000)
    299998000

    Raises:
        UnmeasuredError: It holds no more than Caffe asked for, so NVML's figure can't be right.
    """
    if process_bytes <= requested_bytes:
        raise UnmeasuredError(
            f"NVML says that a process has {process_bytes} bytes of the GPU, but Caffe alone asked "
            f"for {requested_bytes}"
        )
    return process_bytes - requested_bytes


def recall(file: Path, gpus: machine.Gpus, number: int, what: str = "") -> int | None:
    """The remembered fixed cost of a GPU in bytes, or None.

    Args:
        file: Where it is remembered.
        gpus: The GPUs of this machine.
        number: Which of them.
        what: Which figure, if not the measured one.
    """
    key = _key(gpus, number)
    return _read(file).get(key + what) if key else None


def remember(file: Path, gpus: machine.Gpus, number: int, cost_bytes: int, what: str = "") -> None:
    """Remembers the fixed cost of a GPU with its driver, replacing an older figure."""
    key = _key(gpus, number)
    if key is None:
        return
    known = {**_read(file), key + what: cost_bytes}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, dict(sorted(known.items())))


def _file() -> Path:
    return data_directory() / "reserve.json"


def _key(gpus: machine.Gpus, number: int) -> str | None:
    """What the cost depends on, as text; None if the machine has no such GPU."""
    if number >= len(gpus.devices):
        return None
    return f"{gpus.devices[number].name}, driver {gpus.driver}"


def _read(file: Path) -> dict[str, int]:
    """What is remembered; a damaged file counts as empty and will be overwritten."""
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    entries = known.items() if isinstance(known, dict) else ()
    return {key: size for key, size in entries if isinstance(size, int) and size > 0}


def _measure(runtime: Runtime, number: int) -> tuple[int, int]:
    """GPU memory in bytes that a process training the tiny net holds, and that Caffe asked for."""
    with TemporaryDirectory(prefix="caffe-batch-") as folder:
        net, solver = Path(folder, "net.prototxt"), Path(folder, "solver.prototxt")
        net.write_text(NET, encoding="utf-8")
        solver.write_text(SOLVER, encoding="utf-8")
        requested = predict(net, solver).allocated_bytes
        environment = {**runtime.environment(), **machine.cuda_environment()}
        child = subprocess.Popen(
            runtime.command(["-c", CHILD, str(number)]),
            env=environment,
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        timer = Timer(TIMEOUT_S, child.kill)
        timer.start()
        try:
            with child:  # leaving closes its stdin, and so it exits
                answer = child.stdout.readline().split() if child.stdout else []
                if answer[:1] != ["trained"]:
                    raise UnmeasuredError("the runtime could not train a tiny net on the GPU")
                used = machine.process_gpu_bytes(number, int(answer[1]))
        finally:
            timer.cancel()
    if used is None:
        raise UnmeasuredError("NVML doesn't report how much GPU memory a process holds")
    return used, requested

"""What a GPU gives to the CUDA context and the library handles: measured once, then remembered.

``caffe-batch doctor`` trains a tiny net in a child process, asks NVML for the memory of that
process and takes off what Caffe itself asked for. The rest is the fixed cost of a process that
uses the GPU: CUDA's context with Caffe's kernels in it, and the handles of cuBLAS and cuRAND. It
depends on the GPU and on the driver, so it is remembered for each pair.

Not in it: the handles that each data layer's thread makes, cuDNN's handles (three for each group of
a convolution), NCCL's buffers.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Timer

from caffe_batch.errors import InputError
from caffe_batch.memory import predict
from caffe_batch.planning.budget import DEFAULT_RESERVE_BYTES
from caffe_batch.runtimes import machine
from caffe_batch.runtimes.base import Runtime
from caffe_batch.runtimes.store import data_directory

#: The figure that runs out of memory have taught, behind the key of the GPU.
_LEARNED = ", learned"

#: A GPU that has this share of its free memory again is free as before.
_SAME = 0.95

#: Creating a context can take a minute where the driver compiles Caffe's kernels for the GPU.
TIMEOUT_S = 300

#: No layer whose memory depends on the build of Caffe, all of its handles in use.
NET = """\
layer { name: "data" type: "DummyData" top: "data" top: "target"
  dummy_data_param { shape { dim: 2 dim: 3 } shape { dim: 2 dim: 5 } } }
layer { name: "drop" type: "Dropout" bottom: "data" top: "drop" }
layer { name: "ip" type: "InnerProduct" bottom: "drop" top: "ip"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "ip" bottom: "target" top: "loss" }
"""
SOLVER = 'net: "net.prototxt"\nbase_lr: 0.01\nlr_policy: "fixed"\nmax_iter: 2\n'

#: Trains, says so, and holds the GPU until its stdin ends.
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
    """The memory of a GPU that Caffe's own requests can't have.

    Attributes:
        bytes: How much.
        measured: Whether that was measured on this GPU with this driver; else it is assumed.
        problem: Why it wasn't measured, where that was tried.
    """

    bytes: int
    measured: bool
    problem: str | None = None


class UnmeasuredError(InputError):
    """The fixed cost of a GPU can't be measured here."""


def default_reserve(number: int = 0) -> Reserve:
    """The reserve of a GPU where the user gives none: remembered, else assumed.

    Where a run has shown that this isn't enough (:func:`learn_reserve`), it is what that run says.
    """
    file = _file()
    if not file.exists():
        return Reserve(DEFAULT_RESERVE_BYTES, measured=False)
    gpus = machine.gpus()
    measured, learned = recall(file, gpus, number), recall(file, gpus, number, _LEARNED)
    least = DEFAULT_RESERVE_BYTES if measured is None else measured
    if learned is not None and learned > least:
        return Reserve(learned, measured=True)
    return Reserve(least, measured=measured is not None)


def learn_reserve(number: int, free_bytes: int, needed_bytes: int) -> None:
    """Learn from a run that asked for less than was free on a GPU, and ran out of memory.

    The reserve is then more than the difference. Where less is free now than before the run,
    another program has taken memory, and nothing is learned.

    Args:
        number: Which GPU.
        free_bytes: What was free there before the run.
        needed_bytes: What Caffe asked for, as predicted.
    """
    gpus = machine.gpus()
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
    """The fixed cost of a process: what it has of the GPU less what Caffe asked for.

    >>> fixed_bytes(process_bytes=300_000_000, requested_bytes=2_000)
    299998000

    Raises:
        UnmeasuredError: It has no more than Caffe asked for, so NVML's figure isn't its memory.
    """
    if process_bytes <= requested_bytes:
        raise UnmeasuredError(
            f"NVML says that a process has {process_bytes} bytes of the GPU, and Caffe alone asked "
            f"for {requested_bytes} there"
        )
    return process_bytes - requested_bytes


def recall(file: Path, gpus: machine.Gpus, number: int, what: str = "") -> int | None:
    """The remembered fixed cost of a GPU in bytes, or None.

    Args:
        file: Where it is remembered.
        gpus: The GPUs of this machine.
        number: Which of them.
        what: Which figure, where it isn't the measured one.
    """
    key = _key(gpus, number)
    return _read(file).get(key + what) if key else None


def remember(file: Path, gpus: machine.Gpus, number: int, cost_bytes: int, what: str = "") -> None:
    """Remembers the fixed cost of a GPU with its driver, in place of an older one."""
    key = _key(gpus, number)
    if key is None:
        return
    known = {**_read(file), key + what: cost_bytes}
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    temporary.replace(file)


def _file() -> Path:
    return data_directory() / "reserve.json"


def _key(gpus: machine.Gpus, number: int) -> str | None:
    """What the cost depends on; None if the machine has no such GPU."""
    if number >= len(gpus.devices):
        return None
    return f"{gpus.devices[number].name}, driver {gpus.driver}"


def _read(file: Path) -> dict[str, int]:
    """What is remembered; a file that was damaged counts as none and is written anew."""
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    entries = known.items() if isinstance(known, dict) else ()
    return {key: size for key, size in entries if isinstance(size, int) and size > 0}


def _measure(runtime: Runtime, number: int) -> tuple[int, int]:
    """Bytes that a process training the tiny net has of the GPU, and that Caffe asked for."""
    with TemporaryDirectory(prefix="caffe-batch-") as folder:
        net, solver = Path(folder, "net.prototxt"), Path(folder, "solver.prototxt")
        net.write_text(NET, encoding="utf-8")
        solver.write_text(SOLVER, encoding="utf-8")
        requested = predict(net, solver).allocated_bytes
        # Numbered as NVML numbers them.
        environment = {**runtime.environment(), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        environment.pop("CUDA_VISIBLE_DEVICES", None)
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
            with child:  # at the end its stdin is closed, and so it exits
                said = child.stdout.readline().split() if child.stdout else []
                if said[:1] != ["trained"]:
                    raise UnmeasuredError("the runtime could not train a tiny net on the GPU")
                used = machine.process_gpu_bytes(number, int(said[1]))
        finally:
            timer.cancel()
    if used is None:
        raise UnmeasuredError("NVML doesn't tell how much of the GPU a process has")
    return used, requested

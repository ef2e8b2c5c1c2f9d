"""What this machine has: GPUs, disk space, optional Python packages.

A GPU has two numbers. NVML and nvidia-smi count all GPUs, in the order of their PCI buses. CUDA,
and with it Caffe, ``--gpu`` and a solver's device_id, counts those that CUDA_VISIBLE_DEVICES shows
to a process, in the order in which that variable lists them (:func:`cuda_gpus`).

If the variable is unset or lists numbers, CUDA_DEVICE_ORDER decides what these count: PCI_BUS_ID
is NVML's order, the default FASTEST_FIRST an order that only CUDA knows. Workers are therefore
started with PCI_BUS_ID unless the user has set the variable (:func:`cuda_environment`). Under
FASTEST_FIRST, GPUs of the same model are assumed to be in NVML's order; if the models differ, the
numbers are treated as unknown.

Source: the CUDA C++ Programming Guide, "CUDA Environment Variables".
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from caffe_batch.errors import InputError, Option


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    Attributes:
        name: Its model.
        total_bytes, free_bytes: Its memory; None where the driver doesn't report it (a GPU divided
            by MIG, or one of its instances).
        number: Its number in NVML; None for a MIG instance.
        uuid: ``GPU-`` and 32 hexadecimal digits, as nvidia-smi prints them.
    """

    name: str
    total_bytes: int | None
    free_bytes: int | None
    number: int | None = None
    uuid: str | None = None


@dataclass(frozen=True)
class Gpus:
    """The GPUs of this machine, and where the information comes from.

    Attributes:
        source: ``NVML``, ``nvidia-smi``, or None if neither is available.
        driver: Version of the NVIDIA driver.
        devices: In NVML's order, or in CUDA's.
        problem: Why nothing is known about GPUs.
    """

    source: str | None = None
    driver: str | None = None
    devices: tuple[Gpu, ...] = ()
    problem: str | None = None


@dataclass(frozen=True)
class Extra:
    """An optional Python package.

    Attributes:
        package: Its name for pip.
        needed_for: What doesn't work without it.
        extra: The extra of caffe-batch that installs it.
        version: None if it isn't installed or can't be imported.
        problem: Why it can't be imported.
    """

    package: str
    needed_for: str
    extra: str
    version: str | None = None
    problem: str | None = None


_EXTRAS = (
    ("h5py", "h5py", "hdf5", "reading the input sizes of HDF5Data layers"),
    ("pillow", "PIL.Image", "images", "reading the input sizes of ImageData layers"),
    ("plyvel", "plyvel", "leveldb", "reading the input sizes of LevelDB databases"),
    ("matplotlib", "matplotlib", "plot", "pictures of the loss"),
    ("nvidia-ml-py", "pynvml", "gpu", "--gpu-memory auto and --gpu-memory 80%"),
    ("tensorboard", "tensorboard", "tensorboard", "train --tensorboard"),
)

_MIB = 1024**2

_ORDER = "CUDA_DEVICE_ORDER"


def gpus() -> Gpus:
    """All GPUs, in NVML's order: asks NVML or, without nvidia-ml-py, the program nvidia-smi."""
    try:
        return _ask_nvml()
    except ImportError:
        pass
    if shutil.which("nvidia-smi") is None:
        return Gpus(problem="neither nvidia-ml-py nor nvidia-smi is installed")
    done = subprocess.run(
        [
            "nvidia-smi",
            "--query-gpu=driver_version,name,memory.total,memory.free,uuid",
            "--format=csv,noheader,nounits",
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines()
        return Gpus("nvidia-smi", problem=said[0] if said else f"exit status {done.returncode}")
    return read_nvidia_smi(done.stdout)


def cuda_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables that make CUDA count GPUs as NVML does; none if the user has chosen an order.

    >>> cuda_environment({}), cuda_environment({"CUDA_DEVICE_ORDER": "FASTEST_FIRST"})
    ({'CUDA_DEVICE_ORDER': 'PCI_BUS_ID'}, {})

    Args:
        environment: The environment of this process.
    """
    return {} if _ORDER in environment else {_ORDER: "PCI_BUS_ID"}


def cuda_gpus(environment: Mapping[str, str] = os.environ) -> Gpus:
    """The GPUs that a worker sees, at the numbers that CUDA, and so Caffe, gives them.

    Args:
        environment: The environment of this process, which a worker inherits.

    Returns:
        The GPUs in CUDA's order; no GPUs, and the reason, if that order can't be known.
    """
    return in_cuda_order(gpus(), environment)


def in_cuda_order(found: Gpus, environment: Mapping[str, str]) -> Gpus:
    """The GPUs that CUDA_VISIBLE_DEVICES lists, in its order.

    Like CUDA, this reads the list up to the first entry that names no GPU. An entry is a number, a
    UUID, or a prefix of a UUID that fits one GPU only.

    Args:
        found: All GPUs, in NVML's order.
        environment: The environment of the process that uses CUDA.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    entries = [] if visible is None else [entry.strip() for entry in visible.split(",")]
    by_number = visible is None or any(entry.isdecimal() for entry in entries)
    fastest_first = environment.get(_ORDER, "PCI_BUS_ID").upper() != "PCI_BUS_ID"
    if by_number and fastest_first and len({device.name for device in found.devices}) > 1:
        return replace(
            found,
            devices=(),
            problem="CUDA_DEVICE_ORDER makes CUDA count GPUs of different models in an order of "
            "its own; with PCI_BUS_ID it counts them as nvidia-smi does",
        )
    if visible is None:
        return found
    devices: list[Gpu] = []
    for entry in entries:
        device = _named(entry, found.devices)
        if device is None or device in devices:
            break
        devices.append(device)
    problem = found.problem
    if not devices and found.devices:
        problem = f"CUDA_VISIBLE_DEVICES={visible} hides all GPUs"
    return replace(found, devices=tuple(devices), problem=problem)


def _named(entry: str, devices: Sequence[Gpu]) -> Gpu | None:
    """The GPU that an entry of CUDA_VISIBLE_DEVICES names, or None."""
    if entry.isdecimal():
        return devices[int(entry)] if int(entry) < len(devices) else None
    if entry.startswith("MIG-"):
        return Gpu(entry, None, None)
    near = [device for device in devices if device.uuid and device.uuid.startswith(entry)]
    return near[0] if entry.startswith("GPU-") and len(near) == 1 else None


def free_gpu_bytes(number: int = 0) -> int:
    """Free memory of a GPU, in bytes.

    Args:
        number: CUDA's number of the GPU.

    Raises:
        InputError: There is no GPU of that number, or nothing reports its memory.
    """
    found = cuda_gpus()
    device = found.devices[number] if number < len(found.devices) else None
    if device is None or device.free_bytes is None:
        known = f"this machine has {len(found.devices)} GPUs" if device is None else "not reported"
        problem = found.problem or known
        raise InputError(
            f"the free memory of GPU {number} is unknown: {problem}",
            hint=[
                "Give the memory as a size instead, for example ",
                Option("gpu_memory", "8GiB"),
                ".",
            ],
        )
    return device.free_bytes


def free_host_bytes() -> int | None:
    """Memory of this machine that a new process can have, in bytes; None if that is unknown.

    This is the kernel's own estimate or, if it is less, what is left of the control group's
    (a container's) limit.
    """
    try:
        meminfo = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return None
    found = re.search(r"^MemAvailable: +(\d+) kB$", meminfo, re.MULTILINE)
    rooms = [int(found[1]) * 1024] if found else []
    try:
        limit, used = (
            Path("/sys/fs/cgroup", f"memory.{name}").read_text(encoding="ascii").strip()
            for name in ("max", "current")
        )
    except OSError:
        limit = used = "max"
    if limit != "max":
        rooms.append(max(int(limit) - int(used), 0))
    return min(rooms, default=None)


def process_gpu_bytes(number: int, pid: int) -> int | None:
    """GPU memory that a process holds, in bytes; None if NVML doesn't report it.

    Inside a container NVML may know the process by another number.

    Args:
        number: CUDA's number of the GPU.
        pid: The process.
    """
    try:
        import pynvml
    except ImportError:
        return None
    devices = cuda_gpus().devices
    index = devices[number].number if number < len(devices) else None
    if index is None:
        return None
    try:
        pynvml.nvmlInit()
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            processes = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return None
    used = [process.usedGpuMemory for process in processes if process.pid == pid]
    return int(used[0]) if used and used[0] is not None else None


def resident_bytes(pid: int) -> int | None:
    """Resident set of a process on this machine, in bytes; None if the process is gone."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()
    except OSError:
        return None
    return int(pages[1]) * os.sysconf("SC_PAGE_SIZE") if pages else None


def child_processes(pid: int) -> tuple[int, ...]:
    """The children of a process on this machine, as far as the kernel lists them."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    except OSError:
        return ()
    return tuple(map(int, text.split()))


def resident_peak_bytes(pid: int) -> int | None:
    """Largest resident set of a process so far, in bytes; None if the process is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def read_nvidia_smi(csv: str) -> Gpus:
    r"""The GPUs in nvidia-smi's output: one per line, as driver, name, total and free MiB, UUID.

    >>> read_nvidia_smi("550.54, Some GPU, 8192, 8000, GPU-5a1b\n").devices[0]
    Gpu(name='Some GPU', total_bytes=8589934592, free_bytes=8388608000, number=0, uuid='GPU-5a1b')
    """
    rows = [[cell.strip() for cell in line.split(",")] for line in csv.splitlines() if line.strip()]
    devices = tuple(
        Gpu(name, _mib(total), _mib(free), number, uuid)
        for number, (_, name, total, free, uuid) in enumerate(rows)
    )
    return Gpus("nvidia-smi", rows[0][0] if rows else None, devices)


def extras() -> list[Extra]:
    """The optional packages; each is tried by importing it."""
    return [_try(*row) for row in _EXTRAS]


def free_space(path: Path) -> int:
    """Free bytes on the disk that ``path`` is on, or would be on if it existed."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def protobuf() -> str:
    """Version and implementation of the protobuf package; ``upb`` is the fast one."""
    from google.protobuf.internal import api_implementation

    return f"{importlib.metadata.version('protobuf')} ({api_implementation.Type()})"


def _try(package: str, module: str, extra: str, needed_for: str) -> Extra:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError:
        return Extra(package, needed_for, extra)
    except ImportError as error:  # it is installed, but a library that it needs isn't
        return Extra(package, needed_for, extra, problem=str(error))
    try:
        return Extra(package, needed_for, extra, importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:  # not installed by pip
        return Extra(package, needed_for, extra, "unknown version")


def _ask_nvml() -> Gpus:
    import pynvml

    try:
        pynvml.nvmlInit()
        try:
            driver = pynvml.nvmlSystemGetDriverVersion()
            numbers = range(pynvml.nvmlDeviceGetCount())
            return Gpus("NVML", driver, tuple(map(_nvml_gpu, numbers)))
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        return Gpus("NVML", problem=str(error))


def _nvml_gpu(number: int) -> Gpu:
    import pynvml

    handle = pynvml.nvmlDeviceGetHandleByIndex(number)
    name, uuid = pynvml.nvmlDeviceGetName(handle), pynvml.nvmlDeviceGetUUID(handle)
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    except pynvml.NVMLError:
        return Gpu(name, None, None, number, uuid)
    return Gpu(name, memory.total, memory.free, number, uuid)


def _mib(cell: str) -> int | None:
    """A number of MiB in bytes; None for ``[N/A]`` and the like."""
    return int(cell) * _MIB if cell.isdecimal() else None

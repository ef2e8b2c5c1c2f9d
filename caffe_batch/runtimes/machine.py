"""What this machine has: GPUs, disk space, optional Python packages."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from caffe_batch.errors import InputError


@dataclass(frozen=True)
class Gpu:
    """One GPU; the sizes are None where the driver doesn't report them (a GPU divided by MIG)."""

    name: str
    total_bytes: int | None
    free_bytes: int | None


@dataclass(frozen=True)
class Gpus:
    """The GPUs of this machine, and where the information comes from.

    Attributes:
        source: ``NVML``, ``nvidia-smi``, or None if neither is available.
        driver: Version of the NVIDIA driver.
        devices: In the driver's order.
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


def gpus() -> Gpus:
    """Asks NVML or, without nvidia-ml-py, the program nvidia-smi."""
    try:
        return _ask_nvml()
    except ImportError:
        pass
    if shutil.which("nvidia-smi") is None:
        return Gpus(problem="neither nvidia-ml-py nor nvidia-smi is installed")
    done = subprocess.run(
        [
            "nvidia-smi",
            "--query-gpu=driver_version,name,memory.total,memory.free",
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


def free_gpu_bytes(number: int = 0) -> int:
    """Free memory of a GPU, in bytes.

    Raises:
        InputError: There is no GPU of that number, or nothing reports its memory.
    """
    found = gpus()
    device = found.devices[number] if number < len(found.devices) else None
    if device is None or device.free_bytes is None:
        known = f"this machine has {len(found.devices)} GPUs" if device is None else "not reported"
        problem = found.problem or known
        raise InputError(
            f"the free memory of GPU {number} is unknown: {problem}",
            hint="Give the memory as a size instead, for example --gpu-memory 8GiB.",
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
    """
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(number)
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


def resident_peak_bytes(pid: int) -> int | None:
    """Largest resident set of a process so far, in bytes; None if the process is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def read_nvidia_smi(csv: str) -> Gpus:
    r"""The GPUs in nvidia-smi's output: one per line, as driver, name, total and free MiB.

    >>> read_nvidia_smi("550.54, Some GPU, 8192, 8000\n").devices
    (Gpu(name='Some GPU', total_bytes=8589934592, free_bytes=8388608000),)
    """
    rows = [[cell.strip() for cell in line.split(",")] for line in csv.splitlines() if line.strip()]
    devices = tuple(Gpu(name, _mib(total), _mib(free)) for _, name, total, free in rows)
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
            handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
            return Gpus("NVML", driver, tuple(_nvml_gpu(handle) for handle in handles))
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        return Gpus("NVML", problem=str(error))


def _nvml_gpu(handle: object) -> Gpu:
    import pynvml

    name = pynvml.nvmlDeviceGetName(handle)
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    except pynvml.NVMLError:
        return Gpu(name, None, None)
    return Gpu(name, memory.total, memory.free)


def _mib(cell: str) -> int | None:
    """A number of MiB in bytes; None for ``[N/A]`` and the like."""
    return int(cell) * _MIB if cell.isdecimal() else None

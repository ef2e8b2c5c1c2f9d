"""Installs a runtime: Debian 11's pycaffe, downloaded with apt and unpacked into one folder.

Everything happens in a temporary folder, which becomes the runtime by a single rename at the very
end, after its Python has imported caffe.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from caffe_batch.errors import InputError, Option, RuntimeMissingError
from caffe_batch.runtimes import apt, debian, host, store
from caffe_batch.runtimes.base import InstallError, InstallObserver
from caffe_batch.runtimes.inspection import inspect
from caffe_batch.sizes import format_size

#: Peak disk space of an install: the files, the packages not yet unpacked, apt's lists.
NEEDED_BYTES = 800 * 2**20

#: Unpacking is half decompression, half disk access; more processes don't help.
_UNPACKERS = 2


def install(
    name: str = store.DEFAULT_NAME,
    *,
    mirror: str | None = None,
    force: bool = False,
    observer: InstallObserver | None = None,
) -> store.Installed:
    """Installs Caffe 1.0 for the CPU with a Python 3.9, without root, from a Debian mirror.

    Args:
        name: What to call it.
        mirror: The address of a Debian mirror; by default, the one that this machine's apt uses.
        force: If a runtime of that name is already installed, replace it.
        observer: Called as the install advances.

    Returns:
        The installed runtime; immediately if it was installed before.

    Raises:
        InputError: The name, the mirror's address or the path of the data directory is unsuitable.
        RuntimeMissingError: It can't be installed on this machine: there is no apt, no package for
            its processor, or no known mirror.
        InstallError: The mirror, the network, a signature or the disk failed. Nothing unfinished is
            left behind.
    """
    report = observer or (lambda step, share: None)
    store.check_name(name)
    if not force and name in (there := store.installed()):
        return there[name]
    architecture = this_architecture()
    host.require_tools()
    archive = apt.Archive(mirror or host.host_mirror(), debian.SUITE, architecture.debian)
    return install_from(archive, name, force=force, observer=report)


def install_from(
    archive: apt.Archive,
    name: str,
    *,
    force: bool,
    observer: InstallObserver,
    needed_bytes: int = NEEDED_BYTES,
) -> store.Installed:
    """Installs from a given archive; the rest is as in :func:`install`."""
    _check_path(store.runtimes_directory())
    with store.locked(observer) as lock:
        # Another install may have finished while this one waited.
        if not force and name in (there := store.installed()):
            return there[name]
        with store.workshop() as scratch:
            _check_space(scratch, needed_bytes)
            folder = scratch / name
            root = store.root_of(folder)
            root.mkdir(parents=True)
            packages = apt.download(archive, debian.PACKAGES, _new(scratch / "apt"), lock, observer)
            versions = package_versions(packages)
            unpack(packages, root, lock, observer)
            shutil.rmtree(scratch / "apt")
            adapt(root)
            observer("Trying it", 0)
            machine = platform.machine()
            runtime = debian.DebianRuntime(name, root, debian.ARCHITECTURES[machine])
            info = inspect(runtime)
            record = store.Record(
                machine=machine,
                mirror=archive.address,
                suite=archive.suite,
                packages=versions,
                caffe_version=info.engine_version,
                python_version=info.python_version,
                gpu=info.gpu,
                size_bytes=_size(root),
            )
            store.write_record(folder, record)
            observer("Trying it", 1)
            return store.Installed(name, store.put(folder, name), record)


def this_architecture() -> debian.Architecture:
    """The architecture of this machine.

    Raises:
        RuntimeMissingError: There are no packages for it.
    """
    machine = platform.machine()
    if platform.system() != "Linux" or machine not in debian.ARCHITECTURES:
        raise RuntimeMissingError(
            f"a runtime can be installed on Linux for {' or '.join(debian.ARCHITECTURES)};"
            f" this machine is {platform.system()} on {machine}",
            hint=[
                "Name a Python that can import caffe with ",
                Option("runtime", "/path/to/python"),
                " or in CAFFE_BATCH_RUNTIME.",
            ],
        )
    return debian.ARCHITECTURES[machine]


def package_versions(packages: Sequence[Path]) -> dict[str, str]:
    """Version of each package, from the file names that apt gave the ``.deb`` files.

    >>> package_versions([Path("libgmp10_2%3a6.2.1+dfsg-1_amd64.deb")])
    {'libgmp10': '2:6.2.1+dfsg-1'}
    """
    parts = [package.stem.split("_") for package in packages]
    return {name: version.replace("%3a", ":") for name, version, _ in parts}


def unpack(packages: Sequence[Path], root: Path, lock: int, observer: InstallObserver) -> None:
    """Unpacks packages into one folder, deleting each afterwards to save space.

    Raises:
        InstallError: A package is damaged, or the disk is full.
    """
    observer("Unpacking", 0)
    with ThreadPoolExecutor(_UNPACKERS) as pool:
        jobs = [pool.submit(_unpack_one, package, root, lock) for package in packages]
        try:
            for done, job in enumerate(as_completed(jobs), start=1):
                job.result()
                observer("Unpacking", done / len(jobs))
        finally:
            pool.shutdown(cancel_futures=True)


def adapt(root: Path) -> None:
    """Makes an unpacked Debian usable where it is and wherever it is moved to.

    Absolute links, which would lead to the host's files, become relative, and a line of Python
    adds the modules on the user's PYTHONPATH.
    """
    for folder, subfolders, files in os.walk(root):
        for entry in (Path(folder, name) for name in (*subfolders, *files)):
            if entry.is_symlink() and os.path.isabs(target := os.readlink(entry)):
                inside = root / target.lstrip("/")
                entry.unlink()
                entry.symlink_to(os.path.relpath(inside, folder))
    pth = root / debian.PTH_FILE
    pth.parent.mkdir(parents=True, exist_ok=True)
    pth.write_text(debian.PTH_LINE, encoding="ascii")


def _unpack_one(package: Path, root: Path, lock: int) -> None:
    done = subprocess.run(
        ["dpkg-deb", "--extract", package, root],
        env=host.tool_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        pass_fds=[lock],
    )
    if done.returncode:
        raise apt.failure(f"{package.name} could not be unpacked", done.stderr, root)
    package.unlink()


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _size(root: Path) -> int:
    """Disk space taken by a folder's files, in bytes."""
    entries = (Path(folder, name) for folder, _, files in os.walk(root) for name in files)
    return sum(entry.lstat().st_blocks * 512 for entry in entries)


def _check_space(folder: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise InstallError(
            f"installing a runtime takes {format_size(needed_bytes)} of disk space,"
            f" and {folder.parent} has {format_size(free)} left",
            hint="Free some space there, or set CAFFE_BATCH_HOME to a folder on another disk.",
        )


def _check_path(directory: Path) -> None:
    """Refuses characters that the loader, Python or apt would misinterpret."""
    wrong = set(str(directory)) & set(':;"$\n')
    if wrong:
        raise InputError(
            f"a runtime can't live in {str(directory)!r}: its path contains"
            f" {' and '.join(repr(character) for character in sorted(wrong))}",
            hint="Set CAFFE_BATCH_HOME to another folder.",
        )

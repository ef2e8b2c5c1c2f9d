"""A runtime that is a container image: its Python runs in a container of Docker or Podman.

Folders of this machine are mounted at their own paths, so that a path means the same inside and
outside. The image's ``caffe-python`` is run if it has one (docker/caffe-python), else its
``python3``, which must be able to import caffe.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import caffe_batch
from caffe_batch.errors import InputError, Option
from caffe_batch.runtimes.base import Runtime, WorkerPlaces, host_environment

#: The programs that run containers, each with the options that make all GPUs visible inside.
PROGRAMS = {"docker": ("--gpus=all",), "podman": ("--device=nvidia.com/gpu=all",)}

#: The default image; the Dockerfile builds it.
IMAGE = "caffe-batch"

#: Environment variables that are passed on to the container.
PASSED = ("CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES", "GLOG_minloglevel", "GLOG_v",
          "MKL_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PYTHONPATH")  # fmt: skip

#: Runs inside. Its first argument is what descriptor 3 writes to: a container inherits no files.
_SCRIPT = 'exec 3>"$0" && exec "$(command -v caffe-python || command -v python3)" "$@"'

#: The descriptor of the events inside the container.
EVENTS_DESCRIPTOR = 3


def has_driver() -> bool:
    """Whether this machine has an NVIDIA driver; without one, asking for GPUs is an error."""
    return Path("/dev/nvidiactl").exists()


@dataclass(frozen=True)
class Container(Runtime):
    """The Python of an image, run by a program that takes Docker's options.

    Attributes:
        program: ``docker`` or ``podman``.
        image: Name of the image.
        places: What a worker needs of this machine, and where its events go; None for a script
            that needs nothing but caffe_batch's own files.
    """

    program: str
    image: str
    places: WorkerPlaces | None = None

    def for_worker(self, places: Callable[[], WorkerPlaces]) -> Container:
        """The same image with the worker's folders; its container is named after the first."""
        return replace(self, places=places())

    @property
    def fifo(self) -> Path | None:
        """Where events go, as the container doesn't inherit a pipe."""
        return self.places.fifo if self.places else None

    @property
    def container(self) -> str | None:
        """The container's name: that of the worker's folder, and a hash of its path."""
        if self.places is None:
            return None
        folder = self.places.folder
        readable = re.sub(r"[^\w.-]", "-", folder.name, flags=re.ASCII)
        return f"caffe-batch-{readable}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:8]}"

    def command(self, args: Sequence[str]) -> list[str]:
        # Other images may have a health check, which is meant for services.
        options = ["--rm", "--init", "--no-healthcheck", *self._user()]
        if has_driver():
            options += PROGRAMS[self.program]
        options += [f"--env={name}" for name in PASSED]
        own = Path(caffe_batch.__file__).parent
        options.append(_mount(own, read_only=True))
        if self.places is not None:
            options += [f"--name={self.container}", f"--workdir={self.places.directory}"]
            written = _outermost([self.places.folder, self.places.directory])
            read = _outermost([*self.places.folders, *_python_path()], written)
            options += [_mount(folder) for folder in written]
            options += [_mount(folder, read_only=True) for folder in read if folder != own]
        events = str(self.fifo or os.devnull)
        inside = ["--entrypoint=sh", self.image, "-c", _SCRIPT, events]
        return [self.program, "run", *options, *inside, *args]

    def environment(self) -> dict[str, str]:
        return host_environment()

    def clear(self) -> None:
        """Removes the worker's container, running or not: a killed client leaves it running."""
        if self.container is not None:
            subprocess.run(
                [self.program, "rm", "--force", self.container],
                stdin=subprocess.DEVNULL,
                capture_output=True,
            )

    def _user(self) -> list[str]:
        """Options that make the written files belong to the current user."""
        user = f"--user={os.getuid()}:{os.getgid()}"
        if self.program == "podman":
            # Rootless: the ids inside are then those outside. SELinux: folders keep their labels.
            keep = [] if os.getuid() == 0 else ["--userns=keep-id"]
            return [*keep, "--security-opt=label=disable", user]
        return [user]


def container(spec: str) -> Container | None:
    """The runtime named ``docker[:IMAGE]`` or ``podman[:IMAGE]``; None for any other name.

    >>> container("podman:site/caffe:1").image
    'site/caffe:1'
    """
    program, colon, image = spec.partition(":")
    if program not in PROGRAMS or (colon and not image):
        return None
    return Container(spec, program, image or IMAGE)


def _mount(folder: Path, *, read_only: bool = False) -> str:
    if "," in str(folder):
        raise InputError(
            f"{folder}: a folder with a comma in its name can't be mounted in a container",
            hint=["Rename it, or use another ", Option("runtime"), "."],
        )
    return f"--mount=type=bind,source={folder},target={folder}" + ",readonly" * read_only


def _outermost(folders: Iterable[Path], shown: Sequence[Path] = ()) -> list[Path]:
    """The folders that exist, without those inside another one or inside one of ``shown``."""
    there = sorted({folder.absolute() for folder in folders if folder.is_dir()} - {*shown})
    outer = {*there, *shown}
    return [folder for folder in there if outer.isdisjoint(folder.parents)]


def _python_path() -> list[Path]:
    return [Path(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]

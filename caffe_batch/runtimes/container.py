"""A runtime that is a container image: its Python runs in a container of Docker or Podman.

Folders of this machine are seen inside at their own place, so that every path means the same in
both. The image's ``caffe-python`` is run where there is one (docker/caffe-python), else its
``python3``, which must import caffe.
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
from caffe_batch.errors import InputError
from caffe_batch.runtimes.base import Runtime, WorkerPlaces

#: The engines that a runtime may name, each with the options that show it all GPUs.
ENGINES = {"docker": ("--gpus=all",), "podman": ("--device=nvidia.com/gpu=all",)}

#: The image where a runtime names none; the Dockerfile builds it.
IMAGE = "caffe-batch"

#: Variables of this machine that reach the container.
PASSED = ("CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES", "GLOG_minloglevel", "GLOG_v",
          "MKL_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PYTHONPATH")  # fmt: skip

#: Runs inside. The first argument is what descriptor 3 writes to: a container inherits no files.
_SCRIPT = 'exec 3>"$0" && exec "$(command -v caffe-python || command -v python3)" "$@"'

#: The descriptor of the events inside the container.
EVENTS_DESCRIPTOR = 3


def has_driver() -> bool:
    """Whether this machine has an NVIDIA driver; without one an engine refuses to show GPUs."""
    return Path("/dev/nvidiactl").exists()


@dataclass(frozen=True)
class Container(Runtime):
    """The Python of an image, run by an engine that takes Docker's options.

    Attributes:
        engine: ``docker`` or ``podman``.
        image: Name of the image.
        places: What a worker needs of this machine, and where its events go; None for a script
            that needs nothing but caffe_batch's own files.
    """

    engine: str
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
        # An image of somebody else's may have a health check, made for a service.
        options = ["--rm", "--init", "--no-healthcheck", *self._user()]
        if has_driver():
            options += ENGINES[self.engine]
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
        return [self.engine, "run", *options, *inside, *args]

    def environment(self) -> dict[str, str]:
        return dict(os.environ)

    def clear(self) -> None:
        """Removes the worker's container, whatever it does: a killed client leaves it running."""
        if self.container is not None:
            subprocess.run(
                [self.engine, "rm", "--force", self.container],
                stdin=subprocess.DEVNULL,
                capture_output=True,
            )

    def _user(self) -> list[str]:
        """Files that are written belong to whoever runs this."""
        user = f"--user={os.getuid()}:{os.getgid()}"
        if self.engine == "podman":
            # Rootless: the ids inside are then those outside. SELinux: folders keep their labels.
            keep = [] if os.getuid() == 0 else ["--userns=keep-id"]
            return [*keep, "--security-opt=label=disable", user]
        return [user]


def container(spec: str) -> Container | None:
    """The runtime of ``docker[:IMAGE]`` or ``podman[:IMAGE]``; None if it is another's name.

    >>> container("podman:site/caffe:1").image
    'site/caffe:1'
    """
    engine, colon, image = spec.partition(":")
    if engine not in ENGINES or (colon and not image):
        return None
    return Container(spec, engine, image or IMAGE)


def _mount(folder: Path, *, read_only: bool = False) -> str:
    if "," in str(folder):
        raise InputError(
            f"{folder}: a folder with a comma in its name can't be shown to a container",
            hint="Rename it, or give another --runtime.",
        )
    return f"--mount=type=bind,source={folder},target={folder}" + ",readonly" * read_only


def _outermost(folders: Iterable[Path], shown: Sequence[Path] = ()) -> list[Path]:
    """The folders that are there, without those that lie in one of the others or of ``shown``."""
    there = sorted({folder.absolute() for folder in folders if folder.is_dir()} - {*shown})
    outer = {*there, *shown}
    return [folder for folder in there if outer.isdisjoint(folder.parents)]


def _python_path() -> list[Path]:
    return [Path(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]

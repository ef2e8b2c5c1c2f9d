"""Builds the Dockerfile's images with buildah, as root: without a Docker engine or a daemon.

    python tools/image/build.py [cpu] [gpu]

The base image is made with mmdebstrap from the Debian mirror that this machine's apt uses, under
the name that the Dockerfile gives it. Needs Debian's packages buildah and mmdebstrap.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from caffe_batch.runtimes.host import host_mirror

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "Dockerfile"

#: The name of each target's image.
IMAGES = {"cpu": "caffe-batch:cpu", "gpu": "caffe-batch:latest"}

_SOURCES = """\
Types: deb
URIs: {mirror}
Suites: {suite} {suite}-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""

#: apt settings that say how this machine reaches its mirror.
_APT_SETTINGS = re.compile(r'^Acquire::(?:Check-\S+|https?::\S+|Retries) ".*";$', re.MULTILINE)


def run(*command: str | Path) -> str:
    """Runs a command, shows its stderr, and returns its stdout."""
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip()


def base_image(dockerfile: str) -> str:
    """The image that a Dockerfile starts from: the one that isn't one of its own stages.

    >>> base_image("FROM debian:12-slim AS one\\nRUN true\\nFROM one AS two\\n")
    'debian:12-slim'
    """
    froms = re.findall(r"^FROM (\S+)(?: AS (\S+))?$", dockerfile, re.MULTILINE)
    (base,) = {image for image, _ in froms} - {stage for _, stage in froms}
    return str(base)


def make_base(name: str, suite: str = "bookworm") -> None:
    """Makes the base image, unless one of that name exists."""
    if run("buildah", "images", "--format", "{{.Name}}:{{.Tag}}").find(name) >= 0:
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        sources, tar = folder / "debian.sources", folder / "base.tar"
        sources.write_text(_SOURCES.format(mirror=host_mirror(), suite=suite))
        include = "--include=ca-certificates"
        run("mmdebstrap", "--variant=minbase", include, suite, tar, sources)
        settings = folder / "90reach"
        settings.write_text("\n".join(_APT_SETTINGS.findall(run("apt-config", "dump"))) + "\n")
        container = run("buildah", "from", "scratch")
        apt = "/etc/apt/"
        run("buildah", "add", container, tar, "/")
        run("buildah", "run", "--isolation=chroot", container, "--",
            "sh", "-c", f"rm {apt}sources.list.d/*")  # fmt: skip
        run("buildah", "copy", container, sources, f"{apt}sources.list.d/debian.sources")
        run("buildah", "copy", container, settings, f"{apt}apt.conf.d/{settings.name}")
        # pip inside must trust the same certificates as this machine.
        certificates = "/etc/ssl/certs/ca-certificates.crt"
        run("buildah", "copy", container, certificates, certificates)
        run("buildah", "commit", "--rm", container, name)


def build(target: str) -> None:
    """Builds one target; existing stages are reused."""
    subprocess.run(
        ["buildah", "build", "--isolation=chroot", "--layers", "--format=docker", "--pull=never",
         f"--target={target}", f"--tag={IMAGES[target]}", f"--file={DOCKERFILE}", ROOT],
        check=True,
        stdout=sys.stderr,
    )  # fmt: skip


@contextmanager
def container_of(
    image: str, *folders: Path, user: str = "root", extra: Sequence[str] = ()
) -> Iterator[list[str]]:
    """A temporary container of an image; yields the start of a command line that runs in it.

    Args:
        image: Its name.
        folders: Folders of this machine that are visible inside, at the same paths.
        user: The user who runs the command.
        extra: Further options of ``buildah run``.
    """
    container = run("buildah", "from", "--pull=never", image)
    mounts = [f"--volume={folder}:{folder}:rw" for folder in folders]
    try:
        run_command = ["buildah", "run", "--isolation=chroot", f"--user={user}", *extra]
        yield [*run_command, *mounts, container, "--"]
    finally:
        run("buildah", "rm", container)


def main() -> None:
    """Builds the requested targets, or both."""
    if missing := [tool for tool in ("buildah", "mmdebstrap") if not shutil.which(tool)]:
        sys.exit(f"missing: {', '.join(missing)} (Debian packages of the same names)")
    make_base(base_image(DOCKERFILE.read_text()))
    for target in sys.argv[1:] or IMAGES:
        build(target)
        print(IMAGES[target])


if __name__ == "__main__":
    main()

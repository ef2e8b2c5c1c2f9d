"""What the host provides for an install: apt, a Debian mirror, the keys of Debian's archive."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from caffe_batch.errors import Option, RuntimeMissingError
from caffe_batch.runtimes.base import InstallError

#: Where a system keeps the keys of Debian's archive; newer releases use the second name.
KEYRINGS = (
    "usr/share/keyrings/debian-archive-keyring.gpg",
    "usr/share/keyrings/debian-archive-keyring.pgp",
)
KEYRING_PACKAGE = "debian-archive-keyring"


def missing_tools() -> list[str]:
    """The programs that an install needs and that are not on the PATH."""
    return [tool for tool in ("apt-get", "dpkg-deb") if not shutil.which(tool)]


def require_tools() -> None:
    """Makes sure that this machine has apt.

    Raises:
        RuntimeMissingError: It doesn't.
    """
    if missing := missing_tools():
        raise RuntimeMissingError(
            f"a runtime is installed with apt, and this machine has no {' and no '.join(missing)}",
            hint=[
                "Any other Python that can import caffe will do (from conda, or built by hand):"
                " name it with ",
                Option("runtime", "/path/to/python"),
                " or in CAFFE_BATCH_RUNTIME. Or run caffe-batch in a Docker image of Debian or "
                "Ubuntu.",
            ],
        )


def mirror_by_origin(index_targets: str) -> str | None:
    r"""The first archive that calls itself Debian's in the output of ``apt-get indextargets``.

    >>> mirror_by_origin("Site: file:/srv/main\nOrigin: Debian\nLabel: Debian\n")
    'file:/srv/main'
    """
    for stanza in index_targets.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in stanza.splitlines() if ": " in line)
        if fields.get("Origin") == "Debian" and fields.get("Label") == "Debian":
            return fields["Site"]
    return None


def mirror_by_name(uris: str) -> str | None:
    """The first archive named debian in the output of ``apt-get update --print-uris``.

    >>> mirror_by_name("'file:/srv/debian/dists/stable/InRelease' srv_debian_dists_stable 0")
    'file:/srv/debian'
    """
    found = re.search(r"^'(\S+/debian(?:\.list)?)/+dists/", uris, re.MULTILINE)
    return found[1] if found else None


def host_mirror() -> str:
    """The Debian mirror that this machine's apt uses.

    Archives say whose they are only once ``apt-get update`` has run on the machine. In a new
    container it hasn't, and the archive's name has to do.

    Raises:
        RuntimeMissingError: It uses no Debian mirror (Ubuntu doesn't, for example).
    """
    mirror = mirror_by_origin(_ask("apt-get", "indextargets", "Created-By: Packages"))
    mirror = mirror or mirror_by_name(_ask("apt-get", "update", "--print-uris"))
    if mirror is None:
        raise RuntimeMissingError(
            "this machine's apt has no Debian mirror among its sources, and the runtime comes"
            " from Debian's archive (nothing on this system is changed)",
            hint="Name one: `caffe-batch runtime install --mirror <your Debian mirror>`, or set"
            " CAFFE_BATCH_MIRROR.",
        )
    return mirror


def debian_keyring(folder: Path, system: Path = Path("/")) -> Path:
    """The keys of Debian's archive: those on this machine, else from the package that holds them.

    The package is fetched with the host's own apt settings, so it is checked against keys that
    the host already trusts.

    Args:
        folder: Where the package may be unpacked.
        system: The root folder of this machine's file system.

    Raises:
        InstallError: The host's apt can't get the package.
    """
    if keyring := _keyring_of(system):
        return keyring
    scratch = folder / "keyring"
    scratch.mkdir()
    options = ("APT::Get::AllowUnauthenticated=false", "APT::Sandbox::User=root")
    command = ["apt-get", "-qq", *(f"-o{option}" for option in options), "download"]
    output = _ask(*command, KEYRING_PACKAGE, folder=scratch)
    for package in scratch.glob("*.deb"):
        output += _ask("dpkg-deb", "--extract", str(package), str(scratch))
    if keyring := _keyring_of(scratch):
        return keyring
    raise InstallError(
        "the keys of Debian's archive are neither on this machine nor among its packages:\n  "
        + output.strip().replace("\n", "\n  "),
        hint=f"Install the package {KEYRING_PACKAGE}, or run `apt-get update` as root and try"
        " again.",
    )


def tool_environment() -> dict[str, str]:
    """The environment in which apt and dpkg speak English and ask no questions."""
    return {**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}


def _ask(*command: str, folder: Path | None = None) -> str:
    """Everything a program prints, answers and complaints alike."""
    return subprocess.run(
        command,
        cwd=folder,
        env=tool_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ).stdout


def _keyring_of(system: Path) -> Path | None:
    return next((system / name for name in KEYRINGS if (system / name).is_file()), None)

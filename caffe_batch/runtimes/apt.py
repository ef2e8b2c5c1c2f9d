"""Downloads Debian packages with the host's own apt, changing nothing of the host.

apt works on a private state (lists, caches, an empty list of installed packages, one source)
and keeps the host's settings for proxies and logins. What it downloads is checked against the
keys of Debian's archive.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from caffe_batch.errors import InputError
from caffe_batch.runtimes.base import InstallError, Progress
from caffe_batch.runtimes.host import debian_keyring, tool_environment
from caffe_batch.sizes import format_size

# The third is tar's, for a write that the disk cut short.
_DISK_FULL = re.compile("No space left on device|Disk quota exceeded|Wrote only|enough free space")

_MIRROR = re.compile(r"[a-z][a-z0-9+.-]*:[^\s\[\]]+")

# Host settings that must not reach the private state are cleared: hooks that touch the host,
# a release to prefer that isn't there, foreign architectures. Those that could weaken the check
# of signatures are set to what apt ships.
_CONFIGURATION = """\
#clear APT::Architectures;
#clear APT::Default-Release;
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear APT::Update::Post-Invoke-Stats;
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Get::AllowUnauthenticated "false";
APT::Install-Recommends "false";
APT::Install-Suggests "false";
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowWeakRepositories "false";
Acquire::AllowDowngradeToInsecureRepositories "false";
Acquire::Retries "3";
Debug::NoLocking "true";
Dir::Cache "{folder}/cache";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::Etc::sourcelist "{folder}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::trusted "/dev/null";
Dir::Etc::trustedparts "{folder}/keys";
Dir::Log "{folder}/log";
Dir::State "{folder}/state";
Dir::State::status "{folder}/state/status";
"""


@dataclass(frozen=True)
class Archive:
    """A Debian archive to install from.

    Attributes:
        mirror: Its address, as in apt's sources: the folder that holds ``dists`` and ``pool``.
        suite: For example ``bullseye``.
        architecture: As dpkg has it.
        keyring: The keys, one of which must have signed it. None: Debian's own.
    """

    mirror: str
    suite: str
    architecture: str
    keyring: Path | None = None

    def __post_init__(self) -> None:
        if not _MIRROR.fullmatch(self.mirror):
            raise InputError(
                f"{self.mirror!r} is not the address of a Debian mirror",
                hint="Write it as in apt's sources, for example file:/srv/mirror/debian.",
            )

    @property
    def address(self) -> str:
        """The mirror's address without a user's name and password, to show and to record."""
        return re.sub(r"//[^/@]*@", "//", self.mirror)

    def sources_list(self) -> str:
        """The one source of the private state. Only the list of packages is fetched."""
        # apt leaves packages of file: where they are; copy: is the same, but fetches them.
        mirror = re.sub(r"^file:", "copy:", self.mirror)
        return f"deb [arch={self.architecture} target=Packages] {mirror} {self.suite} main\n"


def configuration(folder: Path, architecture: str) -> str:
    """The apt.conf of a private state in ``folder``; read after the host's, and so stronger."""
    return _CONFIGURATION.format(folder=folder, architecture=architecture)


def download(
    archive: Archive, packages: Sequence[str], folder: Path, lock: int, progress: Progress
) -> list[Path]:
    """Downloads packages and all that they depend on into a private state made in ``folder``.

    Args:
        archive: Where from.
        packages: Their names.
        folder: An existing empty folder.
        lock: A file descriptor that apt holds open while it works.
        progress: Told how far it is.

    Returns:
        The ``.deb`` files.

    Raises:
        InstallError: The network, the signature or the disk.
    """
    for name in ("cache/archives/partial", "state/lists/partial", "keys", "log"):
        (folder / name).mkdir(parents=True)
    (folder / "state" / "status").touch()
    (folder / "sources.list").write_text(archive.sources_list(), encoding="utf-8")
    (folder / "apt.conf").write_text(configuration(folder, archive.architecture), encoding="utf-8")
    keyring = archive.keyring or debian_keyring(folder)
    # apt takes armoured keys under .asc only, binary ones under .gpg only.
    suffix = ".asc" if keyring.suffix == ".asc" else ".gpg"
    shutil.copyfile(keyring, folder / "keys" / f"archive{suffix}")
    for stage, command in (
        ("Reading the list of packages", ["update"]),
        ("Downloading packages", ["--yes", "--download-only", "install", *packages]),
    ):
        progress(stage, 0)
        _run(command, archive, folder, lock, partial(progress, stage))
    return sorted((folder / "cache" / "archives").glob("*.deb"))


def failure(what: str, said: str, folder: Path) -> InstallError:
    """The error for a tool that failed, from what it said; a full disk is told apart."""
    complaints = [line for line in said.splitlines() if line.startswith(("E:", "W:", "Err"))]
    lines = complaints or [line for line in said.splitlines() if line.strip()][-3:]
    text = "\n".join(f"  {line.strip()}" for line in lines) or "  (it said nothing)"
    if _DISK_FULL.search(said):
        free = format_size(shutil.disk_usage(folder).free)
        return InstallError(
            f"{what}: the disk is full ({free} left):\n{text}",
            hint="Nothing was installed. Make space, or set CAFFE_BATCH_HOME to a folder on another"
            " disk.",
        )
    return InstallError(
        f"{what}:\n{text}",
        hint="Nothing was installed. Check the network and the mirror, then try again; --mirror"
        " gives another one.",
    )


def _run(
    command: Sequence[str],
    archive: Archive,
    folder: Path,
    lock: int,
    report: Callable[[float], None],
) -> None:
    """Runs one apt-get command on the private state, reading its progress as it goes."""
    said = []
    with subprocess.Popen(
        ["apt-get", "-qq", "-c", folder / "apt.conf", "-o", "APT::Status-Fd=1", *command],
        env=tool_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=[lock],
        text=True,
        errors="replace",
    ) as process:
        try:
            for line in process.stdout or ():
                if status := re.match(r"dlstatus:\d+:([\d.]+):", line):
                    report(float(status[1]) / 100)
                else:
                    said.append(line)
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise failure(
            f"apt could not get the packages from {archive.address}", "".join(said), folder
        )

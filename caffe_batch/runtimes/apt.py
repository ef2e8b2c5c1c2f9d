"""Downloads Debian packages with the host's own apt, without changing the host.

apt works on a private state (lists, caches, an empty list of installed packages, one source)
but keeps the host's settings for proxies and logins. Everything it downloads is checked against
the keys of Debian's archive.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from caffe_batch.errors import InputError
from caffe_batch.runtimes.base import InstallError, InstallObserver
from caffe_batch.runtimes.host import debian_keyring, tool_environment
from caffe_batch.sizes import format_size

# "Wrote only" is how tar reports a write that the disk cut short.
_DISK_FULL = re.compile("No space left on device|Disk quota exceeded|Wrote only|enough free space")

# How apt reports a suite without a Release file (a 404, a missing folder), and a server that it
# could not talk to at all.
_NO_RELEASE = "does not have a Release file"
_UNREACHABLE = re.compile(
    "Could not (?:resolve|connect|handshake)|Temporary failure resolving|Unable to connect"
    "|Connection (?:failed|refused|timed out)|Network is unreachable|No route to host"
)

#: A suite that every mirror of Debian has, except one that keeps old releases only.
_ALWAYS_THERE = "stable"

_MIRROR = re.compile(r"[a-z][a-z0-9+.-]*:[^\s\[\]]+")

# Host settings that must not reach the private state are cleared: hooks that touch the host, a
# preferred release that the archive doesn't have, foreign architectures. Settings that could
# weaken the signature check are set back to apt's own defaults.
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
        architecture: dpkg's name for it.
        keyring: The keys, one of which must have signed the archive. None: Debian's own.
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
        """The mirror's address without user name and password, for messages and records."""
        return re.sub(r"//[^/@]*@", "//", self.mirror)

    def sources_list(self) -> str:
        """The only source of the private state; it fetches nothing but the list of packages."""
        # apt uses the packages of file: where they are; copy: is the same, but fetches them.
        mirror = re.sub(r"^file:", "copy:", self.mirror)
        return f"deb [arch={self.architecture} target=Packages] {mirror} {self.suite} main\n"


def configuration(folder: Path, architecture: str) -> str:
    """The apt.conf of a private state in ``folder``; read last, it overrides the host's."""
    return _CONFIGURATION.format(folder=folder, architecture=architecture)


def download(
    archive: Archive, packages: Sequence[str], folder: Path, lock: int, observer: InstallObserver
) -> list[Path]:
    """Downloads packages and everything they depend on into a private state made in ``folder``.

    Args:
        archive: Where to download from.
        packages: Names of the packages.
        folder: An existing empty folder.
        lock: A file descriptor that apt holds open while it works.
        observer: Called as the download advances.

    Returns:
        The ``.deb`` files.

    Raises:
        InstallError: The mirror can't be reached or doesn't have the suite, a signature is wrong,
            or the disk is full.
    """
    _make_state(archive, folder)
    reading = partial(observer, "Reading the list of packages")
    reading(0)
    output = _run(["update"], folder, lock, reading)
    if output is not None:
        raise _update_failure(archive, output, folder, lock)
    downloading = partial(observer, "Downloading packages")
    downloading(0)
    command = ["--yes", "--download-only", "install", *packages]
    output = _run(command, folder, lock, downloading)
    if output is not None:
        raise failure(_could_not_get(archive), output, folder)
    return sorted((folder / "cache" / "archives").glob("*.deb"))


def failure(what: str, output: str, folder: Path, hint: str | None = None) -> InstallError:
    """The error for a tool that failed; a full disk is recognised.

    Args:
        what: What could not be done.
        output: Everything the tool printed; its complaints become part of the message.
        folder: Where it wrote.
        hint: What to try, unless the disk is full.
    """
    complaints = [line for line in output.splitlines() if line.startswith(("E:", "W:", "Err"))]
    lines = complaints or [line for line in output.splitlines() if line.strip()][-3:]
    text = "\n".join(f"  {line.strip()}" for line in lines) or "  (it printed nothing)"
    if _DISK_FULL.search(output):
        free = format_size(shutil.disk_usage(folder).free)
        return InstallError(
            f"{what}: the disk is full ({free} left):\n{text}",
            hint="Nothing was installed. Free some space, or set CAFFE_BATCH_HOME to a folder on"
            " another disk.",
        )
    hint = (
        hint or "Check the network and the mirror, then try again, or name another with --mirror."
    )
    return InstallError(f"{what}:\n{text}", hint=f"Nothing was installed. {hint}")


def _update_failure(archive: Archive, output: str, folder: Path, lock: int) -> InstallError:
    """The error for a list of packages that apt could not get: why, and what helps."""
    if _NO_RELEASE not in output:
        if _UNREACHABLE.search(output):
            return failure(
                f"the mirror {archive.address} can't be reached",
                output,
                folder,
                hint="Check the network, the proxy in apt's settings and the mirror's address, then"
                " try again, or name another mirror with --mirror or CAFFE_BATCH_MIRROR.",
            )
        return failure(_could_not_get(archive), output, folder)
    if _has_suite(replace(archive, suite=_ALWAYS_THERE), folder / "other suite", lock):
        return failure(
            f"the mirror {archive.address} has no {archive.suite!r} (any more): Debian's releases"
            " leave the mirrors some years after their support has ended",
            output,
            folder,
            hint="Name an archive mirror of Debian, which keeps the old releases, with --mirror or"
            " CAFFE_BATCH_MIRROR (when building an image: --build-arg CAFFE_BATCH_MIRROR=...), or"
            " use another Python that can import caffe with --runtime.",
        )
    return failure(
        f"there is no Debian mirror at {archive.address}: neither {archive.suite!r} nor"
        f" {_ALWAYS_THERE!r} is there",
        output,
        folder,
        hint="Give the address of the folder that holds dists/ and pool/, as in apt's sources, with"
        " --mirror or CAFFE_BATCH_MIRROR.",
    )


def _has_suite(archive: Archive, folder: Path, lock: int) -> bool:
    """Whether the archive has its suite, signed or not; False too if it can't be reached now."""
    folder.mkdir()
    _make_state(archive, folder)
    output = _run(["update"], folder, lock, lambda share: None)
    return output is None or not (_NO_RELEASE in output or _UNREACHABLE.search(output))


def _could_not_get(archive: Archive) -> str:
    return f"apt could not get the packages from {archive.address}"


def _make_state(archive: Archive, folder: Path) -> None:
    """Makes apt's private state in an existing empty folder."""
    for name in ("cache/archives/partial", "state/lists/partial", "keys", "log"):
        (folder / name).mkdir(parents=True)
    (folder / "state" / "status").touch()
    (folder / "sources.list").write_text(archive.sources_list(), encoding="utf-8")
    (folder / "apt.conf").write_text(configuration(folder, archive.architecture), encoding="utf-8")
    keyring = archive.keyring or debian_keyring(folder)
    # apt accepts armoured keys only under .asc, binary ones only under .gpg.
    suffix = ".asc" if keyring.suffix == ".asc" else ".gpg"
    shutil.copyfile(keyring, folder / "keys" / f"archive{suffix}")


def _run(
    command: Sequence[str], folder: Path, lock: int, report: Callable[[float], None]
) -> str | None:
    """Runs apt-get on the private state in ``folder``, reporting the share done as it goes.

    Returns:
        None if it succeeded, else everything it printed.
    """
    output = []
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
                    output.append(line)
        except BaseException:
            process.kill()
            raise
    return "".join(output) if process.returncode else None

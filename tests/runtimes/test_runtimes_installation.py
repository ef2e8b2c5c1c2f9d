"""Installing: complete or not at all, whatever happens in between."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from caffe_batch import runtimes
from caffe_batch.errors import InputError, RuntimeMissingError
from caffe_batch.runtimes import debian, installation, store
from caffe_batch.runtimes.apt import Archive
from caffe_batch.runtimes.base import InstallError, InstallObserver
from tests.command import NAMESPACE, can_mount, spawn

NAME = "debian-11"

#: Installs from the small archive in a process of its own; prints each step.
CHILD = """
import sys
from pathlib import Path
from caffe_batch.runtimes import installation
from caffe_batch.runtimes.apt import Archive

mirror, architecture, keyring = sys.argv[1:]
archive = Archive(mirror, "bullseye", architecture, Path(keyring))
installation.install_from(
    archive, "debian-11", force=False, needed_bytes=0,
    observer=lambda step, share: print(step, share, flush=True),
)
"""


def quiet(step: str, share: float) -> None:
    pass


def install(
    archive: Archive, *, force: bool = False, observer: InstallObserver = quiet
) -> store.Installed:
    return installation.install_from(archive, NAME, force=force, observer=observer, needed_bytes=0)


def command(archive: Archive) -> list[str]:
    """The argv of a process that installs from an archive."""
    return [sys.executable, "-c", CHILD, archive.mirror, archive.architecture, str(archive.keyring)]


def start(archive: Archive) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(archive),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def left_over(home: Path) -> list[str]:
    """What is in the folder of the runtimes without being one."""
    return [path.name for path in (home / "runtimes").iterdir() if path.name.startswith(".tmp")]


def test_install(home: Path, archive: Archive) -> None:
    steps: list[str] = []
    made = install(archive, observer=lambda step, share: steps.append(step))
    assert made == runtimes.installed()[NAME]
    assert made.folder == home / "runtimes" / NAME
    assert sorted(path.name for path in made.folder.iterdir()) == ["root", "runtime.json"]
    assert left_over(home) == []
    assert list(dict.fromkeys(steps)) == [
        "Reading the list of packages",
        "Downloading packages",
        "Unpacking",
        "Trying it",
    ]
    record = made.record
    assert record.packages == {
        "caffe": "2:1.0-1",
        "libopenblas0-pthread": "2:1.0-1",
        "libstub": "2:1.0-1",
        "python3-caffe": "2:1.0-1",
    }
    assert (record.caffe_version, record.python_version, record.gpu) == (
        "1.0.0-stub",
        "3.9.0",
        False,
    )
    assert 6 * 2**20 < record.size_bytes < 7 * 2**20
    assert (record.machine, record.suite) == (platform.machine(), "bullseye")


def test_installed_runtime_is_found(home: Path, archive: Archive) -> None:
    made = install(archive)
    assert runtimes.find() == runtimes.find(NAME) == made.runtime


def test_links_lead_into_the_root(home: Path, archive: Archive) -> None:
    root = install(archive).runtime.root
    assert (root / "usr/share/stub-etc/stub").read_text() == "stub\n"
    links = [path for path in root.rglob("*") if path.is_symlink()]
    assert len(links) == 4
    assert not [link for link in links if os.path.isabs(os.readlink(link))]


def test_moved_runtime_works(
    home: Path, archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(archive)
    home.rename(tmp_path / "elsewhere")
    monkeypatch.setenv("CAFFE_BATCH_HOME", str(tmp_path / "elsewhere"))
    assert runtimes.inspect(runtimes.find()).engine_version == "1.0.0-stub"


def test_second_install_is_the_first(home: Path, archive: Archive) -> None:
    made = install(archive)
    inode = made.folder.stat().st_ino
    seen: list[str] = []
    assert install(archive, observer=lambda step, share: seen.append(step)) == made
    assert runtimes.install(NAME, mirror="file:/not/looked/at") == made
    assert (seen, made.folder.stat().st_ino) == ([], inode)


def test_forced_install_replaces(home: Path, archive: Archive) -> None:
    folder = install(archive).folder
    (folder / "root/usr/bin/python3.9").unlink()
    inode = folder.stat().st_ino
    install(archive, force=True)
    assert (folder / "root/usr/bin/python3.9").exists()
    assert folder.stat().st_ino != inode
    assert left_over(home) == []


def test_failed_forced_install_leaves_the_old_one(home: Path, archive: Archive) -> None:
    made = install(archive)
    with pytest.raises(InstallError, match="there is no Debian mirror at file:/no/such"):
        install(replace(archive, mirror="file:/no/such"), force=True)
    assert runtimes.installed() == {NAME: made}
    assert left_over(home) == []


def test_refused_archive_leaves_nothing(home: Path, archive: Archive) -> None:
    assert archive.keyring is not None
    stranger = replace(archive, keyring=archive.keyring.with_name("strangers_key.asc"))
    with pytest.raises(InstallError, match="could not get the packages"):
        install(stranger)
    assert (runtimes.installed(), left_over(home)) == ({}, [])


def test_runtime_that_does_not_import_caffe_leaves_nothing(
    home: Path, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debian, "ARCHITECTURES", dict(debian.ARCHITECTURES))
    machine = platform.machine()
    broken = replace(debian.ARCHITECTURES[machine], loader="lib/stub/none")
    monkeypatch.setitem(debian.ARCHITECTURES, machine, broken)
    with pytest.raises(RuntimeMissingError, match="can't be started: No such file"):
        install(archive)
    assert (runtimes.installed(), left_over(home)) == ({}, [])


def test_too_little_space(home: Path, archive: Archive) -> None:
    with pytest.raises(InstallError, match=r"installing a runtime takes 9000 TiB of disk space"):
        installation.install_from(
            archive, NAME, force=False, observer=quiet, needed_bytes=9000 * 2**40
        )
    assert (runtimes.installed(), left_over(home)) == ({}, [])


def test_disk_that_fills_up(home: Path, archive: Archive) -> None:
    """On a real file system of 3 MiB; the packages unpack to 6 MiB."""
    home.mkdir()
    mount = f'mount -t tmpfs -o size=3m none "{home}" && '
    # Both the exit status and what is left are reported from inside, where the mount is seen.
    script = mount + '"$@"; echo "exit $?"; ls -A "$CAFFE_BATCH_HOME/runtimes"'
    if not can_mount():
        pytest.skip("this system lets its users mount no file system of their own")
    done = spawn(*NAMESPACE, "sh", "-c", script, "sh", *command(archive))
    assert "could not be unpacked: the disk is full (" in done.err
    assert done.out.endswith("exit 1\n.lock\n")


def test_unpacking_that_fails(
    home: Path,
    archive: Archive,
    program: Callable[[str, str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = program("dpkg-deb", "echo 'tar: x: Cannot write: No space left on device' >&2; exit 2")
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    with pytest.raises(InstallError, match=r"\.deb could not be unpacked: the disk is full"):
        install(archive)
    assert (runtimes.installed(), left_over(home)) == ({}, [])


@pytest.mark.parametrize("character", [":", ";", '"', "$"])
def test_data_directory_that_the_loader_would_misread(
    character: str, archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAFFE_BATCH_HOME", str(tmp_path / f"a{character}b"))
    with pytest.raises(InputError, match="its path contains"):
        install(archive)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a b"])
def test_bad_name(name: str, home: Path) -> None:
    with pytest.raises(InputError, match="can't be the name of a runtime"):
        runtimes.install(name)


def test_unknown_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(RuntimeMissingError, match="this machine is Linux on riscv64"):
        installation.this_architecture()


def test_killed_at_any_moment(home: Path, archive: Archive) -> None:
    """Kills the install in each of its steps, then lets one finish."""
    for step in STEPS:
        child = start(archive)
        assert child.stdout is not None
        while not child.stdout.readline().startswith(step):
            pass
        child.kill()
        child.communicate()
        for there in runtimes.installed().values():  # it was as good as done
            assert runtimes.inspect(there.runtime).engine_version == "1.0.0-stub"
            runtimes.remove(NAME)
    assert install(archive).record.caffe_version == "1.0.0-stub"
    install(archive, force=True)
    assert left_over(home) == []


#: Of an installation, as it tells them.
STEPS = ("Reading", "Downloading", "Unpacking", "Trying")


@pytest.mark.parametrize("step", STEPS)
def test_interrupted(step: str, home: Path, archive: Archive) -> None:
    child = start(archive)
    assert child.stdout is not None
    while not child.stdout.readline().startswith(step):
        pass
    os.killpg(child.pid, signal.SIGINT)  # as the terminal does
    _, said = child.communicate()
    assert "KeyboardInterrupt" in said
    assert (runtimes.installed(), left_over(home)) == ({}, [])


def test_two_at_once(home: Path, archive: Archive) -> None:
    with store.locked():
        children = [start(archive), start(archive)]
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline().startswith("Waiting for another install")
    printed = [child.communicate()[0] for child in children]
    assert [child.returncode for child in children] == [0, 0]
    assert sum("Unpacking" in each for each in printed) == 1
    assert [*runtimes.installed()] == [NAME]


def test_child_of_a_killed_install_keeps_the_lock(home: Path) -> None:
    """apt may outlive the install that started it; nobody may delete its folder meanwhile."""
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import subprocess; from caffe_batch.runtimes import store\n"
            "with store.locked() as lock:\n"
            "    child = subprocess.Popen(['sleep', 'infinity'], pass_fds=[lock])\n"
            "    print(child.pid, flush=True)\n"
            "    input()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    holder.kill()
    waited: list[str] = []

    def end_child(step: str, share: float) -> None:
        waited.append(step)
        os.kill(child, signal.SIGKILL)

    with store.locked(end_child):
        assert waited == ["Waiting for another install or remove to finish"]
    holder.communicate()
    with store.locked(lambda step, share: waited.append(step)):
        assert len(waited) == 1


@pytest.mark.slow  # downloads 160 MB
def test_real_install_as_an_ordinary_user(tmp_path: Path) -> None:
    """The whole way, from the host's mirror, with root's powers given up if there are any."""
    drop = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    prefix = drop if os.geteuid() == 0 else []
    folder = Path("/tmp") / f"caffe-batch-test-{os.getpid()}"
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    environment = {
        **os.environ,
        "HOME": str(folder),
        "CAFFE_BATCH_HOME": str(folder / "data"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }

    def run(*args: str) -> str:
        code = "from caffe_batch.cli.main import main; main()"
        return subprocess.run(
            [*prefix, sys.executable, "-c", code, "runtime", *args],
            env=environment,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout

    try:
        run("install")
        assert "Caffe:       1.0.0" in run("check")
        net = folder / "net.prototxt"
        net.write_text("""layer { name: "in" type: "Input" top: "in"
            input_param { shape { dim: 2 dim: 3 dim: 5 dim: 7 } } }
            layer { name: "sum" type: "Power" bottom: "in" top: "sum" }""")
        run("run", "--", "caffe", "time", f"--model={net}", "--iterations=2")
        root = folder / "data/runtimes/debian-11/root"
        special = [path for path in root.rglob("*") if path.lstat().st_mode & 0o6000]
        assert special == []
        run("remove", NAME)
        assert run("list") == ""
    finally:
        shutil.rmtree(folder)

"""The private apt: its settings, and that it accepts nothing that isn't signed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from caffe_batch.errors import InputError
from caffe_batch.runtimes import apt
from caffe_batch.runtimes.apt import Archive
from caffe_batch.runtimes.base import InstallError

ARCHIVE = Path(__file__).with_name("archive")
PACKAGES = ("python3-caffe", "libopenblas0-pthread")


def quiet(step: str, share: float) -> None:
    pass


def download(archive: Archive, folder: Path) -> list[Path]:
    folder.mkdir()
    with (folder / "lock").open("w") as lock:
        return apt.download(archive, PACKAGES, folder, lock.fileno(), quiet)


@pytest.fixture
def copy(archive: Archive, tmp_path: Path) -> Archive:
    """A copy of the archive, to be spoilt."""
    shutil.copytree(ARCHIVE, tmp_path / "copy")
    return replace(archive, mirror=f"file:{tmp_path / 'copy'}")


def test_sources_list() -> None:
    archive = Archive("https://mirror.example/debian", "bullseye", "arm64")
    assert archive.sources_list() == (
        "deb [arch=arm64 target=Packages] https://mirror.example/debian bullseye main\n"
    )


def test_packages_of_a_local_mirror_are_copied() -> None:
    archive = Archive("file:/srv/file:debian", "bullseye", "amd64")
    assert " copy:/srv/file:debian bullseye" in archive.sources_list()


def test_password_of_a_mirror_is_not_shown() -> None:
    archive = Archive("https://me:secret@mirror.example/debian", "bullseye", "amd64")
    assert archive.address == "https://mirror.example/debian"
    assert "me:secret@" in archive.sources_list()


@pytest.mark.parametrize("mirror", ["", "/srv/debian", "http://a b", "http://a [trusted=yes]"])
def test_mirror_that_is_not_an_address(mirror: str) -> None:
    with pytest.raises(InputError, match="is not the address of a Debian mirror"):
        Archive(mirror, "bullseye", "amd64")


def test_download_follows_dependencies(archive: Archive, tmp_path: Path) -> None:
    steps: list[tuple[str, float]] = []
    folder = tmp_path / "state"
    folder.mkdir()
    with (tmp_path / "lock").open("w") as lock:
        packages = apt.download(
            archive, PACKAGES, folder, lock.fileno(), lambda *seen: steps.append(seen)
        )
    assert [package.name.split("_")[0] for package in packages] == [
        "libopenblas0-pthread",
        "libstub",
        "python3-caffe",
    ]
    assert steps[0] == ("Reading the list of packages", 0)
    assert ("Downloading packages", 1.0) in steps


def test_unsigned_archive_is_refused(copy: Archive, tmp_path: Path) -> None:
    signed = tmp_path / "copy/dists/bullseye/InRelease"
    body = signed.read_text().split("\n\n", 1)[1].split("-----BEGIN PGP SIGNATURE")[0]
    signed.with_name("Release").write_text(body)
    signed.unlink()
    with pytest.raises(InstallError, match="is not signed"):
        download(copy, tmp_path / "state")
    assert not list((tmp_path / "state").rglob("*.deb"))


def test_strangers_signature_is_refused(archive: Archive, tmp_path: Path) -> None:
    stranger = replace(archive, keyring=ARCHIVE / "strangers_key.asc")
    with pytest.raises(InstallError, match=r"public key|not signed|Missing key"):
        download(stranger, tmp_path / "state")


def test_changed_release_file_is_refused(copy: Archive, tmp_path: Path) -> None:
    signed = tmp_path / "copy/dists/bullseye/InRelease"
    signed.write_text(signed.read_text().replace("Label: Debian", "Label: debian"))
    with pytest.raises(InstallError, match=r"(?i)signature|not signed"):
        download(copy, tmp_path / "state")


def test_changed_package_list_is_refused(copy: Archive, tmp_path: Path) -> None:
    for index in (tmp_path / "copy/dists").rglob("Packages"):
        index.write_text(index.read_text().replace("Description: stub", "Description: evil"))
    with pytest.raises(InstallError, match="Hash Sum mismatch"):
        download(copy, tmp_path / "state")


def test_changed_package_is_refused(copy: Archive, tmp_path: Path) -> None:
    (package,) = (tmp_path / "copy/pool").glob("libstub*")
    package.write_bytes(package.read_bytes()[:-1] + b"x")
    with pytest.raises(InstallError, match="Hash Sum mismatch"):
        download(copy, tmp_path / "state")


@pytest.fixture
def old(copy: Archive) -> Archive:
    """A mirror as it will be one day: with the newer releases, without the suite."""
    dists = Path(copy.mirror.removeprefix("file:")) / "dists"
    (dists / "bullseye").rename(dists / "trixie")
    (dists / "stable").symlink_to("trixie")
    return copy


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a web server that serves ``tmp_path``; apt asks it without a proxy."""
    (tmp_path / "direct.conf").write_text('Acquire::http::Proxy::127.0.0.1 "DIRECT";\n')
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "direct.conf"))
    handler = partial(SilentHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class SilentHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its name there
        pass


def check_suite_is_gone(archive: Archive, tmp_path: Path) -> None:
    with pytest.raises(InstallError, match="has no 'bullseye'") as caught:
        download(archive, tmp_path / "state")
    assert caught.value.message.startswith(f"the mirror {archive.mirror} has no 'bullseye'")
    for way_out in ("an archive mirror of Debian", "--mirror", "CAFFE_BATCH_MIRROR", "--build-arg"):
        assert way_out in str(caught.value.hint)


def test_suite_that_has_left_a_local_mirror(old: Archive, tmp_path: Path) -> None:
    check_suite_is_gone(old, tmp_path)


def test_suite_that_has_left_a_web_mirror(served: str, old: Archive, tmp_path: Path) -> None:
    check_suite_is_gone(replace(old, mirror=f"{served}/copy"), tmp_path)


def test_suite_is_gone_whoever_signed_the_others(old: Archive, tmp_path: Path) -> None:
    """The keys of a newer release may be unknown here."""
    check_suite_is_gone(replace(old, keyring=ARCHIVE / "strangers_key.asc"), tmp_path)


def test_archive_mirror_in_place_of_the_one_without_the_suite(
    served: str, copy: Archive, tmp_path: Path
) -> None:
    assert len(download(replace(copy, mirror=f"{served}/copy"), tmp_path / "state")) == 3


@pytest.mark.parametrize("address", ["{served}/wrong", "file:/no/such"])
def test_address_without_a_mirror(
    address: str, served: str, archive: Archive, tmp_path: Path
) -> None:
    mirror = address.format(served=served)
    with pytest.raises(InstallError, match="neither 'bullseye' nor 'stable' is there") as caught:
        download(replace(archive, mirror=mirror), tmp_path / "state")
    assert caught.value.message.startswith(f"there is no Debian mirror at {mirror}:")
    assert "the folder that holds dists/ and pool/" in str(caught.value.hint)


@pytest.mark.slow  # apt tries again, and again
@pytest.mark.parametrize("host", ["127.0.0.1:9", "no.such.host.invalid"])
def test_mirror_that_does_not_answer(host: str, archive: Archive, tmp_path: Path) -> None:
    with pytest.raises(InstallError, match="can't be reached") as caught:
        download(replace(archive, mirror=f"http://{host}/debian"), tmp_path / "state")
    assert caught.value.message.startswith(f"the mirror http://{host}/debian can't be reached:")
    assert "Check the network" in str(caught.value.hint)


def test_lax_host_settings_and_hooks_do_not_count(
    copy: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a host may have in its apt.conf, with the worst effects it could have here."""
    hook = f"touch '{tmp_path}/hooked'"
    (tmp_path / "conf").write_text(
        f'APT::Update::Pre-Invoke {{ "{hook}"; }};\nAPT::Update::Post-Invoke {{ "{hook}"; }};\n'
        f'APT::Update::Post-Invoke-Success {{ "{hook}"; }};\nAPT::Default-Release "nosuch";\n'
        'APT::Architectures { "armhf"; "i386"; };\nAcquire::AllowInsecureRepositories "true";\n'
        'APT::Get::AllowUnauthenticated "true";\nAcquire::http::Proxy "http://127.0.0.1:3128";\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "conf"))
    assert len(download(copy, tmp_path / "state")) == 3
    settings = subprocess.run(
        ["apt-config", "-c", tmp_path / "state/apt.conf", "dump"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert 'Acquire::http::Proxy "http://127.0.0.1:3128";' in settings
    (tmp_path / "copy/dists/bullseye/InRelease").unlink()
    with pytest.raises(InstallError, match="Release"):
        download(copy, tmp_path / "other state")
    assert not (tmp_path / "hooked").exists()


@pytest.mark.parametrize(
    "said",
    [
        "E: Write error - write (28: No space left on device)",
        "tar: ./usr/lib/x: Cannot write: No space left on device\ntar: Exiting with failure",
        "dpkg-deb: error: failed to write: Disk quota exceeded",
        "E: You don't have enough free space in /a/cache/archives/.",
    ],
)
def test_full_disk_is_told_apart(said: str, tmp_path: Path) -> None:
    error = apt.failure("it broke", said, tmp_path)
    assert "the disk is full" in error.message
    assert error.hint is not None
    assert "CAFFE_BATCH_HOME" in error.hint


def test_failure_shows_what_the_tool_said(tmp_path: Path) -> None:
    error = apt.failure("it broke", "Get:1 x\nE: no luck\nE: none at all\n", tmp_path)
    assert error.message == "it broke:\n  E: no luck\n  E: none at all"

"""What the host's apt is asked for: a mirror, and keys."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from caffe_batch.errors import RuntimeMissingError
from caffe_batch.runtimes import apt, host
from caffe_batch.runtimes.apt import Archive

DEBIAN = "Site: http://a.example/debian\nOrigin: Debian\nLabel: Debian\n"
SECURITY = "Site: http://a.example/debian-security\nOrigin: Debian\nLabel: Debian-Security\n"
BACKPORTS = "Site: http://b.example/debian\nOrigin: Debian\nLabel: Debian Backports\n"
UBUNTU = "Site: http://a.example/ubuntu\nOrigin: Ubuntu\nLabel: Ubuntu\n"
FORK = "Site: http://a.example/debian\nOrigin: Raspbian\nLabel: Raspbian\n"


@pytest.mark.parametrize(
    ("stanzas", "mirror"),
    [
        ([DEBIAN], "http://a.example/debian"),
        ([UBUNTU, SECURITY, BACKPORTS, FORK, DEBIAN], "http://a.example/debian"),
        ([UBUNTU], None),
        ([SECURITY, BACKPORTS], None),
        ([], None),
    ],
)
def test_mirror_by_origin(stanzas: list[str], mirror: str | None) -> None:
    assert host.mirror_by_origin("\n".join(stanzas)) == mirror


@pytest.mark.parametrize(
    ("sources", "mirror"),
    [
        (["http://a.example/debian"], "http://a.example/debian"),
        (
            ["http://a.example/debian-security", "http://b.example/debian/"],
            "http://b.example/debian",
        ),
        (["http://a.example/ubuntu"], None),
        (
            [f"mirror+file:/etc/apt/{name}.list" for name in ("debian-security", "debian")],
            "mirror+file:/etc/apt/debian.list",
        ),
    ],
)
def test_host_that_has_never_updated(
    sources: list[str], mirror: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a new container: the host's apt has sources and no lists."""
    lines = "".join(f"deb {source} trixie main\n" for source in sources)
    (tmp_path / "sources.list").write_text(lines)
    (tmp_path / "conf").write_text(
        f'Dir::Etc::sourcelist "{tmp_path}/sources.list"; Dir::Etc::sourceparts "/dev/null";\n'
        f'Dir::State "{tmp_path}";\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "conf"))
    if mirror:
        assert host.host_mirror() == mirror
    else:
        with pytest.raises(RuntimeMissingError, match="--mirror <your Debian mirror>"):
            host.host_mirror()


@pytest.mark.parametrize("present", ["apt-get", "dpkg-deb"])
def test_machine_without_apt(
    present: str, program: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (missing,) = {"apt-get", "dpkg-deb"} - {present}
    monkeypatch.setenv("PATH", str(program(present, "").parent))
    with pytest.raises(RuntimeMissingError, match=f"(?s)has no {missing}.*runtime=./path/to"):
        host.require_tools()


@pytest.mark.slow  # downloads
def test_keys_of_debian_come_from_a_package_where_they_are_missing(tmp_path: Path) -> None:
    """As on Ubuntu: the host's apt gets them, and Debian's real archive is trusted by them."""
    keyring = host.debian_keyring(tmp_path, system=tmp_path / "no system")
    assert keyring.is_relative_to(tmp_path)
    archive = Archive(host.host_mirror(), "bullseye", "amd64", keyring)
    folder = tmp_path / "state"
    folder.mkdir()
    with (tmp_path / "lock").open("w") as lock:
        packages = apt.download(
            archive, ("gcc-10-base",), folder, lock.fileno(), lambda *told: None
        )
    assert [package.name.split("_")[0] for package in packages] == ["gcc-10-base"]

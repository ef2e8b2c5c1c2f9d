"""The Dockerfile's own rules, and the list of GPU code in a library."""

from __future__ import annotations

import os
import re
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from tools.image.build import IMAGES, base_image
from tools.image.gpu_code import entries

ROOT = Path(__file__).resolve().parents[2]
FILES = [ROOT / "Dockerfile", ROOT / "compose.yaml", *sorted((ROOT / "docker").iterdir())]
DOCKERFILE = FILES[0].read_text()


def fat_binary(*pieces: tuple[int, int, bytes]) -> bytes:
    """As nvcc writes it: pieces of (kind, compute capability, code)."""
    body = b""
    for kind, capability, code in pieces:
        header = struct.pack("<HHIQ", kind, 0x101, 64, len(code)).ljust(28, b"\0")
        body += (header + struct.pack("<I", capability)).ljust(64, b"\0") + code
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body


def test_gpu_code_is_listed_in_all_fat_binaries() -> None:
    library = (
        b"\x7fELF" + b"\x50\xed\x55\xba chance"  # the magic number without a fat binary behind it
        + fat_binary((2, 60, b"code"), (2, 90, b"more code"), (1, 90, b"text"))
        + b"\0" * 5
        + fat_binary((2, 75, b""))
    )  # fmt: skip
    assert list(entries(library)) == ["sm_60", "sm_90", "compute_90", "sm_75"]


def test_every_stage_starts_from_one_base() -> None:
    assert base_image(DOCKERFILE) == "debian:12-slim"
    assert set(re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.MULTILINE)) >= set(IMAGES)
    with pytest.raises(ValueError, match="too many values"):
        base_image("FROM one\nFROM two\n")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_host_is_named(path: Path) -> None:
    assert re.findall(r"\w+://\S+|\b[\w-]+\.(?:org|com|io|net)/", path.read_text()) == []


@pytest.mark.parametrize("name", ["requirements", "requirements-build", "requirements-pycaffe"])
def test_python_packages_are_pinned_with_checksums(name: str) -> None:
    lines = (ROOT / "docker" / f"{name}.txt").read_text().replace("\\\n", " ").splitlines()
    packages = [line for line in lines if line and not line.lstrip().startswith("#")]
    assert packages
    for line in packages:
        assert re.match(r"[\w.-]+==[\w.]+ .*--hash=sha256:[0-9a-f]{64}", line)


def test_images_run_as_an_ordinary_user_and_leave_no_package_lists() -> None:
    for stage in IMAGES:
        instructions = DOCKERFILE.split(f" AS {stage}\n")[1].split("\nFROM ")[0]
        assert re.search(r"^USER [1-9]\d*$", instructions, re.MULTILINE)
    for command in re.findall(r"^RUN (?:.*\\\n)*.*", DOCKERFILE, re.MULTILINE):
        assert ("apt-get update" in command) == ("rm -rf /var/lib/apt/lists/*" in command)


def fetch_caffe(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the script with sources that name the small archive of tests/runtimes."""
    archive = ROOT / "tests" / "runtimes" / "archive"
    sources = tmp_path / "debian.sources"
    sources.write_text(
        f"Types: deb\nURIs: file:{archive}\nSuites: bookworm bookworm-updates\nComponents: main\n"
        f"Signed-By: {archive / 'key.asc'}\n\nTypes: deb\nURIs: file:/not/this/one\n"
    )
    return subprocess.run(
        [ROOT / "docker" / "fetch-caffe", sources, "1.0", *arguments],
        cwd=tmp_path,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
    )


def test_the_source_of_caffe_is_fetched_from_the_first_mirror(tmp_path: Path) -> None:
    """That archive is signed and has no source packages, which is as far as it goes here."""
    done = fetch_caffe(tmp_path)
    assert done.returncode == 1
    assert "does not have a Release file" not in done.stderr
    archive = ROOT / "tests" / "runtimes" / "archive"
    assert f"there is no source package caffe 1.0 at file:{archive}." in done.stderr


def test_a_mirror_without_debian_11_is_said_when_an_image_is_built(tmp_path: Path) -> None:
    done = fetch_caffe(tmp_path, f"file:{tmp_path}/mirror")
    assert done.returncode == 1
    assert "bullseye Release' does not have a Release file." in done.stderr
    assert f"there is no source package caffe 1.0 at file:{tmp_path}/mirror." in done.stderr
    assert "an archive mirror of Debian" in done.stderr
    assert "--build-arg CAFFE_BATCH_MIRROR=" in done.stderr


def test_the_images_are_for_jobs_that_end() -> None:
    """A volume that nobody mounts hides the results; nobody asks a batch job for its health."""
    assert re.findall(r"^(?:VOLUME|HEALTHCHECK) .*", DOCKERFILE, re.MULTILINE) == []


def interpolated(text: str, variables: Mapping[str, str]) -> str:
    """A compose file with its variables filled in, as the Compose Specification says it."""
    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda match: variables.get(match[1]) or match[2], text)


@pytest.mark.parametrize(
    ("variables", "user", "data"),
    [
        ({}, "1000:1000", ".:/data:ro"),
        ({"CAFFE_BATCH_USER": "1234:5", "CAFFE_BATCH_DATA": "/a/b"}, "1234:5", "/a/b:/data:ro"),
    ],
)
def test_compose(variables: dict[str, str], user: str, data: str) -> None:
    text = (ROOT / "compose.yaml").read_text()
    (service,) = yaml.safe_load(interpolated(text, variables))["services"].values()
    assert (service["user"], service["volumes"]) == (user, [".:/job", data])
    assert service["command"] == ["train", "job"]
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]


def test_compose_takes_no_variable_that_a_shell_keeps_to_itself() -> None:
    """bash sets UID and exports it not, so that compose would never see it."""
    text = (ROOT / "compose.yaml").read_text()
    names = set(re.findall(r"\$\{(\w+)", text))
    assert names
    for name in names:
        assert f'echo "{name}=' in text  # the comment says how to set it


def test_the_tests_of_packages_are_removed_and_nothing_else(tmp_path: Path) -> None:
    kept = [
        "lib/python3.11/test/support.py",  # the standard library's
        "lib/python3.11/site-packages/numpy/testing/__init__.py",
        "lib/python3.11/site-packages/numpy/latest.py",
        "share/tests/data",
    ]
    gone = [
        "lib/python3.11/site-packages/numpy/tests/test_it.py",
        "lib/python3.11/site-packages/numpy/linalg/tests/data/x.npy",
        "lib/python3/dist-packages/google/protobuf/test/y.py",
    ]
    for name in (*kept, *gone):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    subprocess.run([ROOT / "docker" / "strip-tests", tmp_path], check=True)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == set(kept)


def test_packages_are_compiled_only_as_far_as_they_are_used() -> None:
    """pip compiles all modules otherwise: twice the space, for modules that nobody imports."""
    installs = re.findall(r"pip --python /opt/caffe-batch install ([^\n]*)", DOCKERFILE)
    own = [line for line in installs if line.endswith("dist/*.whl")]
    assert len(installs) == 3
    assert all("--no-compile" in line for line in installs if line not in own)

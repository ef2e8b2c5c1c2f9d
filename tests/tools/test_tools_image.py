"""The Dockerfile's own rules, and the list of GPU code in a library."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("name", ["requirements", "requirements-pycaffe"])
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
        assert re.search(r"^HEALTHCHECK ", instructions, re.MULTILINE)
    for command in re.findall(r"^RUN (?:.*\\\n)*.*", DOCKERFILE, re.MULTILINE):
        assert ("apt-get update" in command) == ("rm -rf /var/lib/apt/lists/*" in command)

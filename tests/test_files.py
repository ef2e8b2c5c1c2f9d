"""Atomic writing of files."""

from __future__ import annotations

import math
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import pytest

from caffe_batch.files import read_regular, write_json, write_picture, write_text

OVER_THE_LIMIT = """
import resource, sys
from pathlib import Path
from caffe_batch.files import write_text
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_text(Path(sys.argv[1]), "x" * 100_000)
except OSError as error:
    print(error.filename)
"""


def test_writes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    write_text(path, "first\r\n")
    write_text(path, "zweite Fassung: Größe\n")
    assert path.read_bytes().decode() == "zweite Fassung: Größe\n"
    assert os.listdir(tmp_path) == ["net.prototxt"]


def test_the_umask_decides_who_may_read(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    before = os.umask(0o027)
    try:
        write_text(path, "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_what_is_not_a_regular_file_is_written_to() -> None:
    write_text(Path(os.devnull), "x")
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "net.prototxt"
    with pytest.raises(FileNotFoundError, match=r"missing/net\.prototxt"):
        write_text(path, "x")


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match=str(tmp_path)):
        write_text(tmp_path, "x")


def test_when_the_disk_takes_no_more_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text("the old one")
    done = subprocess.run(
        [sys.executable, "-c", OVER_THE_LIMIT, str(path)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == str(path)
    assert path.read_text() == "the old one"
    assert os.listdir(tmp_path) == ["net.prototxt"]


def test_a_picture_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    picture = tmp_path / "loss.png"
    write_picture(picture, lambda file: file.write(b"old"))

    def fail(file: BinaryIO) -> None:
        file.write(b"half of the new")
        raise ValueError("no such colour")

    with pytest.raises(ValueError, match="no such colour"):
        write_picture(picture, fail)
    assert picture.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["loss.png"]


def test_json_has_text_for_what_json_has_not(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"loss": [1.5, math.inf]})
    assert (tmp_path / "a.json").read_text() == '{\n  "loss": [\n    1.5,\n    "inf"\n  ]\n}\n'


def test_only_a_regular_file_is_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "fifo")
    assert read_regular(tmp_path / "file") == read_regular(tmp_path / "link") == b"x"
    for path in (tmp_path / "fifo", tmp_path, Path("/dev/zero"), Path("/dev/null")):
        with pytest.raises(OSError, match="not a regular file") as caught:
            read_regular(path)
        assert caught.value.filename == str(path)
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "none")

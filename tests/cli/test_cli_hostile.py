"""Names that a terminal or a plot would act on, on a real terminal and in a real training."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from tests.command import PROGRAM, call
from tests.planned_jobs import NET, write_job, write_lmdb

#: Sets the title of a terminal, which rich never does.
TITLE = r"\033]0;x\007"
SHOWN = r"\u001b]0;x"


def on_a_terminal(*command: object, cwd: Path) -> tuple[int, str]:
    """Exit code, and what a terminal gets."""
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [str(part) for part in command], cwd=cwd, stdin=theirs, stdout=theirs, stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "200"},
    )  # fmt: skip
    os.close(theirs)
    output = b""
    with suppress(OSError):  # EIO: the other side is closed
        while piece := os.read(ours, 4096):
            output += piece
    os.close(ours)
    return child.wait(), output.decode()


def test_names_on_a_terminal(tmp_path: Path) -> None:
    data = write_lmdb(tmp_path / "data")
    text = NET.format(data=data, batch_size=6, width=8).replace('"ip2"', f'"{TITLE}"')
    (tmp_path / "net.prototxt").write_text(text)
    (tmp_path / "bad.prototxt").write_text(text.replace("num_output: 4", "num_output: 0"))
    budget = ("--gpu-memory", "1GiB")
    for arguments, code in (
        (("memory", "net.prototxt"), 0),
        (("memory", "bad.prototxt"), 2),
        (("plan", "net.prototxt", *budget, "--effective-batch", 12, "--batch-size", 1), 0),
        (("plan", "net.prototxt", "--gpu-memory", "9KiB", "--reserve", 0), 3),
        (("strategies", "net.prototxt", *budget), 0),
        (("memory", "\x1b]0;x\x07"), 2),
    ):
        status, shown = on_a_terminal(PROGRAM, *arguments, cwd=tmp_path)
        assert status == code, shown
        assert "\x1b]" not in shown
        if "memory" in arguments:
            assert SHOWN in shown or repr("\x1b]0;x\x07") in shown, shown


def test_a_name_forges_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name of the net holds a line feed and a line of its own: it never begins a line."""
    monkeypatch.chdir(tmp_path)
    data = write_lmdb(tmp_path / "data")
    text = NET.format(data=data, batch_size=6, width=8)
    for name in ("data", "ip1", "ip2", "loss"):
        text = text.replace(f'"{name}"', rf'"{name}\nFORGED\t{name}"')
    text += r"""
        layer { name: "n\nFORGED" type: "BatchNorm" bottom: "ip1\nFORGED\tip1" top: "n\nFORGED" }
        layer { name: "d\nFORGED" type: "Dropout" bottom: "n\nFORGED" top: "n\nFORGED" }
        layer { name: "s\nFORGED" type: "Silence" bottom: "n\nFORGED" }"""
    (tmp_path / "net.prototxt").write_text(text)
    (tmp_path / "bad.prototxt").write_text(text.replace("num_output: 4", "num_output: 0"))
    (tmp_path / "new.prototxt").write_text(text.replace('"Dropout"', r'"New\nFORGED"'))
    budget = ("--gpu-memory", "1GiB")
    for arguments, code in (
        (("memory", "net.prototxt"), 0),
        (("memory", "net.prototxt", "--by", "type"), 0),
        (("memory", "bad.prototxt"), 2),
        (("memory", "new.prototxt"), 2),
        (("plan", "net.prototxt", *budget, "--effective-batch", 12, "--batch-size", 1), 0),
        (("plan", "new.prototxt", *budget), 2),
        (("plan", "net.prototxt", "--gpu-memory", "9KiB", "--reserve", 0), 3),
        (("strategies", "net.prototxt", *budget), 0),
    ):
        done = call(*arguments)
        shown = done.out + done.err
        assert done.code == code, shown
        assert "\t" not in shown
        assert not [line for line in shown.splitlines() if line.startswith("FORGED")], shown
        assert r"\nFORGED" in shown or "strategies" in arguments or "--by" in arguments


def test_a_file_name_forges_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither that of a list nor that of a mean file, in an error or a remark."""
    monkeypatch.chdir(tmp_path)
    Path("net.prototxt").write_text(r"""
        layer { name: "data" type: "ImageData" top: "data" top: "label"
          transform_param { mean_file: "m\nFORGED" }
          image_data_param { source: "l\nFORGED" batch_size: 2 new_height: 4 new_width: 4 } }
        layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
          inner_product_param { num_output: 4 } }
        layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" }""")
    listing = Path("l\nFORGED")
    for text in ("a.png 1\nb.png x\n", "", "a" * 10_000):
        listing.write_text(text)
        done = call("plan", "net.prototxt", "--gpu-memory", "1GiB")
        assert done.code == 2
        assert r"l\nFORGED" in done.err
        assert "\nFORGED" not in done.out + done.err


def test_names_in_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = write_lmdb(tmp_path / "data")
    text = NET.format(data=data, batch_size=6, width=8).replace('"ip2"', f'"{TITLE}名"')
    (tmp_path / "net.prototxt").write_text(text)
    content = json.loads(call("memory", "net.prototxt", "--json").out)
    assert "\x1b]0;x\x07名" in content["params"]


def test_a_training_ends_well_whatever_its_outputs_are_called(
    tmp_path: Path, runtime: object
) -> None:
    """A plot would read the name as a formula, and a broken one."""
    name = TITLE + r"$x_{\\frac$"
    data = write_lmdb(tmp_path / "data")
    text = NET.format(data=data, batch_size=6, width=8)
    text = text.replace('top: "accuracy"', f'top: "{name}"')
    job = write_job(tmp_path, max_iter=4, test_interval=2, net=text)
    status, shown = on_a_terminal(PROGRAM, "train", job.path, cwd=tmp_path)
    assert status == 0, shown
    assert "\x1b]" not in shown
    assert "Finished: 4 of 4 updates." in shown
    assert job.loss_plot.is_file()
    for command in ("status", "report"):
        done = call(command, job.path)
        assert done.code == 0
        assert "\x1b" not in done.out + done.err

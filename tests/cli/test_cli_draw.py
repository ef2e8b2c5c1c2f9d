"""``caffe-batch draw``: a picture beside the net, or where it is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command import call
from tests.reporting.test_net_layout import NET


def test_the_picture_has_the_nets_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("small.prototxt").write_text(NET)
    done = call("draw", "small.prototxt")
    assert (done.code, done.out, done.err) == (0, "", "wrote small.svg\n")
    assert Path("small.svg").read_text().count("(Convolution)") >= 2
    done = call("draw", "small.prototxt", "--batch-size", 2, "-o", "two.png")
    assert (done.code, done.err) == (0, "wrote two.png\n")


def test_what_cant_be_drawn_is_one_message(tmp_path: Path) -> None:
    net = tmp_path / "net.prototxt"
    net.write_text(NET)
    done = call("draw", net, "--phase", "test", "-o", tmp_path / "net.svg")
    assert done.code == 2
    assert done.err.startswith("caffe-batch: --phase test: the files have no test net")
    done = call("draw", tmp_path / "missing.prototxt")
    assert done.code == 2
    assert "missing.prototxt" in done.err

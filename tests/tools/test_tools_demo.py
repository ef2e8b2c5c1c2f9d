"""`make demo` and `train` where no pycaffe can be installed: PyTorch takes its place."""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.command import PROGRAM, spawn
from tests.planned_jobs import attempts_of, write_job
from tools import demo


def no_apt(folder: Path) -> dict[str, str]:
    """Another Linux, or macOS."""
    return {"PATH": str(folder)}


def ubuntu(folder: Path) -> dict[str, str]:
    """Its apt has sources, and none of them is Debian's."""
    for name, prints in {
        "apt-get": "Site: file:/srv/ubuntu\nOrigin: Ubuntu\nLabel: Ubuntu\n",
        "dpkg-deb": "",
    }.items():
        (folder / name).write_text(f"#!/bin/sh\ncat <<'END'\n{prints}END\n")
        (folder / name).chmod(0o755)
    return {"PATH": f"{folder}:/usr/bin:/bin"}


def without_the_suite(folder: Path) -> dict[str, str]:
    """A mirror that has dropped Debian 11."""
    (folder / "dists").mkdir()
    return {"CAFFE_BATCH_MIRROR": folder.as_uri().replace("file:///", "file:/")}


def another_machine(folder: Path) -> dict[str, str]:
    """Debian 11 has no packages for it."""
    (folder / "sitecustomize.py").write_text(
        "import platform\nplatform.machine = lambda: 'loongarch64'\n"
    )
    return {"PYTHONPATH": str(folder)}


PLACES: Mapping[str, Callable[[Path], dict[str, str]]] = {
    "no apt": no_apt,
    "Ubuntu": ubuntu,
    "a mirror without the suite": without_the_suite,
    "another machine": another_machine,
}


@pytest.mark.parametrize("place", PLACES)
def test_the_demo_takes_pytorch_where_no_pycaffe_can_be_installed(
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    place: str,
) -> None:
    folder = tmp_path / "place"
    folder.mkdir()
    monkeypatch.delenv("CAFFE_BATCH_MIRROR", raising=False)
    for name, value in PLACES[place](folder).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(demo, "DEMO", tmp_path)
    assert demo.find_engine("") == "pytorch"
    said = capfd.readouterr()
    assert said.out.strip() == "No pycaffe can be installed here: PyTorch trains instead."
    assert "Traceback" not in said.err
    assert "caffe-batch: " in said.err  # the reason


def test_a_demo_takes_the_engine_that_is_asked_for_or_none(
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(demo, "DEMO", tmp_path)
    assert demo.find_engine("pytorch") == "pytorch"
    assert capfd.readouterr() == ("", "")
    with pytest.raises(SystemExit) as stopped:
        demo.find_engine("caffe")
    assert stopped.value.code == 5
    assert "this machine has no apt-get and no dpkg-deb" in capfd.readouterr().err


@pytest.mark.parametrize("status", [2, 130])
def test_a_demo_that_is_interrupted_or_misused_goes_on_with_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr(demo, "DEMO", tmp_path)
    ended = subprocess.CompletedProcess[str]([], status)
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: ended)
    with pytest.raises(SystemExit) as stopped:
        demo.find_engine("")
    assert stopped.value.code == status


def test_a_demo_without_pytorch_says_what_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="PyTorch is missing; `pip install"):
        demo.find_engine("pytorch")


def test_train_takes_pytorch_where_no_caffe_is_installed(home: Path, tmp_path: Path) -> None:
    job = write_job(tmp_path, max_iter=2)
    done = spawn(PROGRAM, "train", job.path, "--quiet")
    assert done.code == 0, done.err
    assert "No Caffe was found: this Python has no module caffe" in done.err
    assert "PyTorch trains instead." in done.err
    assert [each.engine for each in attempts_of(job)] == ["pytorch"]

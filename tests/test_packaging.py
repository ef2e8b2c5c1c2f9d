"""The built wheel, installed elsewhere, has everything that the checkout has."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
SOURCES = ("caffe_batch", "templates", "prototxt", "pyproject.toml", "setup.py", "README.md")


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def call(*arguments: str, **options: object) -> str:
    done = subprocess.run(  # type: ignore[call-overload]
        [sys.executable, *arguments], capture_output=True, text=True, **options
    )
    assert done.returncode == 0, done.stderr
    output: str = done.stdout
    return output


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the wheel was installed; built as a release is: sdist, then wheel."""
    folder = tmp_path_factory.mktemp("packaging")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:  # a copy, so that the build leaves nothing in the checkout
        path = CHECKOUT / name
        if path.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(path, source / name, ignore=ignored)
        else:
            shutil.copy(path, source)
    call("-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), str(source))
    (wheel,) = (folder / "dist").glob("*.whl")
    target = folder / "installed"
    pip = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile"]
    call(*pip, "--target", str(target), str(wheel))
    return target


def run_installed(installed: Path, *arguments: str, cwd: Path) -> str:
    return call(*arguments, cwd=cwd, env={**os.environ, "PYTHONPATH": str(installed)})


@pytest.mark.parametrize("name", ["templates", "prototxt"])
def test_the_shared_folders_are_complete(installed: Path, tmp_path: Path, name: str) -> None:
    code = f"from caffe_batch import resources; print(resources.folder({name!r}))"
    folder = Path(run_installed(installed, "-c", code, cwd=tmp_path).strip())
    assert folder.is_relative_to(installed)
    assert files_below(folder) == files_below(CHECKOUT / name)


def test_the_package_is_complete(installed: Path) -> None:
    here = {name for name in files_below(CHECKOUT / "caffe_batch") if "__pycache__" not in name}
    there = {
        name
        for name in files_below(installed / "caffe_batch")
        if not name.startswith("share/") and "__pycache__" not in name
    }
    assert there == here


def test_commands_work_from_the_installed_place(installed: Path, tmp_path: Path) -> None:
    code = "from caffe_batch.cli.main import main; main()"
    command = ["-c", code, "render"]
    listed = run_installed(installed, *command, "--list", cwd=tmp_path)
    assert "resnet50" in listed
    net = run_installed(installed, *command, "resnet50", cwd=tmp_path)
    assert net.startswith('name: "ResNet-50"\n')


def test_the_program_is_installed(installed: Path, tmp_path: Path) -> None:
    program = installed / "bin" / "caffe-batch"
    version = run_installed(installed, str(program), "--version", cwd=tmp_path)
    assert version.startswith("caffe-batch, version ")

"""The built wheel, installed elsewhere, contains everything that the checkout does."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from caffe_batch import __version__

CHECKOUT = Path(__file__).resolve().parent.parent
SOURCES = (
    "caffe_batch", "templates", "prototxt", "pyproject.toml", "setup.py", "README.md", "LICENSE"
)  # fmt: skip


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
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel; built as a release is: the wheel from the sdist."""
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
    return folder / "dist"


@pytest.fixture(scope="module")
def installed(built: Path) -> Path:
    """A folder into which the wheel was installed."""
    (wheel,) = built.glob("*.whl")
    target = built.parent / "installed"
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


def test_plan_works_from_the_installed_place(installed: Path, tmp_path: Path) -> None:
    """Schema, templates and planning together."""
    program = str(installed / "bin" / "caffe-batch")
    arguments = ("caffenet", "--effective-batch", "256", "--gpu-memory", "2GiB")
    shape = ("--input-shape", "data=3x256x256")
    plan = run_installed(installed, program, "plan", *arguments, *shape, cwd=tmp_path)
    assert plan.startswith("effective batch 256 = batch_size 64 x iter_size 4, ")


def metadata(installed: Path) -> importlib.metadata.Distribution:
    (found,) = importlib.metadata.distributions(path=[str(installed)], name="caffe-batch")
    return found


def test_there_is_one_version(installed: Path, tmp_path: Path) -> None:
    """That of the wheel, of the installed program, and of a checkout that nobody installed."""
    assert metadata(installed).version == __version__
    said = f"caffe-batch, version {__version__}\n"
    program = installed / "bin" / "caffe-batch"
    assert run_installed(installed, str(program), "--version", cwd=tmp_path) == said
    shutil.copytree(CHECKOUT / "caffe_batch", tmp_path / "caffe_batch")
    assert call("-m", "caffe_batch", "--version", cwd=tmp_path) == said


def test_the_licence_is_in_the_wheel_and_in_the_sdist(installed: Path, built: Path) -> None:
    licence = (CHECKOUT / "LICENSE").read_text()
    found = metadata(installed)
    assert found.metadata["License-Expression"] == "BSD-2-Clause"
    assert found.metadata.get_all("License-File") == ["LICENSE"]
    assert found.read_text("licenses/LICENSE") == licence
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        member = archive.extractfile(f"{sdist.name.removesuffix('.tar.gz')}/LICENSE")
        assert member is not None
        assert member.read().decode() == licence


def test_the_sdist_is_complete(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        there = {name.partition("/")[2] for name in archive.getnames()}
    for folder in ("caffe_batch", "templates", "prototxt"):
        here = {f"{folder}/{name}" for name in files_below(CHECKOUT / folder)}
        assert {name for name in here if "__pycache__" not in name} <= there


def imported(path: Path) -> set[str]:
    """Top-level names of the modules that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return {name.partition(".")[0] for name in names}


def test_every_import_is_of_a_declared_package(installed: Path) -> None:
    """A package that is there only because another needs it may go away with that one."""
    files = (installed / "caffe_batch").rglob("*.py")
    names = set().union(*(imported(path) for path in files if path.parent.name != "inside"))
    standard = {*sys.stdlib_module_names, "tomllib"}  # since 3.11; tomli stands for it before
    requirements = metadata(installed).requires or []
    declared = {normal(re.split(r"[<>=~!; \[]", line)[0]) for line in requirements}
    packages = packages_by_module()
    foreign = names - standard - {"caffe_batch"}
    assert {"click", "google", "numpy", "torch"} <= foreign
    # One that isn't installed has its module's name.
    assert not [name for name in foreign if not packages.get(name, {normal(name)}) & declared]


def packages_by_module() -> dict[str, set[str]]:
    """Top-level module -> what it was installed with.

    ``importlib.metadata.packages_distributions`` leaves out most of them before Python 3.11.
    """
    packages: dict[str, set[str]] = {}
    for package in importlib.metadata.distributions():
        for name in {Path(file).parts[0].partition(".")[0] for file in package.files or ()}:
            packages.setdefault(name, set()).add(normal(package.metadata["Name"]))
    return packages


def normal(package: str) -> str:
    return package.lower().replace("_", "-")


def test_extras_that_are_named_exist(installed: Path) -> None:
    """In the documentation and in what the program says."""
    pages = [CHECKOUT / "README.md", *(CHECKOUT / "docs").glob("*.md")]
    texts = [path.read_text() for path in (*pages, *(CHECKOUT / "caffe_batch").rglob("*.py"))]
    named = re.compile(r"pip install (?:-e )?'(?:\.|caffe-batch)\[([\w,-]+)\]'")
    extras = {
        extra for text in texts for found in named.findall(text) for extra in found.split(",")
    }
    assert extras
    assert extras <= {*(metadata(installed).metadata.get_all("Provides-Extra") or ())}

"""Which runtime is used."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from caffe_batch import runtimes
from caffe_batch.errors import RuntimeMissingError
from caffe_batch.runtimes import inspection, installation
from caffe_batch.runtimes.apt import Archive
from caffe_batch.runtimes.container import container
from caffe_batch.runtimes.interpreter import Interpreter

#: An answer to the probe, for a program that stands for a Python with caffe.
ANSWER = """cat <<END | tr -d '\\n'
{"python_version": "3.8.1", "caffe_version": "1.0.0-rc5", "caffe_path": "x", "nccl": true,
 "numpy_version": "1.19.0", "layer_types": ["Data"], "import_s": 0.5, "gpu_message": null}
END"""

CAFFE = """
def layer_type_list(): return []
def set_mode_gpu(): pass
def set_device(device): pass
"""


@pytest.fixture
def caffe_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Gives this Python, and its children, a module caffe."""
    path = tmp_path / "modules" / "caffe.py"
    path.parent.mkdir()
    path.write_text(CAFFE)
    monkeypatch.syspath_prepend(path.parent)
    monkeypatch.setenv("PYTHONPATH", str(path.parent))
    inspection.forget()
    yield path
    inspection.forget()


@pytest.fixture
def installed(home: Path, archive: Archive) -> runtimes.Installed:
    return installation.install_from(
        archive, "debian-11", force=False, observer=lambda *seen: None, needed_bytes=0
    )


def test_nothing_there(home: Path) -> None:
    with pytest.raises(RuntimeMissingError, match="no module caffe, and no runtime is") as caught:
        runtimes.find()
    assert caught.value.hint is not None
    assert "caffe-batch runtime install" in caught.value.hint


def test_path(home: Path, program: Callable[[str, str], Path]) -> None:
    path = program("python", ANSWER)
    runtime = runtimes.find(str(path))
    assert runtime == Interpreter(str(path))
    assert runtime.command(["-c", "1"]) == [str(path), "-c", "1"]
    assert runtimes.inspect(runtime).engine_version == "1.0.0-rc5"


def test_relative_path(
    home: Path, program: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = program("python", ANSWER)
    monkeypatch.chdir(path.parent)
    assert runtimes.find("./python").name == str(path)


def test_link_of_a_virtual_environment_is_kept(
    home: Path, program: Callable[[str, str], Path], tmp_path: Path
) -> None:
    (tmp_path / "python").symlink_to(program("python3.8", ANSWER))
    assert runtimes.find(str(tmp_path / "python")).name == str(tmp_path / "python")


def test_name_on_the_path(
    home: Path, program: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = program("caffe-python", ANSWER)
    monkeypatch.setenv("PATH", str(path.parent), prepend=":")
    assert runtimes.find("caffe-python").name == str(path)


def test_variable(
    home: Path,
    program: Callable[[str, str], Path],
    installed: runtimes.Installed,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = program("python", ANSWER)
    monkeypatch.setenv(runtimes.VARIABLE, str(path))
    assert runtimes.find().name == str(path)
    assert runtimes.find("debian-11") == installed.runtime


def test_name_of_an_installed_one(installed: runtimes.Installed) -> None:
    assert runtimes.find("debian-11") == installed.runtime
    assert runtimes.find() == installed.runtime


def test_this_python_comes_before_an_installed_one(
    installed: runtimes.Installed, caffe_here: Path
) -> None:
    assert runtimes.find() == Interpreter(sys.executable)


def test_this_python_with_a_broken_caffe(installed: runtimes.Installed, caffe_here: Path) -> None:
    caffe_here.write_text("import no_such_module")
    assert runtimes.find() == installed.runtime


def test_this_python_with_a_broken_caffe_and_no_other(home: Path, caffe_here: Path) -> None:
    caffe_here.write_text("import no_such_module")
    with pytest.raises(RuntimeMissingError, match=r"(?s)no Caffe.*No module named 'no_such_mod"):
        runtimes.find()


def test_python_without_caffe(home: Path) -> None:
    with pytest.raises(RuntimeMissingError, match="No module named 'caffe'"):
        runtimes.find(sys.executable)


@pytest.mark.parametrize("spec", ["/no/such/python", "/etc/passwd", "/etc"])
def test_no_executable(spec: str, home: Path) -> None:
    with pytest.raises(RuntimeMissingError, match=f"the runtime {spec} is not an executable file"):
        runtimes.find(spec)


def test_unknown_name(installed: runtimes.Installed) -> None:
    with pytest.raises(RuntimeMissingError, match=r"(?s)'debian11' is neither.*mean debian-11\?"):
        runtimes.find("debian11")
    with pytest.raises(RuntimeMissingError, match=r"(?s)'xyz' is neither.*Installed: debian-11"):
        runtimes.find("xyz")


def test_unknown_name_and_none_installed(home: Path) -> None:
    with pytest.raises(RuntimeMissingError, match="No runtime is installed"):
        runtimes.find("xyz")


@pytest.mark.parametrize(
    ("path", "kept"),
    [("/a:/b", "/a:/b"), (":/a", "/a"), ("/a::b:", "/a:b"), (":", None), ("", None)],
)
def test_the_working_directory_is_on_no_path(
    path: str, kept: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", path)
    for runtime in (Interpreter("/usr/bin/python3"), container("docker:an/image")):
        assert runtime is not None
        assert runtime.environment().get("PYTHONPATH") == kept

"""What a runtime reports about itself: the real one, and stubs of those that aren't available."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from caffe_batch import runtimes
from caffe_batch.errors import RuntimeMissingError
from caffe_batch.runtimes import inspection
from caffe_batch.runtimes.interpreter import Interpreter

#: A caffe module as the probe sees one; GPU stands for what its first use of a GPU does.
STUB = """
import os

__version__ = "1.0.0-stub"

def layer_type_list():
    return ["ReLU", "Data"]

def set_mode_gpu():
    pass

def set_device(device):
    GPU

def has_nccl():
    return True
"""

ABORT = """os.write(2, b'''WARNING: Logging before InitGoogleLogging() is written to STDERR
F{date} 01:27:27.053592  8580 common.cpp:152] {why}
*** Check failure stack trace: ***
'''); os.abort()"""


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Interpreter]]:
    """A function that makes this Python a runtime whose caffe does that on its GPU."""

    def make(gpu: str) -> Interpreter:
        (tmp_path / "caffe.py").write_text(STUB.replace("GPU", gpu))
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        inspection.forget()
        return Interpreter(sys.executable)

    yield make
    inspection.forget()  # this Python is a runtime of other tests as well


def test_real_runtime(runtime: runtimes.Runtime) -> None:
    info = runtimes.inspect(runtime)
    assert info.engine_version == "1.0.0"
    assert tuple(map(int, info.python_version.split("."))) >= (3, 6)
    assert len(info.layer_types) == 61
    assert {"Convolution", "Python", "HDF5Data"} <= set(info.layer_types)
    assert info.layer_types == tuple(sorted(info.layer_types))
    assert 0 < info.import_s < 120
    assert info.gpu or info.gpu_problem is None


def test_installed_runtime_is_for_the_cpu(runtime: runtimes.Runtime) -> None:
    if runtime.name not in runtimes.installed():
        pytest.skip(f"the runtime in use is {runtime.name}, not an installed one")
    info = runtimes.inspect(runtime)
    assert (info.gpu, info.gpu_problem, info.nccl) == (False, None, False)


def test_gpu_works(stub: Callable[[str], Interpreter]) -> None:
    info = runtimes.inspect(stub("pass"))
    assert (info.gpu, info.gpu_problem, info.nccl) == (True, None, True)
    assert info.layer_types == ("Data", "ReLU")


@pytest.mark.parametrize("date", ["1123", "20261123"])  # glog 0.6 and newer write the year
def test_gpu_code_and_no_gpu(date: str, stub: Callable[[str], Interpreter]) -> None:
    why = "Check failed: error == cudaSuccess (38 vs. 0)  no CUDA-capable device is detected"
    info = runtimes.inspect(stub(ABORT.format(date=date, why=why)))
    assert (info.gpu, info.gpu_problem) == (True, why)


def test_gpu_that_raises(stub: Callable[[str], Interpreter]) -> None:
    info = runtimes.inspect(stub("raise RuntimeError('no luck')"))
    assert (info.gpu, info.gpu_problem) == (True, "RuntimeError: no luck")


def test_build_for_the_cpu(stub: Callable[[str], Interpreter]) -> None:
    why = "Cannot use GPU in CPU-only Caffe: check mode."
    info = runtimes.inspect(stub(ABORT.format(date="1123", why=why)))
    assert (info.gpu, info.gpu_problem) == (False, None)


def test_module_that_prints(stub: Callable[[str], Interpreter], tmp_path: Path) -> None:
    runtime = stub("pass")
    with (tmp_path / "caffe.py").open("a") as module:
        module.write("\nprint('Hello from caffe')\nimport atexit; atexit.register(lambda: None)\n")
    assert runtimes.inspect(runtime).engine_version == "1.0.0-stub"


def test_another_module_called_caffe(stub: Callable[[str], Interpreter], tmp_path: Path) -> None:
    runtime = stub("pass")
    (tmp_path / "caffe.py").write_text("")
    with pytest.raises(RuntimeMissingError, match=r"(?s)can't import caffe:.*layer_type_list"):
        runtimes.inspect(runtime)


def test_own_modules_do_not_hide_those_of_caffe(
    stub: Callable[[str], Interpreter], tmp_path: Path
) -> None:
    """The probe's folder has a base.py and a host.py; a caffe that imports its own gets them."""
    runtime = stub("pass")
    with (tmp_path / "caffe.py").open("a") as module:
        module.write("\nimport base\n__version__ = base.VERSION\n")
    (tmp_path / "base.py").write_text("VERSION = 'mine'")
    assert runtimes.inspect(runtime).engine_version == "mine"


def test_python_that_is_too_old(program: Callable[[str, str], Path]) -> None:
    old = program("python2.7", """echo '{"python_version": "2.7.18"}'""")
    with pytest.raises(RuntimeMissingError, match=r"is Python 2\.7\.18, and 3\.6 or newer"):
        runtimes.inspect(Interpreter(str(old)))


@pytest.mark.parametrize("answer", ["", "echo Hello", "echo '[1]'", "echo 17"])
def test_program_that_is_not_a_python(answer: str, program: Callable[[str, str], Path]) -> None:
    path = program("prog", answer)
    with pytest.raises(RuntimeMissingError, match="does not answer as a Python would"):
        runtimes.inspect(Interpreter(str(path)))


def test_last_lines_are_reported(program: Callable[[str, str], Path]) -> None:
    path = program("prog", "for i in 1 2 3 4 5; do echo line $i >&2; done; exit 1")
    with pytest.raises(RuntimeMissingError, match=r":\n  line 3\n  line 4\n  line 5\n"):
        runtimes.inspect(Interpreter(str(path)))


def test_hung_runtime(program: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "TIMEOUT_S", 0.2)
    path = program("prog", "exec sleep 60")
    with pytest.raises(RuntimeMissingError, match=r"did not import caffe within 0\.2 s"):
        runtimes.inspect(Interpreter(str(path)))


def test_file_that_is_not_a_program(tmp_path: Path) -> None:
    (tmp_path / "prog").write_bytes(b"\x7fELF")
    (tmp_path / "prog").chmod(0o755)
    with pytest.raises(RuntimeMissingError, match="can't be started: Exec format error"):
        runtimes.inspect(Interpreter(str(tmp_path / "prog")))

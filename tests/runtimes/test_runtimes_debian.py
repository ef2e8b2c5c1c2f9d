"""The unpacked Debian: how it is started, and that nothing of the host gets into it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from caffe_batch import runtimes
from caffe_batch.runtimes.debian import ARCHITECTURES, DebianRuntime


def run(runtime: runtimes.Runtime, code: str) -> str:
    return subprocess.run(
        runtime.command(["-c", code]),
        env=runtime.environment(),
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout


@pytest.fixture(scope="module")
def unpacked(runtime: runtimes.Runtime) -> DebianRuntime:
    if not isinstance(runtime, DebianRuntime):
        pytest.skip(f"the runtime in use is {runtime.name}, not an installed one")
    return runtime


@pytest.mark.parametrize(
    ("machine", "loader", "triplet"),
    [
        ("x86_64", "lib64/ld-linux-x86-64.so.2", "x86_64-linux-gnu"),
        ("aarch64", "lib/ld-linux-aarch64.so.1", "aarch64-linux-gnu"),
    ],
)
def test_command(machine: str, loader: str, triplet: str) -> None:
    runtime = DebianRuntime("x", Path("/r"), ARCHITECTURES[machine])
    libraries = f"/r/usr/lib/{triplet}/openblas-pthread:/r/usr/lib/{triplet}:/r/lib/{triplet}"
    assert runtime.command(["-c", "1"]) == [
        f"/r/{loader}",
        "--library-path",
        f"{libraries}:/r/usr/lib",
        "/r/usr/bin/python3.9",
        "-c",
        "1",
    ]


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONSTARTUP"):
        monkeypatch.setenv(name, "/host")
    monkeypatch.setenv("PYTHONPATH", "/host")
    monkeypatch.setenv("GLOG_minloglevel", "1")
    environment = DebianRuntime("x", Path("/r"), ARCHITECTURES["x86_64"]).environment()
    hosts = [name for name, value in environment.items() if value == "/host"]
    assert hosts == ["CAFFE_BATCH_PYTHONPATH"]
    assert environment["PYTHONHOME"] == "/r/usr"
    assert environment["PYTHONNOUSERSITE"] == "1"
    assert environment["GLOG_minloglevel"] == "1"


def test_no_library_of_the_host_is_loaded(unpacked: DebianRuntime) -> None:
    code = (
        "import caffe, json\n"
        "maps = [line.split(maxsplit=5)[5].strip() for line in open('/proc/self/maps')"
        " if '.so' in line]\n"
        "print(json.dumps(sorted(set(maps))))"
    )
    libraries = json.loads(run(unpacked, code))
    assert len(libraries) > 100
    root = str(unpacked.root.resolve())
    assert [library for library in libraries if not library.startswith(root)] == []
    assert any("openblas-pthread/libblas.so.3" in library for library in libraries)


def test_hosts_python_does_not_get_in(
    unpacked: DebianRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A PYTHONPATH with modules for another Python, a library to preload, a user's site."""
    (tmp_path / "numpy.py").write_text("raise RuntimeError('for another Python')")
    (tmp_path / "my_layers.py").write_text("ANSWER = 42")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:")
    monkeypatch.setenv("LD_PRELOAD", "/no/such/library.so")
    monkeypatch.setenv("PYTHONUSERBASE", str(tmp_path))
    code = "import caffe, my_layers, numpy; print(my_layers.ANSWER, numpy.__version__)"
    assert run(unpacked, code) == "42 1.19.5\n"


def test_matplotlib_settings_of_the_host_do_not_get_in(
    unpacked: DebianRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debian 12's own /etc/matplotlibrc is one that Debian 11's matplotlib can't read."""
    (tmp_path / "matplotlib").mkdir()
    settings = tmp_path / "matplotlib" / "matplotlibrc"
    settings.write_text('grid.color: "#b0b0b0"\n')
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("MATPLOTLIBRC", str(settings))
    assert run(unpacked, "import caffe; print(caffe.__version__)") == "1.0.0\n"


def test_root_leads_nowhere_else(unpacked: DebianRuntime) -> None:
    links = [path for path in unpacked.root.rglob("*") if path.is_symlink()]
    assert len(links) > 500
    assert [link for link in links if link.readlink().is_absolute()] == []


def test_file_names_are_utf_8(unpacked: DebianRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "POSIX")
    assert run(unpacked, "import os; print(os.fsencode('ä'))") == "b'\\xc3\\xa4'\n"


def test_blas_works(unpacked: DebianRuntime) -> None:
    code = "import numpy as n; a = n.arange(6.0).reshape(2, 3); print((a @ a.T).tolist())"
    assert run(unpacked, code) == "[[5.0, 14.0], [14.0, 50.0]]\n"

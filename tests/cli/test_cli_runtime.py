"""``caffe-batch runtime``: what goes to stdout and stderr, and the exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from caffe_batch import runtimes
from caffe_batch.runtimes import installation
from caffe_batch.runtimes.apt import Archive


def caffe_batch(*args: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs the program as a user does."""
    return subprocess.run(
        [Path(sys.executable).with_name("caffe-batch"), *args],
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


@pytest.fixture
def installed(home: Path, archive: Archive) -> runtimes.Installed:
    return installation.install_from(
        archive, "debian-11", force=False, observer=lambda *seen: None, needed_bytes=0
    )


def test_help_names_the_commands() -> None:
    said = caffe_batch("runtime", "--help").stdout
    assert [line.split()[0] for line in said.split("Commands:")[1].strip().splitlines()] == [
        "check",
        "install",
        "list",
        "remove",
        "run",
    ]


def test_installed_already(installed: runtimes.Installed) -> None:
    done = caffe_batch("runtime", "install")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("debian-11 is already installed: Caffe 1.0.0-stub (CPU), Python")


def test_archive_that_debian_did_not_sign(home: Path, archive: Archive) -> None:
    done = caffe_batch("runtime", "install", "--mirror", archive.mirror)
    assert done.returncode == 1
    # The second where the machine has no keys of Debian's, and no network to get them.
    refusals = (f"could not get the packages from {archive.mirror}", "the keys of Debian's archive")
    assert any(refusal in done.stderr for refusal in refusals)
    assert "Traceback" not in done.stderr
    assert caffe_batch("runtime", "list").stdout == ""


def test_mirror_from_the_environment(home: Path) -> None:
    done = caffe_batch("runtime", "install", CAFFE_BATCH_MIRROR="not an address")
    assert done.returncode == 2
    assert "'not an address' is not the address of a Debian mirror" in done.stderr


def test_no_apt(home: Path, tmp_path: Path) -> None:
    done = caffe_batch("runtime", "install", PATH=str(tmp_path))
    assert done.returncode == 5
    assert "this machine has no apt-get and no dpkg-deb" in done.stderr
    assert "--runtime /path/to/python" in done.stderr


def test_data_directory_that_cannot_be_made(archive: Archive, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = caffe_batch(
        "runtime", "install", "--mirror", archive.mirror, CAFFE_BATCH_HOME=str(tmp_path / "file")
    )
    assert done.returncode == 1
    assert "file/runtimes: Not a directory" in done.stderr
    assert "Traceback" not in done.stderr


def test_bars_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from caffe_batch.cli import runtime

    monkeypatch.setenv("FORCE_COLOR", "1")
    with runtime._observer() as observer:
        observer("Downloading packages", 0.25)
        observer("Downloading packages", 1.0)
        observer("Unpacking", 0.5)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Downloading packages" in printed.err
    assert "100%" in printed.err
    assert " 50%" in printed.err


def test_list(installed: runtimes.Installed) -> None:
    done = caffe_batch("runtime", "list")
    assert done.stdout.startswith("debian-11  Caffe 1.0.0-stub (CPU), Python 3.9.0, 6")
    (row,) = json.loads(caffe_batch("runtime", "list", "--json").stdout)
    assert (row["name"], row["caffe_version"]) == ("debian-11", "1.0.0-stub")
    assert row["folder"] == str(installed.folder)
    assert row["packages"]["python3-caffe"] == "2:1.0-1"
    assert (row["origin"], row["used"], row["problem"]) == ("installed", True, None)
    assert done.stdout.rstrip().endswith("; installed; used unless another one is named")


#: An answer to the probe, for a program that stands for a Python with a Caffe for GPUs.
GPU_PYTHON = """cat <<END | tr -d '\\n'
{"python_version": "3.11.2", "caffe_version": "1.0.0", "caffe_path": "/usr/local/caffe",
 "nccl": false, "numpy_version": "1.24.2", "layer_types": ["Data"], "import_s": 0.5,
 "gpu_message": null}
END"""


def test_list_in_the_image_for_gpus(home: Path, tmp_path: Path) -> None:
    """There the Python of caffe-batch has caffe itself; nothing is installed."""
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "caffe.py").write_text(
        "def layer_type_list(): return []\ndef set_mode_gpu(): pass\n"
        "def set_device(device): pass\n__version__ = '1.0.0'\n"
    )
    done = caffe_batch("runtime", "list", PYTHONPATH=str(modules))
    assert done.stderr == ""
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"{sys.executable}  Caffe 1.0.0 (GPU), Python ")
    assert line.endswith("; the Python of caffe-batch; used unless another one is named")
    (row,) = json.loads(caffe_batch("runtime", "list", "--json", PYTHONPATH=str(modules)).stdout)
    assert (row["name"], row["used"], row["gpu"]) == (sys.executable, True, True)


def test_list_with_a_runtime_named_by_the_environment(
    installed: runtimes.Installed, program: Callable[[str, str], Path]
) -> None:
    path = str(program("gpu-python", GPU_PYTHON))
    lines = caffe_batch("runtime", "list", CAFFE_BATCH_RUNTIME=path).stdout.splitlines()
    assert lines[0] == (
        f"{path}  Caffe 1.0.0 (GPU), Python 3.11.2; named by CAFFE_BATCH_RUNTIME; used unless "
        "another one is named"
    )
    assert lines[1].endswith("; installed")
    by_name = caffe_batch("runtime", "list", CAFFE_BATCH_RUNTIME="debian-11").stdout
    assert by_name.rstrip().endswith("; installed; used unless another one is named")


def test_list_where_the_environment_names_nothing_usable(installed: runtimes.Installed) -> None:
    """Commands then fail rather than use another one, and so says the list."""
    done = caffe_batch("runtime", "list", CAFFE_BATCH_RUNTIME="/no/such/python")
    first, second = done.stdout.splitlines()
    assert first.startswith("/no/such/python  named by CAFFE_BATCH_RUNTIME; can't be used: the ")
    assert second.endswith("; installed")
    assert done.stderr == "None of them is used: see the reasons.\n"
    assert [
        row["used"]
        for row in json.loads(
            caffe_batch("runtime", "list", "--json", CAFFE_BATCH_RUNTIME="/no/such/python").stdout
        )
    ] == [False, False]


def test_list_of_nothing(home: Path) -> None:
    done = caffe_batch("runtime", "list")
    assert (done.returncode, done.stdout) == (0, "")
    assert "Run `caffe-batch runtime install`" in done.stderr
    assert json.loads(caffe_batch("runtime", "list", "--json").stdout) == []


def test_check(runtime: runtimes.Runtime) -> None:
    done = caffe_batch("runtime", "check", runtime.name)
    rows = dict(line.split(":", 1) for line in done.stdout.splitlines())
    assert {title: text.strip().split()[0] for title, text in rows.items()} == {
        "Runtime": runtime.name,
        "Caffe": "1.0.0",
        "Python": rows["Python"].split()[0],
        "GPU": "no," if not runtimes.inspect(runtime).gpu else rows["GPU"].split()[0],
        "Multi-GPU": "yes" if runtimes.inspect(runtime).nccl else "no",
        "Layer types": "61",
        "Import": rows["Import"].split()[0],
    }


def test_check_as_json(runtime: runtimes.Runtime) -> None:
    row = json.loads(caffe_batch("runtime", "check", runtime.name, "--json").stdout)
    info = runtimes.inspect(runtime)
    assert row["name"] == runtime.name
    assert row["layer_types"] == list(info.layer_types)
    assert (row["gpu"], row["nccl"]) == (info.gpu, info.nccl)


def test_check_of_nothing(home: Path) -> None:
    done = caffe_batch("runtime", "check")
    assert (done.returncode, done.stdout) == (5, "")
    assert "Run `caffe-batch runtime install`" in done.stderr


def test_check_of_a_gpu_build(home: Path, program: Callable[[str, str], Path]) -> None:
    path = program(
        "python",
        """echo '{"python_version": "3.8.1", "caffe_version": "1.0.0", "caffe_path": "x","""
        """ "nccl": true, "numpy_version": "1", "layer_types": [], "import_s": 1,"""
        """ "gpu_message": "F1 no CUDA-capable device is detected"}'""",
    )
    said = caffe_batch("runtime", "check", str(path)).stdout
    assert "GPU:         built for it, but: F1 no CUDA-capable device is detected\n" in said
    assert "Multi-GPU:   yes (NCCL)\n" in said


def test_remove(installed: runtimes.Installed) -> None:
    done = caffe_batch("runtime", "remove", "debian-11")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "Removed debian-11.\n")
    assert not installed.folder.exists()
    done = caffe_batch("runtime", "remove", "debian-11")
    assert done.returncode == 2
    assert "there is no installed runtime 'debian-11'" in done.stderr

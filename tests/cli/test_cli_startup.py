"""The program starts fast and without any extra package; shell completion works."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from caffe_batch import __version__
from caffe_batch.cli.main import COMMANDS
from tests.command import PROGRAM, Result, call, spawn

#: Packages that take long to import; --help and the completion need none of them.
HEAVY = (
    "google", "h5py", "jinja2", "lmdb", "matplotlib", "numpy", "PIL", "platformdirs", "plyvel",
    "pynvml", "rich", "sklearn", "torch",
)  # fmt: skip

#: Packages of extras, and what only they need; a plain installation has none of them.
EXTRAS = ("h5py", "matplotlib", "numpy", "PIL", "plyvel", "pynvml", "scipy", "sklearn", "torch")

RUN = """
import sys

sys.modules.update(dict.fromkeys({blocked!r}))  # neither imported nor found, as if not installed
from caffe_batch.cli.main import main
for args in {calls!r}:
    try:
        main(args)
    except SystemExit as stop:
        if stop.code:
            print(f"{{args}} ended with {{stop.code}}", file=sys.stderr)
found = [name for name, module in sys.modules.items() if module]
print("modules:", *sorted({{name.partition(".")[0] for name in found}}))
"""


def run(
    calls: list[list[str]], cwd: Path, blocked: tuple[str, ...] = ()
) -> tuple[Result, set[str]]:
    """One child that makes these calls while some packages are missing, and what it imported.

    Calls that fail say so on stderr.
    """
    script = RUN.format(calls=calls, blocked=blocked)
    done = spawn(sys.executable, "-c", script, cwd=cwd, CAFFE_BATCH_HOME=str(cwd / "home"))
    assert done.code == 0, done.err
    return done, set(done.out.rpartition("modules: ")[2].split())


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    done, modules = run([["--help"], ["--version"]], tmp_path)
    assert done.err == ""
    assert modules.isdisjoint(HEAVY)
    assert f"caffe-batch, version {__version__}\n" in done.out
    for name, (_, line) in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(line)}$", done.out, re.MULTILINE)


def test_help_of_every_command_imports_nothing_heavy(tmp_path: Path) -> None:
    done, modules = run([[name, "--help"] for name in COMMANDS], tmp_path)
    assert done.err == ""
    assert modules.isdisjoint(HEAVY)
    for name in COMMANDS:
        assert f"Usage: caffe-batch {name} " in done.out


def test_everything_but_reading_data_works_without_extras(tmp_path: Path) -> None:
    budget = ["--gpu-memory", "5MiB", "--reserve", "0"]
    done, modules = run(
        [
            *([name, "--help"] for name in COMMANDS),
            ["render", "lenet_digits", "-D", "data=dummy", "-o", "net.prototxt"],
            ["memory", "net.prototxt"],
            ["memory", "net.prototxt", "--json"],
            ["plan", "net.prototxt", *budget],
            ["plan", "lenet_digits", *budget, "--input-shape", "data=1x8x8", "--out", "job"],
            ["runtime", "list"],
            ["doctor"],
        ],
        tmp_path,
        blocked=EXTRAS,
    )
    assert "ended with" not in done.err
    assert "Traceback" not in done.err
    assert modules.isdisjoint(EXTRAS)
    assert "Caffe requests " in done.out
    assert "Nothing is written without --out DIR." in done.out
    assert (tmp_path / "job" / "plan.json").is_file()


@pytest.mark.parametrize(
    ("blocked", "layer", "extra"),
    [
        ("h5py", 'type: "HDF5Data" hdf5_data_param { source: "list"', "hdf5"),
        ("PIL", 'type: "ImageData" image_data_param { source: "list"', "images"),
        ("plyvel", 'type: "Data" data_param { source: "db" backend: LEVELDB', "leveldb"),
    ],
)
def test_a_missing_extra_is_named(tmp_path: Path, blocked: str, layer: str, extra: str) -> None:
    (tmp_path / "list").write_text("a.file 1\n")
    (tmp_path / "db").mkdir()
    (tmp_path / "db" / "CURRENT").write_text("MANIFEST-000002\n")
    (tmp_path / "net.prototxt").write_text(
        f'layer {{ name: "data" top: "data" top: "label" {layer} batch_size: 4 }} }}'
    )
    done, _ = run([["memory", "net.prototxt"]], tmp_path, blocked=(blocked,))
    assert "ended with 2" in done.err
    assert f"Install it: pip install 'caffe-batch[{extra}]'." in done.err
    assert "--input-shape data=CxHxW" in done.err
    assert "Traceback" not in done.err


def test_planning_needs_no_drawing_and_no_arrays(tmp_path: Path) -> None:
    _, modules = run(
        [
            ["render", "lenet_digits", "-D", "data=dummy", "-o", "net.prototxt"],
            ["plan", "net.prototxt", "--gpu-memory", "5MiB", "--reserve", "0", "--json"],
        ],
        tmp_path,
    )
    assert modules.isdisjoint({"h5py", "matplotlib", "numpy", "PIL", "plyvel", "sklearn", "torch"})


def test_as_a_module(tmp_path: Path) -> None:
    done = spawn(sys.executable, "-m", "caffe_batch", "--version", cwd=tmp_path)
    assert done.out == f"caffe-batch, version {__version__}\n"


def test_without_a_command_the_overview_is_shown() -> None:
    done = call()
    assert done.code == 2
    assert "Usage: caffe-batch [OPTIONS] COMMAND [ARGS]..." in done.err
    assert all(line in done.err for _, line in COMMANDS.values())


# Completion


def complete(line: str) -> list[str]:
    """What the shell is told to offer for the last word of a command line."""
    words = line.split(" ")
    done = spawn(
        PROGRAM,
        COMP_WORDS=line,
        COMP_CWORD=str(len(words) - 1),
        _CAFFE_BATCH_COMPLETE="bash_complete",
    )
    assert done.err == ""
    return done.out.splitlines()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script(shell: str) -> None:
    # Click asks bash for its version; the script itself needs no shell to be there.
    done = spawn(PROGRAM, _CAFFE_BATCH_COMPLETE=f"{shell}_source")
    assert done.code == 0
    assert f"_CAFFE_BATCH_COMPLETE={shell}_complete" in done.out


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("caffe-batch pl", ["plain,plan"]),
        ("caffe-batch ", [f"plain,{name}" for name in COMMANDS]),
        ("caffe-batch plan --gpu", ["plain,--gpu-memory", "plain,--gpus", "plain,--gpu"]),
        ("caffe-batch plan mod", ["file,mod"]),
        ("caffe-batch plan net.prototxt --solver so", ["file,so"]),
        ("caffe-batch plan net.prototxt --out jo", ["dir,jo"]),
        ("caffe-batch memory mod", ["file,mod"]),
        ("caffe-batch train jo", ["file,jo"]),
    ],
)
def test_completion(line: str, offered: list[str]) -> None:
    assert complete(line) == offered


def test_bash_completes_commands_and_files(tmp_path: Path) -> None:
    """A real bash with the script: what it would offer after pressing the tab key."""
    (tmp_path / "models").mkdir()
    (tmp_path / "model.prototxt").touch()
    script = """
        eval "$(_CAFFE_BATCH_COMPLETE=bash_source "$0")"
        compopt() { options+=("$2"); }
        for line in "caffe-batch mem" "caffe-batch plan mod"; do
            COMP_WORDS=($line) COMP_CWORD=$(($(wc -w <<< "$line") - 1)) COMPREPLY=() options=()
            _caffe_batch_completion "$0"
            echo "${COMPREPLY[*]}|${options[*]}"
        done
    """
    done = spawn("bash", "-c", script, PROGRAM, cwd=tmp_path)
    # "default" tells bash to offer the file names itself.
    assert (done.out.splitlines(), done.err) == (["memory|", "|default"], "")


def test_json_of_a_child_is_utf8(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(
        'layer { name: "größe" type: "Input" top: "data" input_param { shape { dim: 2 } } }'
    )
    done = subprocess.run(
        [PROGRAM, "memory", "net.prototxt", "--json"],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
        capture_output=True,
        check=True,
    )
    assert json.loads(done.stdout)["layers"][0]["name"] == "größe"

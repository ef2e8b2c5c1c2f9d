"""``caffe-batch doctor``: exit code 0 whatever is missing, and what each item is needed for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from caffe_batch import runtimes


def doctor(*args: str, **variables: str) -> str:
    """What the program prints, run as a user does."""
    return subprocess.run(
        [Path(sys.executable).with_name("caffe-batch"), "doctor", *args],
        env={**os.environ, **variables},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout


def test_machine_with_a_runtime(runtime: runtimes.Runtime) -> None:
    said = doctor()
    assert f"Runtime:      {runtime.name}: Caffe 1.0.0" in said
    assert f"Python:       {'.'.join(map(str, sys.version_info[:3]))}, protobuf" in said
    assert "needed for: train\n" not in said


def test_json(runtime: runtimes.Runtime) -> None:
    found = json.loads(doctor("--json"))
    assert found["runtime"] == runtime.name
    assert found["runtime_info"]["engine_version"] == "1.0.0"
    assert found["free_bytes"] > 0
    assert {extra["package"] for extra in found["extras"]} >= {"h5py", "matplotlib"}
    assert {"source", "driver", "devices", "problem"} == set(found["gpus"])
    assert all({"what", "needed_for", "remedy"} == set(item) for item in found["missing"])


def test_machine_with_nothing(home: Path, tmp_path: Path) -> None:
    said = doctor(PATH=str(tmp_path))
    assert "Runtime:      none\n" in said
    assert "needed for: train\n    with --runtime /path/to/python, name a Python" in said
    assert not home.exists()


def test_broken_runtime(home: Path) -> None:
    found = json.loads(doctor("--json", CAFFE_BATCH_RUNTIME=sys.executable))
    assert found["runtime"] is None
    assert "No module named 'caffe'" in found["runtime_problem"]
    assert found["missing"][0]["needed_for"] == "train"

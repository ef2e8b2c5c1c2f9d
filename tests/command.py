"""Calls the program as its users do: in this process for speed, or as a child of its own."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caffe_batch.cli.main import main
from tests.holding import PATIENCE_S

PROGRAM = str(Path(sys.executable).with_name("caffe-batch"))

#: Runs the command after it as the root of a namespace, which may mount file systems of its own.
NAMESPACE = ("unshare", "--map-root-user", "--mount")


def can_mount() -> bool:
    """Whether this user may have such a namespace, and mount something there."""
    mount = [*NAMESPACE, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(mount, capture_output=True).returncode == 0


@dataclass(frozen=True)
class Result:
    """How a call ended: its exit code and what it printed."""

    code: int
    out: str
    err: str


def call(*args: object) -> Result:
    """The program in this process, with stdout and stderr that are no terminal."""
    out, err = io.StringIO(), io.StringIO()
    code: Any = 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main([str(arg) for arg in args])
        except SystemExit as stop:
            code = stop.code
    return Result(0 if code is None else code, out.getvalue(), err.getvalue())


def spawn(*command: object, cwd: Path | None = None, **variables: str) -> Result:
    """A real child with these environment variables added, run to its end."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="backslashreplace",
        timeout=PATIENCE_S,
    )
    return Result(done.returncode, done.stdout, done.stderr)


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder with its bytes, and every folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }

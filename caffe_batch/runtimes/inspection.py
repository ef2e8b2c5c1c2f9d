"""Asks a runtime what it is, by running an engine's probe under its Python."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from caffe_batch import engines
from caffe_batch.engines.base import Engine, RuntimeInfo
from caffe_batch.errors import Option, RuntimeMissingError
from caffe_batch.runtimes.base import Runtime

#: A cold import over a network file system can take minutes; a runtime may also hang.
TIMEOUT_S = 300

#: What was asked in this process, by runtime and name of the engine.
_ANSWERS: dict[tuple[Runtime, str], RuntimeInfo] = {}


def known(runtime: Runtime, engine: Engine) -> RuntimeInfo | None:
    """What a runtime has said about itself in this process; None if it wasn't asked."""
    return _ANSWERS.get((runtime, engine.name))


def forget() -> None:
    """Ask every runtime again, for one that has changed."""
    _ANSWERS.clear()


def inspect(runtime: Runtime, engine: Engine | None = None) -> RuntimeInfo:
    """What a runtime says about itself. Takes seconds, but is remembered in this process.

    Args:
        runtime: The Python to ask.
        engine: What it is to run; the default engine if None.

    Raises:
        RuntimeMissingError: It can't be started, or can't import the engine; with the last lines
            that it printed.
    """
    engine = engine or engines.find()
    info = known(runtime, engine) or _asked(runtime, engine)
    _ANSWERS[runtime, engine.name] = info
    return info


def _asked(runtime: Runtime, engine: Engine) -> RuntimeInfo:
    module = engine.module
    try:
        done = subprocess.run(
            runtime.command([str(engine.probe)]),
            env=runtime.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
        )
    except OSError as error:
        why = f"can't be started: {error.strerror}"
        raise _unusable(runtime, engine, why) from error
    except subprocess.TimeoutExpired as error:
        why = f"did not import {module} within {TIMEOUT_S} s"
        raise _unusable(runtime, engine, why) from error
    if done.returncode:
        lines = _last_lines(done.stderr or done.stdout)
        raise _unusable(runtime, engine, f"can't import {module}:\n{lines}")
    facts = _facts(done.stdout)
    if facts is None:
        output = _last_lines(done.stdout + done.stderr) or "  (nothing)"
        why = f"does not answer as a Python would; it printed:\n{output}"
        raise _unusable(runtime, engine, why)
    info = engine.runtime_info(facts)
    if isinstance(info, str):
        raise _unusable(runtime, engine, info)
    return info


def _facts(printed: str) -> dict[str, Any] | None:
    """The probe's answer in the output of a process, or None if there is none."""
    lines = printed.strip().splitlines()
    try:
        facts = json.loads(lines[-1] if lines else "")
    except ValueError:
        return None
    return facts if isinstance(facts, dict) and "python_version" in facts else None


def _last_lines(text: str, count: int = 3) -> str:
    """The last non-empty lines, indented."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return "\n".join(f"  {line}" for line in lines[-count:])


def _unusable(runtime: Runtime, engine: Engine, why: str) -> RuntimeMissingError:
    remedy = (
        "Run `caffe-batch runtime install` for one that works" if engine.installable
        else engine.remedy
    )  # fmt: skip
    return RuntimeMissingError(
        f"the runtime {runtime.name} {why}",
        hint=[f"{remedy}, or give another ", Option("runtime"), "."],
    )

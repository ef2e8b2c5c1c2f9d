"""Asks a runtime what it is, by running probe.py under its Python."""

from __future__ import annotations

import functools
import json
import re
import subprocess
from typing import Any

from caffe_batch.engines.caffe import INSIDE
from caffe_batch.errors import RuntimeMissingError
from caffe_batch.runtimes.base import Runtime, RuntimeInfo

PROBE = INSIDE / "probe.py"

#: A cold import over a network file system takes minutes; a runtime that hangs takes for ever.
TIMEOUT_S = 300

#: What Caffe says on any use of a GPU if it was built without (device_alternate.hpp).
_CPU_ONLY = "Cannot use GPU in CPU-only Caffe"


@functools.cache
def inspect(runtime: Runtime) -> RuntimeInfo:
    """What a runtime is. Takes seconds the first time; this process remembers the answer.

    Raises:
        RuntimeMissingError: It can't be started, or can't import caffe; with the last lines
            that it printed.
    """
    try:
        done = subprocess.run(
            runtime.command([str(PROBE)]),
            env=runtime.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
        )
    except OSError as error:
        raise _unusable(runtime, f"can't be started: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise _unusable(runtime, f"did not import caffe within {TIMEOUT_S} s") from error
    if done.returncode:
        raise _unusable(runtime, f"can't import caffe:\n{_last_lines(done.stderr or done.stdout)}")
    facts = _facts(done.stdout)
    if facts is None:
        said = _last_lines(done.stdout + done.stderr) or "  (nothing)"
        raise _unusable(runtime, f"does not answer as a Python would; it said:\n{said}")
    if "caffe_version" not in facts:
        raise _unusable(runtime, f"is Python {facts['python_version']}, and 3.6 or newer is needed")
    message = facts.pop("gpu_message")
    gpu = message is None or _CPU_ONLY not in message
    return RuntimeInfo(
        **{**facts, "layer_types": tuple(facts["layer_types"])},
        gpu=gpu,
        gpu_problem=_reason(message) if message and gpu else None,
    )


def _facts(printed: str) -> dict[str, Any] | None:
    """The probe's answer in what a process printed, or None if there is none."""
    lines = printed.strip().splitlines()
    try:
        facts = json.loads(lines[-1] if lines else "")
    except ValueError:
        return None
    return facts if isinstance(facts, dict) and "python_version" in facts else None


def _reason(log: str) -> str:
    """What glog's fatal line says, else the last line."""
    fatal = re.search(r"^F\d{4} [^]]*\] (.*)$", log, re.MULTILINE)
    return fatal[1] if fatal else _last_lines(log, count=1).strip()


def _last_lines(text: str, count: int = 3) -> str:
    """The last lines that say something, indented."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return "\n".join(f"  {line}" for line in lines[-count:])


def _unusable(runtime: Runtime, why: str) -> RuntimeMissingError:
    return RuntimeMissingError(
        f"the runtime {runtime.name} {why}",
        hint="Run `caffe-batch runtime install` for one that works, or give another with"
        " --runtime.",
    )

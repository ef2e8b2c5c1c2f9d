"""Runs other people's templates in a process of their own, with bounds on time and memory.

Jinja2's sandbox keeps a template away from files, modules and Python's internals. It doesn't keep
it from going on for ever or from filling the memory, not even while it is only read: constants are
calculated then. So whatever a template that isn't the package's own does, the process that renders
it ends.
"""

from __future__ import annotations

import os
import pickle
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from caffe_batch.errors import CaffeBatchError, InputError

T = TypeVar("T")

#: What such a process may take: seconds of CPU, and bytes of address space.
CPU_S = 10
MEMORY_BYTES = 1 << 30

#: Seconds after which it is ended even if it has hardly run.
_PATIENCE_S = 300

_START = (
    "import sys; sys.path[:] = sys.argv[1:]; import caffe_batch.rendering.apart as a; a.serve()"
)


def apart(what: str, work: Callable[..., T], *given: object) -> T:
    """What a function of this package returns, called in a process of its own.

    Args:
        what: The templates that it is about, for messages.
        work: A function of a module.
        given: Its arguments.

    Raises:
        InputError: It takes more time or memory than it may, or an argument is no plain value.
        CaffeBatchError: As ``work`` raises it.
    """
    try:
        request = pickle.dumps((CPU_S, MEMORY_BYTES, work, given))
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise InputError(f"{what} takes numbers, text, true, false and lists: {error}") from error
    command = [sys.executable, "-I", "-c", _START, *filter(None, sys.path)]
    try:
        done = subprocess.run(
            command,
            input=request,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_PATIENCE_S,
        )
        status = done.returncode
    except subprocess.TimeoutExpired:
        status = -signal.SIGXCPU
    if status == -signal.SIGXCPU:
        raise InputError(f"{what} takes more than {CPU_S} seconds", hint=_HINT)
    if status:
        raise InputError(f"{what} takes more than {MEMORY_BYTES >> 30} GiB of memory", hint=_HINT)
    answer: T | CaffeBatchError = pickle.loads(done.stdout)  # noqa: S301  # our child's
    if isinstance(answer, CaffeBatchError):
        raise answer
    return answer


_HINT = "Look for a loop without an end, or a text that grows."


def serve() -> None:
    """Answer one request, in the process that :func:`apart` starts."""
    answer: Any
    cpu_s, memory_bytes, work, given = pickle.load(sys.stdin.buffer)  # noqa: S301  # our parent's
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        answer = work(*given)
    except CaffeBatchError as error:
        answer = error
    sys.stdout.buffer.write(pickle.dumps(answer))
    sys.stdout.buffer.flush()
    os._exit(0)  # what is left in memory need not be taken down

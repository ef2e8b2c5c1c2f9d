"""Calculates several things at the same time, in copies of this process.

A copy has torch already, so that nobody waits for it to be imported again; and what one of them
dies of is nothing to the others.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator


def side_by_side(task: Callable[[int], None], number: int, processes: int | None) -> Iterator[int]:
    """Do tasks 0 to ``number`` - 1; yields how many have ended, each time that one has.

    Backward must not have run in this process: its threads would be missing in the copies.

    Args:
        task: Does one of them. In a copy it can only leave files behind; what it raises there ends
            that copy alone.
        number: How many there are.
        processes: How many copies there may be at once; None to do them all in this process.
    """
    if processes is None:
        for each in range(number):
            task(each)
            yield each + 1
        return
    running: set[int] = set()
    waiting = iter(range(number))
    for done in range(number):
        while len(running) < processes and (following := next(waiting, None)) is not None:
            running.add(_started(task, following))
        ended, _ = os.waitpid(-1, 0)
        running.discard(ended)
        yield done + 1


def _started(task: Callable[[int], None], number: int) -> int:
    """The process of a task."""
    sys.stderr.flush()
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        task(number)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)  # nothing of the process that it is a copy of is cleaned up here

"""Shell commands that the user gives."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping


def run_shell(command: str, environment: Mapping[str, str], output: int) -> str | None:
    """Run a shell command to its end, without input.

    Args:
        command: The argument of ``sh -c``.
        environment: Its whole environment.
        output: The file descriptor of its stdout.

    Returns:
        How it failed, as words to follow "the command"; None if it didn't.
    """
    try:
        status = subprocess.run(
            ["/bin/sh", "-c", command], env=environment, stdin=subprocess.DEVNULL, stdout=output
        ).returncode
    except OSError as failure:
        return f"couldn't be started: {failure.strerror}"
    if status == 0:
        return None
    return f"ended with {f'exit code {status}' if status > 0 else f'signal {-status}'}"

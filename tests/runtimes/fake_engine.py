"""Stands for the `docker` program: writes down its arguments and runs the command on this machine.

As with the real one, the container is no child that inherits files: it has a session of its own and
only the variables that are passed on; it gets the client's signals, but outlives a client that is
killed; `rm --force NAME` ends it. It sees only the folders that are mounted: a command that names
another one of this machine is refused.

    fake_engine.py FOLDER ARGUMENTS...
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

#: The program's own, which an image would have.
OWN = ("PATH", "HOME")


def values(arguments: Sequence[str], option: str) -> list[str]:
    """What stands behind every ``--option=``."""
    return [text.partition("=")[2] for text in arguments if text.startswith(f"--{option}=")]


def paths(argument: str) -> Iterator[Path]:
    """The absolute paths that an argument names: itself, or texts anywhere in its JSON."""
    if argument.startswith("/"):
        yield Path(argument)
        return
    try:
        waiting = [json.loads(argument)]
    except ValueError:
        return
    while waiting:
        value = waiting.pop()
        if isinstance(value, str) and value.startswith("/"):
            yield Path(value)
        elif isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)


def unseen(options: Sequence[str], command: Sequence[str]) -> list[Path]:
    """What a command names that isn't in the container."""
    mounts = [dict(field.partition("=")[::2] for field in mount.split(","))
              for mount in values(options, "mount")]  # fmt: skip
    shown = [Path(mount["target"]) for mount in mounts]
    named = [Path(text) for text in values(options, "workdir")]
    named += [path for argument in command for path in paths(argument)]
    return [
        path
        for path in named
        if path != Path(os.devnull) and not any(path.is_relative_to(folder) for folder in shown)
    ]


def run(folder: Path, arguments: list[str]) -> int:
    place = arguments.index("--entrypoint=sh")
    options, command = arguments[:place], arguments[place + 2 :]
    hidden = unseen(options, command)
    if hidden:
        sys.stderr.write(f"not in the container: {', '.join(map(str, hidden))}\n")
        return 125
    names = [*OWN, *values(options, "env")]
    child = subprocess.Popen(
        ["sh", *command],
        cwd=(values(options, "workdir") or ["/"])[0],
        env={name: os.environ[name] for name in names if name in os.environ},
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    for name in values(options, "name"):
        (folder / f"{name}.pid").write_text(str(child.pid))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, lambda number, frame: child.send_signal(number))
    status = child.wait()
    for name in values(options, "name"):
        (folder / f"{name}.pid").unlink(missing_ok=True)
    return status if status >= 0 else 128 - status


def remove(folder: Path, name: str) -> int:
    try:
        os.kill(int((folder / f"{name}.pid").read_text()), signal.SIGKILL)
    except (FileNotFoundError, ProcessLookupError):
        return 1
    return 0


def main() -> int:
    folder, arguments = Path(sys.argv[1]), sys.argv[2:]
    with (folder / "calls").open("a") as calls:
        calls.write(json.dumps(arguments) + "\n")
    if arguments[0] == "run":
        return run(folder, arguments[1:])
    return remove(folder, arguments[-1])


if __name__ == "__main__":
    sys.exit(main())

"""The worker's part of the log: it continues in a new file when the current one is large.

Caffe writes to file descriptors 1 and 2, so the new file takes their place (dup2): whatever is
written meanwhile ends up whole in either the old file or the new one. The names change after
that. A thread that was already writing may still add to the old file then.

Runs on the runtime's Python, 3.6 and newer.
"""

import os
import re


class WorkerLog:
    """The log that this process's stdout and stderr lead to.

    Args:
        path: The log; its older files are ``PATH.1``, ``PATH.2`` and so on.
        max_bytes: At this size a new file is started.
    """

    def __init__(self, path: str, max_bytes: int) -> None:
        self.path, self.max_bytes = path, max_bytes

    def rotate_if_large(self) -> None:
        """Continue in a new file if the current one has reached its size."""
        if os.fstat(2).st_size < self.max_bytes:
            return
        descriptor = os.open(_new(self.path), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.close(descriptor)
        change_names(self.path)

    def rejoin(self):
        # type: () -> None
        """Write where the log is now, if another process has continued it in a new file."""
        try:
            now = os.stat(self.path)
        except OSError:
            return  # it is being renamed
        own = os.fstat(2)
        if (now.st_dev, now.st_ino) == (own.st_dev, own.st_ino):
            return
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.close(descriptor)


def change_names(path: str) -> None:
    """Give the new file, if there is one, the log's name, and the log the next number.

    Called for a worker that was killed before it did, so that its last lines are in order.
    """
    if not os.path.exists(_new(path)):
        return
    if os.path.exists(path):
        os.rename(path, numbered(path, next_number(path)))
    os.replace(_new(path), path)


def numbered(path: str, number: int) -> str:
    """The name of an older file of a log."""
    return f"{path}.{number}"


def next_number(path: str) -> int:
    """The number of the next older file of a log: 1 if there is none yet."""
    folder, name = os.path.split(path)
    matches = [
        re.fullmatch(re.escape(name) + r"\.(\d+)", file) for file in os.listdir(folder or ".")
    ]
    return 1 + max([int(match.group(1)) for match in matches if match], default=0)


def _new(path: str) -> str:
    return path + ".new"

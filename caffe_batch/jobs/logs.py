"""The files of a job's log: ``caffe.log.1`` the oldest, ``caffe.log`` the present one.

The worker itself continues in a new file when the present one is large. It makes that as
``caffe.log.new``, and then changes the names (``worker_log.py`` of the engine).
"""

from __future__ import annotations

import re
from pathlib import Path


def log_files(log: Path) -> list[Path]:
    """The files of a log that are there, oldest first.

    Args:
        log: The present one.
    """
    matches = [
        re.fullmatch(re.escape(log.name) + r"\.(\d+)", file.name) for file in log.parent.iterdir()
    ]
    numbers = sorted(int(match[1]) for match in matches if match)
    older = (log.with_name(f"{log.name}.{number}") for number in numbers)
    return [file for file in (*older, log) if file.is_file()]


def all_log_files(log: Path) -> list[Path]:
    """The same, and the file that a worker had just begun when it was killed."""
    begun = log.with_name(f"{log.name}.new")
    return [*log_files(log), *([begun] if begun.is_file() else [])]

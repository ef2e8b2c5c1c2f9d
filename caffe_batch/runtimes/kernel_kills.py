"""The kernel's count of the processes that it has killed for memory: of a control group, or of all.

A kill is counted in the control group of its victim, version 1 or 2, whatever ran out of memory:
the group, one around it, or the machine (mm/oom_kill.c, mm/memcontrol.c).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class KillCounter:
    """Where the kernel counts what it kills for memory.

    Attributes:
        file: It has a line ``oom_kill N``.
        whole_machine: Whether it counts all processes, not those of one control group.
    """

    file: Path
    whole_machine: bool = False

    def read(self) -> int | None:
        """How many were killed since the machine or the group began; None if it doesn't tell."""
        try:
            found = re.search(r"^oom_kill (\d+)$", self.file.read_text("ascii"), re.MULTILINE)
        except OSError:
            return None
        return int(found[1]) if found else None


def kill_counter(pid: int) -> KillCounter:
    """The counter that a kill of this process shows in: of its control group if that has one.

    The process that is asked about must be one of this machine's and alive: one that is ending is
    in no group.
    """
    try:
        groups = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8", errors="replace")
    except OSError:
        groups = ""
    counters = [KillCounter(file) for file in counting_files(groups)]
    told = [counter for counter in counters if counter.read() is not None]
    return told[0] if told else KillCounter(Path("/proc/vmstat"), whole_machine=True)


def counting_files(groups: str) -> Iterator[Path]:
    """The files that may have the count, of what /proc/PID/cgroup says.

    The first group of version 1 has the processes that are in no group. That of version 2 has no
    count; what looks like it inside a container is the container's, and has one.

    >>> [str(path) for path in counting_files("4:memory:/job 7")]
    ['/sys/fs/cgroup/memory/job 7/memory.oom_control']
    >>> [str(path) for path in counting_files("4:memory:/")]
    []
    >>> [str(path) for path in counting_files("0::/user.slice/a.scope")]
    ['/sys/fs/cgroup/user.slice/a.scope/memory.events']
    """
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(",") and path != "/":
            yield _GROUPS / "memory" / path[1:] / "memory.oom_control"
        elif not controllers:
            yield _GROUPS / path[1:] / "memory.events"

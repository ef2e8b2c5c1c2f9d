"""The kernel's count of processes it has killed for lack of memory, in a control group or overall.

A kill is counted in the control group of its victim, version 1 or 2, whatever ran out of memory:
that group, one of its parents, or the machine (mm/oom_kill.c, mm/memcontrol.c).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class KillCounter:
    """Where the kernel counts the processes it kills for lack of memory.

    Attributes:
        file: Has a line ``oom_kill N``.
        whole_machine: Whether it counts all processes, not only those of one control group.
    """

    file: Path
    whole_machine: bool = False

    def read(self) -> int | None:
        """Kills since the machine booted or the group was made; None if the file has no count."""
        try:
            found = re.search(r"^oom_kill (\d+)$", self.file.read_text("ascii"), re.MULTILINE)
        except OSError:
            return None
        return int(found[1]) if found else None


def kill_counter(pid: int) -> KillCounter:
    """The counter in which a kill of this process shows: that of its control group if it has one.

    The process must be alive and on this machine; one that is ending belongs to no group.
    """
    try:
        groups = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8", errors="replace")
    except OSError:
        groups = ""
    counters = [KillCounter(file) for file in counting_files(groups)]
    working = [counter for counter in counters if counter.read() is not None]
    return working[0] if working else KillCounter(Path("/proc/vmstat"), whole_machine=True)


def counting_files(groups: str) -> Iterator[Path]:
    """The files that may hold the count, from the content of /proc/PID/cgroup.

    In version 1, the root group holds the processes that belong to no group. In version 2 it has
    no count; what looks like the root inside a container is the container's own group, and has one.

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

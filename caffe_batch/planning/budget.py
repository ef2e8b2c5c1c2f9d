"""The memory a run may use: a size, what is free on the GPU, or a share of that."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from caffe_batch.errors import InputError, Option
from caffe_batch.sizes import format_size, parse_size

#: What the CUDA context and the library handles take out of the budget unless --reserve says
#: otherwise: an assumption, larger than the contexts reported by users, not measured on a GPU.
DEFAULT_RESERVE_BYTES = 512 * 2**20

#: What a worker in CPU mode takes beside Caffe's own requests: Python with its modules, Caffe and
#: its libraries, the BLAS's work buffers. Measured on the pycaffe of Debian 11 that `caffe-batch
#: runtime install` installs (benchmarks/cpu_reserve.py: 78 to 80 MiB, without snapshots).
HOST_RESERVE_BYTES = 96 * 2**20

_SHARE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*%\s*")


@dataclass(frozen=True, slots=True)
class Budget:
    """The memory a run may use on each GPU, in bytes.

    Attributes:
        budget_bytes: What the user allows.
        reserve_bytes: The part of it that Caffe's own requests can't use: the CUDA context and
            library handles; in CPU mode the process itself and what a snapshot copies.
    """

    budget_bytes: int
    reserve_bytes: int

    @property
    def usable_bytes(self) -> int:
        """What Caffe's requests may take."""
        return self.budget_bytes - self.reserve_bytes

    def reserving(self, more_bytes: int) -> Budget:
        """The budget with a larger reserve.

        Raises:
            InputError: It leaves nothing.
        """
        return _budget(self.budget_bytes, self.reserve_bytes + more_bytes)


#: More than any machine has: for plans without a limit.
NO_LIMIT = Budget(2**62, 0)


def parse_budget(
    memory: str,
    reserve: str | None,
    free_bytes: Callable[[], int],
    default_reserve_bytes: int = DEFAULT_RESERVE_BYTES,
) -> Budget:
    """The budget from ``--gpu-memory`` and ``--reserve``.

    Args:
        memory: A size (``8GiB``), ``auto`` (all that is free), or a share of it (``80%``).
        reserve: A size, ``0``, or None for the default.
        free_bytes: Returns the free memory of the GPU; called only for ``auto`` and shares.
        default_reserve_bytes: The reserve if none is given.

    Raises:
        InputError: Not a size, no GPU to ask, or a reserve that leaves nothing.
    """
    share = _SHARE.fullmatch(memory)
    if memory.strip().lower() == "auto":
        budget = free_bytes()
    elif share:
        percent = float(share[1])
        if not 0 < percent <= 100:
            raise InputError(
                f"{memory} is not a share of the GPU's memory", hint="Give 1% to 100%, or a size."
            )
        budget = int(free_bytes() * percent / 100)
    else:
        budget = parse_size(memory)
    if reserve is None:
        kept = default_reserve_bytes
    else:
        kept = 0 if reserve.strip() == "0" else parse_size(reserve)
    return _budget(budget, kept)


def _budget(budget: int, kept: int) -> Budget:
    if kept >= budget:
        raise InputError(
            f"the reserve of {format_size(kept)} leaves nothing of {format_size(budget)}",
            hint=[
                "The reserve is for the CUDA context and library handles, or in CPU mode for the "
                "process itself and the copies that a snapshot makes; ",
                Option("reserve", 0),
                " plans only Caffe's own requests.",
            ],
        )
    return Budget(budget, kept)

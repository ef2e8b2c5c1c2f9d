"""Whether a torch is new enough, and whether its build has code for a GPU."""

from __future__ import annotations

import re
from collections.abc import Sequence

#: The oldest torch that runs the worker, as pyproject.toml has it.
OLDEST = "2.4"

_ARCHITECTURE = re.compile(r"(sm|compute)_(\d+)(\d)[a-z]?")


def is_older(version: str, than: str) -> bool:
    """Whether a version of torch comes before another; one that is no number doesn't.

    >>> is_older("2.3.1+cu121", "2.4"), is_older("2.13.0a0+git1", "2.4"), is_older("dev", "2.4")
    (True, False, False)
    """
    numbers = [re.findall(r"\d+", each.partition("+")[0])[:2] for each in (version, than)]
    mine, other = ([int(number) for number in each] for each in numbers)
    return bool(mine) and mine < other


def has_kernels(capability: tuple[int, int], architectures: Sequence[str]) -> bool:
    """Whether code for one of these architectures runs on a GPU.

    That for ``sm_XY`` runs where the major number is the same and the minor one not lower, and
    that for ``compute_XY`` is translated for any newer GPU.

    >>> has_kernels((8, 6), ["sm_75", "sm_80"]), has_kernels((7, 0), ["sm_75", "sm_80"])
    (True, False)
    >>> has_kernels((9, 0), ["sm_80", "compute_80"])
    True
    """
    for each in architectures:
        match = _ARCHITECTURE.fullmatch(each)
        if match:
            kind, made = match[1], (int(match[2]), int(match[3]))
            newer = made <= capability
            if newer and (kind == "compute" or made[0] == capability[0]):
                return True
    return False


def no_kernels(
    version: str, gpu: str, capability: tuple[int, int], architectures: Sequence[str]
) -> str:
    """Says that there is none, and what to install.

    Args:
        version: Of torch.
        gpu: The GPU, as it should be called.
        capability: Its compute capability.
        architectures: Those that torch has code for.
    """
    older = capability < (7, 5)
    remedy = (
        "torch 2.4 has kernels for older GPUs: pip install 'torch<2.5'" if older
        else "a newer torch may have them: pip install --upgrade torch"
    )  # fmt: skip
    return (
        f"torch {version} has no kernels for {gpu}, of compute capability "
        f"{capability[0]}.{capability[1]} (it has {', '.join(architectures)}); {remedy}"
    )

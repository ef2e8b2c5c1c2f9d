"""Lists the GPU code in a library, as ``cuobjdump --list-elf --list-ptx`` does, without CUDA.

    python gpu_code.py LIBRARY

nvcc writes fat binaries one after another: a header (magic number, version, its own size, the size
of what follows), then entries, each with its own header: the kind (1 is PTX, 2 is machine code),
the header's size, the size of the code and, at byte 28, the compute capability. NVIDIA does not
document the format; the result was checked against cuobjdump.
"""

from __future__ import annotations

import struct
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

MAGIC = struct.pack("<I", 0xBA55ED50)
KINDS = {1: "compute", 2: "sm"}


def entries(binary: bytes) -> Iterator[str]:
    """Each piece of GPU code in the bytes of a library: ``sm_90``, ``compute_90`` for PTX."""
    found = binary.find(MAGIC)
    while found >= 0:
        version, header, size = struct.unpack_from("<HHQ", binary, found + 4)
        end = found + header + size
        place = found + header
        if version != 1 or end > len(binary):  # the same four bytes, by chance
            end = found + len(MAGIC)
        while place + 32 <= end:
            kind, _, own, length = struct.unpack_from("<HHIQ", binary, place)
            (capability,) = struct.unpack_from("<I", binary, place + 28)
            if kind in KINDS:
                yield f"{KINDS[kind]}_{capability}"
            place += own + length
        found = binary.find(MAGIC, end)


def main() -> None:
    """Prints each architecture with the number of its pieces of code."""
    counted = Counter(entries(Path(sys.argv[1]).read_bytes()))
    for name in sorted(counted):
        print(f"{name:12}{counted[name]}")


if __name__ == "__main__":
    main()

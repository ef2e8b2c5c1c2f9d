"""Shapes that a user gives for a top: of one record without the batch, or whole."""

from __future__ import annotations

import re
from dataclasses import dataclass

#: What stands for the batch in a whole shape.
BATCH = "N"

_SIZE = re.compile(r"([0-9]{0,19})(N?)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class WholeShape:
    """A shape with all its axes, some of which may grow with the batch.

    >>> str(WholeShape.parse("128Nx5")), WholeShape.parse("128Nx5").at(2)
    ('128Nx5', (256, 5))

    Attributes:
        sizes: The length of each axis, of one sample where it grows with the batch.
        batch_axes: The axes that do.
    """

    sizes: tuple[int, ...]
    batch_axes: tuple[int, ...] = ()

    @classmethod
    def parse(cls, text: str) -> WholeShape:
        """The shape that a text such as ``Nx3x40x60``, ``128x5`` or ``128Nx5`` means.

        An empty text is a scalar.

        Raises:
            ValueError: It isn't one.
        """
        sizes, batch_axes = [], []
        for axis, part in enumerate(text.lower().split("x") if text else ()):
            match = _SIZE.fullmatch(part)
            if match is None or not part or (match[1] and int(match[1]) < 1):
                raise ValueError(text)
            sizes.append(int(match[1] or 1))
            if match[2]:
                batch_axes.append(axis)
        return cls(tuple(sizes), tuple(batch_axes))

    def at(self, batch: int) -> tuple[int, ...]:
        """The shape with a batch of this many samples."""
        return tuple(
            size * batch if axis in self.batch_axes else size
            for axis, size in enumerate(self.sizes)
        )

    def agrees(self, given: Given) -> bool:
        """Whether another shape can be the same one, for some batch."""
        if isinstance(given, tuple):
            return self.sizes[1:] == given
        pairs = zip(self.sizes, given.sizes, strict=False)
        both = {*self.batch_axes, *given.batch_axes}
        return len(self.sizes) == len(given.sizes) and all(
            axis in both or one == other for axis, (one, other) in enumerate(pairs)
        )

    def __str__(self) -> str:
        return "x".join(
            f"{'' if size == 1 else size}{BATCH}" if axis in self.batch_axes else str(size)
            for axis, size in enumerate(self.sizes)
        )


#: The shape of one record without the batch, or a whole one.
Given = tuple[int, ...] | WholeShape


def spelled(top: str, given: Given) -> str:
    """How a user writes it.

    >>> spelled("data", (3, 40, 60)), spelled("rois", WholeShape((128, 5)))
    ('data=3x40x60', 'rois:128x5')
    """
    if isinstance(given, WholeShape):
        return f"{top}:{given}"
    return f"{top}={'x'.join(map(str, given))}"

"""Fields, and values of enums, that Caffe 1.0 doesn't have and that were skipped on request."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

#: Messages whose fields change neither shapes nor memory.
_HARMLESS = frozenset(
    ("FillerParameter", "LossParameter", "NetState", "NetStateRule", "ParamSpec", "SolverParameter")
)


@dataclass(frozen=True, slots=True)
class SkippedField:
    """A field that was skipped.

    Attributes:
        file: The file, as the user named it, or None.
        line: 1-based.
        owner: The message that doesn't have it.
        name: Its name; ``pool: LEARNED`` if it is the value that the message doesn't have.
        layer: Index of its layer in the net in current syntax; None outside a layer.
        path: The field; relative to the layer if it is in one.
        batch: If it holds a ``batch_size``: the path of that, and the number.
        word: The value, if the message has the field but not this value of its enum.
    """

    file: str | None
    line: int
    owner: str
    name: str
    layer: int | None
    path: tuple[str | int, ...]
    batch: tuple[tuple[str | int, ...], int] | None = None
    word: str | None = None

    @property
    def matters(self) -> bool:
        """Whether it may change shapes or memory."""
        return self.layer is not None and self.owner not in _HARMLESS

    def json(self) -> dict[str, Any]:
        """The field in the JSON of ``memory`` and ``plan``."""
        return {
            "file": self.file,
            "line": self.line,
            "message": self.owner,
            "field": self.name,
            "matters": self.matters,
        }


def skipped_text(fields: Iterable[SkippedField]) -> str:
    """What was skipped that may change the memory, in a sentence; empty if nothing."""
    places: dict[str, list[SkippedField]] = {}
    for field in fields:
        if field.matters:
            places.setdefault(field.name, []).append(field)
    if not places:
        return ""
    listed = ", ".join(
        f"{name} (line {each[0].line}{f' and {len(each) - 1} more' if len(each) > 1 else ''})"
        for name, each in places.items()
    )
    return f"What these skipped fields do to shapes and memory isn't counted: {listed}."

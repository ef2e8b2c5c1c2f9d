"""What a check of the data found, and how much of the data was read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from caffe_batch.errors import InputError
from caffe_batch.terminal import one_line

#: Called with what is being read, how much of it has been read, and how much there is.
Progress = Callable[[str, int, int], None]


def no_progress(_what: str, _done: int, _all: int) -> None:
    """Reports nothing."""


class DataCheck(str, Enum):
    """How much of the data is looked at: none, a sample with both ends, or all of it."""

    NONE = "none"
    QUICK = "quick"
    ALL = "all"


class Level(str, Enum):
    """How bad a finding is: ERROR if Caffe aborts or writes to memory that isn't its own."""

    ERROR = "error"
    REMARK = "remark"


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a source.

    Attributes:
        file: The file or database, as the net names it, or as it was found.
        line: Line of a list, 1 for the first; None if the file has no lines.
        record: Which record, in words, such as ``row 39``; may be empty.
    """

    file: str
    line: int | None = None
    record: str = ""

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{where}, {self.record}" if self.record else where


@dataclass(frozen=True, slots=True)
class DataFinding:
    """Something in the data that Caffe won't accept, or won't use as intended.

    Attributes:
        level: Whether Caffe aborts because of it.
        layer: The layer that reads the data, or the one that can't take it.
        message: What was expected and what was found.
        place: Where; None if no file is at fault.
        hint: What to try.
        phases: The phases in which it happens: TRAIN, TEST or both.
    """

    level: Level
    layer: str
    message: str
    place: Place | None = None
    hint: str | None = None
    phases: tuple[str, ...] = ()

    def sentence(self) -> str:
        """Everything except the hint."""
        phase = f" ({self.phases[0]})" if len(self.phases) == 1 else ""
        where = f"{self.place}: " if self.place else ""
        return f"layer {self.layer!r}{phase}: {where}{self.message}"

    def json(self) -> dict[str, Any]:
        """As in plan.json."""
        place = self.place
        return {
            "level": self.level.value,
            "layer": self.layer,
            "phases": list(self.phases),
            "message": self.message,
            "file": place.file if place else None,
            "line": place.line if place else None,
            "record": (place.record or None) if place else None,
            "hint": self.hint,
        }


@dataclass(frozen=True, slots=True)
class Look:
    """How much of a source was read.

    Attributes:
        source: As the layer names it.
        records: How many records it has.
        read: How many of them were read.
    """

    source: str
    records: int
    read: int


@dataclass(frozen=True, slots=True)
class DataReport:
    """What a check of all the data of a recipe found.

    Attributes:
        findings: Errors first.
        looks: How much of each source was read.
        notes: What could not be checked, one sentence for each.
    """

    findings: tuple[DataFinding, ...] = ()
    looks: tuple[Look, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def errors(self) -> tuple[DataFinding, ...]:
        """What makes Caffe abort or write to memory that isn't its own."""
        return tuple(each for each in self.findings if each.level is Level.ERROR)

    @property
    def remarks(self) -> tuple[DataFinding, ...]:
        """What Caffe silently accepts."""
        return tuple(each for each in self.findings if each.level is Level.REMARK)

    def summary(self) -> str:
        """How much was read, in a sentence; empty if it was everything."""
        some = [
            f"{look.read:,} of the {look.records:,} records of {look.source!r}"
            for look in self.looks
            if look.read < look.records
        ]
        if not some:
            return ""
        return f"Only a sample of the data was checked: {', '.join(dict.fromkeys(some))}."

    def sentences(self) -> tuple[str, ...]:
        """How much was read, and the warnings."""
        summary = self.summary()
        return ((summary,) if summary else ()) + self.warnings()

    def warnings(self) -> tuple[str, ...]:
        """What could not be checked, and all remarks."""
        remarks = (
            " ".join(filter(None, [f"{each.sentence()}.", each.hint])) for each in self.remarks
        )
        return (*self.notes, *remarks)

    def raise_errors(self) -> None:
        """Raise an error for what would make Caffe abort.

        Raises:
            InputError: There are such findings. It names them all.
        """
        errors = self.errors
        if errors:
            raise InputError(
                "\n".join(one_line(each.sentence()) for each in errors),
                hint="\n".join(dict.fromkeys(each.hint for each in errors if each.hint)) or None,
            )

    def json(self) -> dict[str, Any]:
        """As in ``plan --json``."""
        return {
            "findings": [finding.json() for finding in self.findings],
            "looked_at": [
                {"source": look.source, "records": look.records, "read": look.read}
                for look in self.looks
            ],
            "notes": list(self.notes),
        }


class Tally:
    """The problems of one source; similar ones are counted instead of repeated."""

    def __init__(self) -> None:
        self._found: dict[tuple[Level, str], tuple[str, Place, str | None]] = {}
        self._counts: Counter[tuple[Level, str]] = Counter()

    def add(
        self, level: Level, kind: str, message: str, place: Place, hint: str | None = None
    ) -> None:
        """Note a problem; those of one ``kind`` are counted together."""
        self._found.setdefault((level, kind), (message, place, hint))
        self._counts[level, kind] += 1

    def findings(self, layer: str) -> tuple[DataFinding, ...]:
        """One finding for each kind: the first one, and how many more there are."""
        out = []
        for kind, (message, place, hint) in self._found.items():
            others = self._counts[kind] - 1
            more = f" (and {others:,} more like it)" if others else ""
            out.append(DataFinding(kind[0], layer, message + more, place, hint))
        return tuple(out)

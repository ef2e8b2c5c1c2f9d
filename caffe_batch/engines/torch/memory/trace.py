"""What a training allocates and frees, tensor by tensor, and what that adds up to.

A trace is a list of stretches: the building of a net, a forward pass, a backward pass, an update, a
test. Each belongs to one net, so that the stretches of the train net depend on its batch alone, and
those of a test net on its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, NamedTuple

from caffe_batch.memory.ledger import Part

#: The net of what belongs to the train net, or to the solver.
TRAIN = 0


class Stage(Enum):
    """What a training does in a stretch."""

    BUILD = "build"
    FORWARD = "forward"
    BACKWARD = "backward"
    UPDATE = "update"
    TEST = "test"


class Tensor(NamedTuple):
    """The memory of one tensor.

    Attributes:
        bytes: Its size.
        part: What it is for. Blobs are activations; what autograd keeps beside them, and what a
            layer only needs for a moment, are layer buffers; what Backward makes are gradients.
        place: The layer that made it: its index in :attr:`Trace.places`.
    """

    bytes: int
    part: Part
    place: int


class Freed(NamedTuple):
    """A tensor whose memory is given back.

    Attributes:
        stretch: The stretch that allocated it.
        number: Which of the tensors of that stretch it is.
    """

    stretch: int
    number: int


@dataclass(frozen=True)
class Stretch:
    """A part of a trace.

    Attributes:
        stage: What the training does.
        net: The net whose batch decides the sizes: 0 for the train net, then the test nets.
        tensors: What is allocated, in order.
        events: None for the next one of ``tensors``; what is freed, in between.
    """

    stage: Stage
    net: int
    tensors: tuple[Tensor, ...]
    events: tuple[Freed | None, ...]


class PlaceOf(NamedTuple):
    """A layer.

    Attributes:
        net: The number of its net.
        name, type: The layer's; empty for what belongs to no layer.
    """

    net: int
    name: str
    type: str


@dataclass(frozen=True)
class Trace:
    """All that a training allocates and frees.

    Attributes:
        places: The layers.
        stretches: In the order in which they happen.
    """

    places: tuple[PlaceOf, ...]
    stretches: tuple[Stretch, ...]

    def steps(self) -> Iterator[tuple[int, Stretch, Tensor | None, Freed]]:
        """All events: the stretch, what is allocated (None if it is freed), and which one it is."""
        for index, stretch in enumerate(self.stretches):
            number = 0
            for event in stretch.events:
                if event is None:
                    yield index, stretch, stretch.tensors[number], Freed(index, number)
                    number += 1
                else:
                    yield index, stretch, None, event

    def peak_bytes(self, stages: Iterable[Stage] = Stage) -> int:
        """The most that is alive at once while the training does one of these things."""
        wanted = {*stages}
        live, peak = 0, 0
        sizes = self._sizes()
        for _, stretch, tensor, which in self.steps():
            live += -sizes[which] if tensor is None else tensor.bytes
            if stretch.stage in wanted:
                peak = max(peak, live)
        return peak

    def at_peak(self) -> list[Tensor]:
        """The tensors that are alive when most is."""
        live, peak, last = 0, 0, 0
        sizes = self._sizes()
        for number, (_, _, tensor, which) in enumerate(self.steps()):
            live += -sizes[which] if tensor is None else tensor.bytes
            if live > peak:
                peak, last = live, number
        there: dict[Freed, Tensor] = {}
        for number, (_, _, tensor, which) in enumerate(self.steps()):
            if number > last:
                break
            if tensor is None:
                del there[which]
            else:
                there[which] = tensor
        return list(there.values())

    def _sizes(self) -> dict[Freed, int]:
        return {
            Freed(index, number): tensor.bytes
            for index, stretch in enumerate(self.stretches)
            for number, tensor in enumerate(stretch.tensors)
        }

    def with_net(self, net: int, other: Trace) -> Trace | None:
        """The same training with the stretches of one net as they are in another trace.

        Returns:
            None if the other one doesn't have the same stretches of this net, or these free what
            belongs to another net.
        """
        here = [i for i, each in enumerate(self.stretches) if each.net == net]
        there = [i for i, each in enumerate(other.stretches) if each.net == net]
        stages = [self.stretches[i].stage for i in here]
        if self.places != other.places or stages != [other.stretches[i].stage for i in there]:
            return None
        moved = dict(zip(there, here, strict=True))
        made = list(self.stretches)
        for old, new in moved.items():
            stretch = other.stretches[old]
            if any(event and event.stretch not in moved for event in stretch.events):
                return None
            events = [event and event._replace(stretch=moved[event.stretch])
                      for event in stretch.events]  # fmt: skip
            made[new] = replace(stretch, events=tuple(events))
        mixed = replace(self, stretches=tuple(made))
        return mixed if mixed.is_whole else None

    @property
    def is_whole(self) -> bool:
        """Whether everything is freed at most once, and only after it was allocated."""
        there: set[Freed] = set()
        for _, _, tensor, which in self.steps():
            if tensor is not None:
                there.add(which)
            elif which in there:
                there.remove(which)
            else:
                return False
        return True

    # As JSON

    def json(self) -> dict[str, Any]:
        """A value that :meth:`of_json` reads."""
        return {
            "places": [list(place) for place in self.places],
            "stretches": [
                {
                    "stage": stretch.stage.value,
                    "net": stretch.net,
                    "bytes": [tensor.bytes for tensor in stretch.tensors],
                    "parts": [int(tensor.part) for tensor in stretch.tensors],
                    "of": [tensor.place for tensor in stretch.tensors],
                    "events": [None if each is None else list(each) for each in stretch.events],
                }
                for stretch in self.stretches
            ],
        }

    @classmethod
    def of_json(cls, value: Mapping[str, Any]) -> Trace:
        """The trace of a value that :meth:`json` gave.

        Raises:
            KeyError, TypeError, ValueError: It isn't one.
        """
        return cls(
            tuple([PlaceOf(*place) for place in value["places"]]),
            tuple([
                Stretch(
                    Stage(each["stage"]),
                    each["net"],
                    tuple([
                        Tensor(size, Part(part), place)
                        for size, part, place in zip(
                            each["bytes"], each["parts"], each["of"], strict=True
                        )
                    ]),
                    tuple([None if event is None else Freed(*event) for event in each["events"]]),
                )
                for each in value["stretches"]
            ]),
        )  # fmt: skip


class Line:
    """The trace at all batch sizes of one net between two that were counted.

    A tensor's size is a constant plus a multiple of the batch size. So what is known at two sizes
    is known at all sizes between them, if a third one shows that it is so.

    Args:
        net: The net whose batch size it is.
        first, last: The smallest size with its trace, and the largest.
    """

    def __init__(self, net: int, first: tuple[int, Trace], last: tuple[int, Trace]) -> None:
        self._net = net
        self.low, self._first = first
        self.high, self._last = last
        alike = [
            [(s.stage, s.net, s.events, [t[1:] for t in s.tensors])
             for s in trace.stretches if s.net == net]
            for _, trace in (first, last)
        ]  # fmt: skip
        self._alike = alike[0] == alike[1] and self._first.places == self._last.places

    def at(self, size: int) -> Trace | None:
        """The trace at a size; the other nets are as in the first one. None if there is no line."""
        if not self._alike:
            return None
        ends = [[s for s in trace.stretches if s.net == self._net]
                for trace in (self._first, self._last)]  # fmt: skip
        made = []
        for one, other in zip(*ends, strict=True):
            tensors = self._between(one.tensors, other.tensors, size)
            if tensors is None:
                return None
            made.append(replace(one, tensors=tensors))
        rest = iter(made)
        stretches = [next(rest) if s.net == self._net else s for s in self._first.stretches]
        return replace(self._first, stretches=tuple(stretches))

    def agrees(self, size: int, trace: Trace) -> bool:
        """Whether a counted trace is what the line says."""
        found = self.at(size)
        return found is not None and [s for s in found.stretches if s.net == self._net] == [
            s for s in trace.stretches if s.net == self._net
        ]

    def _between(
        self, first: Sequence[Tensor], last: Sequence[Tensor], size: int
    ) -> tuple[Tensor, ...] | None:
        part, whole = size - self.low, self.high - self.low
        made = []
        for one, other in zip(first, last, strict=True):
            grown = (other.bytes - one.bytes) * part
            if grown % whole:
                return None
            made.append(one._replace(bytes=one.bytes + grown // whole))
        return tuple(made)

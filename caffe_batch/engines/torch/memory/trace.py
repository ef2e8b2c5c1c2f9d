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
            None if the two don't have the same stretches.
        """
        if [(s.stage, s.net) for s in self.stretches] != [
            (s.stage, s.net) for s in other.stretches
        ] or self.places != other.places:
            return None
        pairs = zip(self.stretches, other.stretches, strict=True)
        made = tuple(theirs if theirs.net == net else own for own, theirs in pairs)
        mixed = replace(self, stretches=made)
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


def between(known: Mapping[int, Trace], net: int, size: int) -> Trace | None:
    """The trace at a batch size between three counted ones.

    A tensor's size is a constant plus a multiple of the batch size. So what is known at two sizes
    is known at all sizes between them, if a third one shows that it is so.

    Args:
        known: Three traces by the batch size of the net; its other nets are alike in all of them.
        net: The net whose batch size it is.
        size: A size between the smallest and the largest.

    Returns:
        None where the traces differ in more than sizes, or these aren't on a line.
    """
    (low, first), (middle, second), (high, third) = sorted(known.items())
    made = _on_line(first, third, net, size - low, high - low)
    check = _on_line(first, third, net, middle - low, high - low)
    return made if made is not None and check == second else None


def _on_line(first: Trace, last: Trace, net: int, part: int, whole: int) -> Trace | None:
    if first.places != last.places or len(first.stretches) != len(last.stretches):
        return None
    made: list[Stretch] = []
    for one, other in zip(first.stretches, last.stretches, strict=True):
        if one.net != net:
            made.append(one)
            continue
        if (one.stage, one.net, one.events) != (other.stage, other.net, other.events):
            return None
        tensors = _tensors_on_line(one.tensors, other.tensors, part, whole)
        if tensors is None:
            return None
        made.append(replace(one, tensors=tensors))
    return replace(first, stretches=tuple(made))


def _tensors_on_line(
    first: Sequence[Tensor], last: Sequence[Tensor], part: int, whole: int
) -> tuple[Tensor, ...] | None:
    made = []
    for one, other in zip(first, last, strict=True):
        grown = (other.bytes - one.bytes) * part
        if one[1:] != other[1:] or grown % whole:
            return None
        made.append(one._replace(bytes=one.bytes + grown // whole))
    return tuple(made)

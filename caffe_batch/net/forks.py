"""Which fork of Caffe a net is written for: as the user says, or by its types and fields."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass

from google.protobuf.message import Message

from caffe_batch.layers.forks import ALIKE, DIFFERENT, FORKS
from caffe_batch.net.kinds import is_python, kind
from caffe_batch.schema import caffe_pb2
from caffe_batch.schema.fork_fields import FORK_FIELDS

#: The forks that have each type that Caffe 1.0 lacks.
_FORKS_OF_TYPE = {
    **{rule.type: rule.forks for rule in ALIKE},
    **{kind: tuple({f for rule in rules for f in rule.forks}) for kind, rules in DIFFERENT.items()},
}
#: What a fork without a name has as well, in its own way: it speaks for none.
_SILENT = frozenset(
    name
    for kind, rules in DIFFERENT.items()
    if not all(rule.forks for rule in rules)
    for name in (kind, *(rule.message for rule in rules))
)
#: How many pieces of evidence a sentence names.
_NAMED = 4


@dataclass(frozen=True, slots=True)
class ForkChoice:
    """The fork that a net's types are taken from.

    Attributes:
        name: One of :data:`~caffe_batch.layers.forks.FORKS`; None if only types of other forks
            were found.
        given: Whether the user said so.
        evidence: The types and fields of forks in the net, in order.
        foreign: Those of them that the fork lacks.
    """

    name: str | None
    given: bool
    evidence: tuple[str, ...]
    foreign: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """What the choice rests on; empty if the net has nothing of a fork."""
        what = _listed(self.evidence)
        if not self.evidence:
            return ""
        if self.name is None:
            return f"{what}: not in Caffe 1.0; to train the net, a Caffe must be a fork with these"
        how = "as --fork says" if self.given else "--fork chooses another one"
        also = f" with {_listed(self.foreign)} added to it" if self.foreign else ""
        trains = f"a Caffe that trains it must be that fork{also}"
        return f"{what}: read as in the fork {self.name} ({how}); {trains}"

    def json(self) -> dict[str, object]:
        """As in the JSON of commands."""
        return {"name": self.name, "given": self.given, "evidence": list(self.evidence)}


def choose_fork(
    nets: Sequence[caffe_pb2.NetParameter], given: str | None, own: Container[str] = ()
) -> ForkChoice | None:
    """The fork whose types some nets use; None if they use none that Caffe 1.0 lacks.

    Each type and each field speaks for the forks that have it; the fork with the most of them wins.

    Args:
        nets: The train net and the test nets.
        given: What the user says.
        own: Types that have a rule of the user's; what these layers are says nothing.
    """
    layers = [layer for net in nets for layer in net.layer if kind(layer) not in own]
    found = {}
    for layer in layers:
        forks = _FORKS_OF_TYPE.get(kind(layer))
        if forks is not None and (forks or not is_python(layer)):  # those run in any Caffe
            found[_of_layer(layer)] = forks
    for layer in layers:
        found.update(_fields(layer))
    if given is None and not found:
        return None
    votes = Counter(
        fork for piece, forks in found.items() if piece not in _SILENT for fork in forks
    )
    guess = max(FORKS, key=lambda fork: votes[fork]) if votes else None
    name = given or guess
    python = {_of_layer(layer) for layer in layers if is_python(layer)}
    foreign = tuple(p for p, forks in found.items() if name not in forks and p not in python)
    return ForkChoice(name, given=given is not None, evidence=tuple(found), foreign=foreign)


def _of_layer(layer: caffe_pb2.LayerParameter) -> str:
    """How a sentence names what a layer is."""
    return f"{layer.python_param.layer} (Python)" if is_python(layer) else layer.type


def _listed(pieces: Sequence[str]) -> str:
    """Some of the pieces of evidence, and how many more there are."""
    shown, more = ", ".join(pieces[:_NAMED]), len(pieces) - _NAMED
    return f"{shown} and {more} more" if more > 0 else shown


def _fields(message: Message) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The fields of forks in a message and those inside it."""
    for field, value in message.ListFields():
        name = f"{message.DESCRIPTOR.name}.{field.name}"
        if name in FORK_FIELDS:
            yield _short(message.DESCRIPTOR.name, field.name), FORK_FIELDS[name]
        for inside in _messages(value):
            yield from _fields(inside)


def _messages(value: object) -> Iterable[Message]:
    if isinstance(value, Message):
        return (value,)
    if isinstance(value, (str, bytes, int, float)):
        return ()
    return [each for each in value if isinstance(each, Message)]  # type: ignore[attr-defined]


def _short(message: str, field: str) -> str:
    """How a sentence names a field."""
    if message == "LayerParameter":
        return field
    return f"{field} ({message.removesuffix('Parameter')})"

"""Edits a prototxt in place, changing only the characters of the values concerned."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from caffe_batch.errors import PrototxtError, did_you_mean
from caffe_batch.prototxt import layout
from caffe_batch.prototxt.messages import fill
from caffe_batch.prototxt.syntax import Block, Field, Listing, Scalar, Source, parse
from caffe_batch.prototxt.values import BadValueError, FieldRule, field_rules

#: Names of fields; that of a repeated field is followed by the index of an entry, from 0:
#: ``("layer", 3, "data_param", "batch_size")``, ``("test_iter", 0)``.
Path = tuple[str | int, ...]

AnyMessage = TypeVar("AnyMessage", bound=Message)


def path_text(path: Path) -> str:
    """A path as it is shown to people.

    >>> path_text(("layer", 3, "data_param", "batch_size"))
    'layer[3].data_param.batch_size'
    """
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)[1:]


class Document(Generic[AnyMessage]):
    """The text of a net or solver, whose fields are read and edited by their paths.

    Comments, order, layout, line endings and a byte-order mark stay as they are, and so do fields
    that the message type doesn't have.

    Attributes:
        text: The text as edited so far.
        path: The file's name in messages, or None.
    """

    def __init__(self, text: str, message_type: type[AnyMessage], path: str | None = None) -> None:
        """Parses a text.

        Raises:
            PrototxtError: A syntax error; the message names line and column.
        """
        self.path = path
        self._type = message_type
        self._source = Source(text, path)
        self._tree: Block = parse(self._source)

    @property
    def text(self) -> str:
        return self._source.text

    def message(self) -> AnyMessage:
        """The message in the text, in the text's own syntax, without fields of a fork.

        Raises:
            PrototxtError: A field can't hold its value, is given twice or is missing.
        """
        message = self._type()
        fill(message, self._tree, self._source, allow_unknown_fields=True)
        return message

    def has(self, path: Path) -> bool:
        """Whether the field is given; a repeated field without an index, whether it has entries."""
        place = self._find(path)
        return not place.rest and (place.index or 0) < len(place.given)

    def count(self, path: Path) -> int:
        """The number of entries of a repeated field; 1 or 0 for any other."""
        place = self._find(path)
        return 0 if place.rest else len(place.given)

    def get(self, path: Path) -> Any:
        """The value of a field as the message has it: the default if it isn't given.

        Raises:
            PrototxtError: The path names a message, an entry beyond the last, or nothing; or the
                field can't hold the value in the text.
        """
        place = self._find(path)
        rule = self._leaf(place)[1]
        number = place.index or 0
        if not place.rest and number < len(place.given):
            return self._read(rule, place.given[number][1])
        if rule.message or rule.repeated:
            raise self._error(f"there is no {path_text(path)}")
        return rule.default

    def position(self, path: Path) -> tuple[int, int]:
        """Line and column, both from 1, of a field that is given."""
        return self._source.position(self._given(path)[0].start)

    def set(self, path: Path, value: Any) -> None:
        """Sets one field, as :meth:`update` does."""
        self.update([(path, value)])

    def update(self, changes: Iterable[tuple[Path, Any]]) -> None:
        """Sets fields, one after the other.

        If the field is given, only its value changes. Otherwise it gets a line after the last field
        of its message (or a place on the same line, if the message is written on one line), and
        missing messages around it are added. Setting the entry after the last of a repeated field
        appends it. The changes are all made or none: on an error the text stays as it was.

        Raises:
            PrototxtError: A path doesn't name a single value, or a field can't hold its value.
        """
        before = self._source, self._tree
        pending: dict[tuple[Any, ...], layout.Splice] = {}
        try:
            for path, value in changes:
                number = None if self._knows(path) else self._of_fork(path)
                if number is not None:
                    splice = layout.Splice(number.start, number.end, str(value))
                    pending[number.start, number.end] = splice
                    continue
                place = self._find(path)
                if place.key in pending:  # it depends on a change not made yet
                    self._apply(pending.values())
                    pending.clear()
                    place = self._find(path)
                pending[place.key] = self._change(path, place, value)
            self._apply(pending.values())
        except PrototxtError:
            self._source, self._tree = before
            raise

    def remove(self, path: Path) -> None:
        """Removes a field or an entry, and its line if nothing else is on it.

        Raises:
            PrototxtError: It isn't there.
        """
        field, node = self._given(path)
        if isinstance(field.value, Listing) and len(field.value.items) > 1:
            self._apply([layout.remove_item(field.value, node)])
        else:
            self._apply([layout.remove_field(self.text, field)])

    def _knows(self, path: Path) -> bool:
        """Whether the message type has all fields of a path."""
        message: Any = self._type.DESCRIPTOR
        for name in (step for step in path if isinstance(step, str)):
            known = field_rules(message) if message else {}
            if name not in known:
                return False
            message = known[name].message
        return True

    def _of_fork(self, path: Path) -> Scalar | None:
        """A number that is given in fields that the message type doesn't have; None if it isn't."""
        block: Block | None = self._tree
        found: list[Scalar | Block] = []
        for step in path:
            if isinstance(step, int):
                found = found[step : step + 1]
            else:
                fields = block.fields if block is not None else ()
                values = [field.value for field in fields if field.name == step]
                found = [
                    item
                    for value in values
                    for item in (value.items if isinstance(value, Listing) else (value,))
                ]
            inner = found[0] if found else None
            block = inner if isinstance(inner, Block) else None
        last = found[0] if found else None
        return last if isinstance(last, Scalar) and last.kind == "number" else None

    def _apply(self, splices: Iterable[layout.Splice]) -> None:
        self._source = Source(layout.apply(self.text, splices), self.path)
        self._tree = parse(self._source)

    def _change(self, path: Path, place: _Place, value: Any) -> layout.Splice:
        names, rule = self._leaf(place)
        number = place.index or 0
        if rule.repeated and isinstance(path[-1], str):
            raise self._error(f"{path_text(path)} is a list", hint="Name an entry by index.")
        if number > len(place.given):
            raise self._error(
                f"there is no {path_text(path)}: {place.rule.name} has {len(place.given)} entries"
            )
        try:
            written = rule.write(value)
        except BadValueError as error:
            raise self._error(f"{path_text(path)}: {error.message}", hint=error.hint) from None
        if number < len(place.given):
            node = place.given[number][1]
            return layout.Splice(node.start, node.end, written)
        last = place.given[-1][0] if place.given else None
        if last and isinstance(last.value, Listing):
            return layout.append_item(last.value, names, written)
        anchor = last or (place.block.fields[-1] if place.block.fields else None)
        return layout.insert_field(
            self.text, place.block, [place.rule.name, *names], written, anchor
        )

    def _find(self, path: Path) -> _Place:
        """Follows a path as far as the text has it."""
        block, steps = self._tree, path
        message: Any = self._type.DESCRIPTOR
        while True:
            rule, index, steps = self._step(message, steps, path)
            given = [
                (field, item)
                for field in block.fields
                if field.name == rule.name
                for item in (
                    field.value.items if isinstance(field.value, Listing) else (field.value,)
                )
            ]
            number = index or 0
            if not steps or number >= len(given):
                return _Place(block, rule, index, given, steps)
            inner = given[number][1]
            if not isinstance(inner, Block):
                raise self._source.error(f"{rule.name} takes a message", inner.start)
            block, message = inner, rule.message

    def _step(self, message: Any, steps: Path, path: Path) -> tuple[FieldRule, int | None, Path]:
        """The rule of the first field among the steps, its index, and the steps after it."""
        name, rest = steps[0] if steps else "", steps[1:]
        known = field_rules(message)
        if name not in known:
            raise self._error(
                f"{path_text(path)}: {message.name} has no field {name!r}",
                hint=did_you_mean(str(name), list(known)),
            )
        rule = known[str(name)]
        index = None
        if rule.repeated and rest:
            step, rest = rest[0], rest[1:]
            if not isinstance(step, int) or step < 0:
                raise self._error(
                    f"{path_text(path)}: {name} is a list, and {step!r} is not an index"
                )
            index = step
        if rest and rule.message is None:
            raise self._error(f"{path_text(path)}: {name} is a single value and has no fields")
        return rule, index, rest

    def _leaf(self, place: _Place) -> tuple[list[str], FieldRule]:
        """The fields to add below a place, and the rule of the last one."""
        names, rule, steps = [], place.rule, place.rest
        while steps:
            rule, index, steps = self._step(rule.message, steps, place.rest)
            if index:
                raise self._error(f"there is no {path_text(place.rest)}: {rule.name} has 0 entries")
            names.append(rule.name)
        return names, rule

    def _given(self, path: Path) -> tuple[Field, Scalar | Block]:
        place = self._find(path)
        number = place.index or 0
        if place.rest or number >= len(place.given):
            raise self._error(f"there is no {path_text(path)}")
        return place.given[number]

    def _read(self, rule: FieldRule, node: Scalar | Block) -> Any:
        if isinstance(node, Block):
            raise self._source.error(f"{rule.name} is a message, not a single value", node.start)
        try:
            return rule.read(node)
        except BadValueError as error:
            raise self._source.error(error.message, node.start, hint=error.hint) from None

    def _error(self, message: str, *, hint: str | None = None) -> PrototxtError:
        return PrototxtError(message, path=self.path, hint=hint)


@dataclass(frozen=True, slots=True)
class _Place:
    """How far the text has a path.

    Attributes:
        block: The innermost message on the path that exists.
        rule: The next field on the path.
        index: Which of its entries; None if the path doesn't say.
        given: Its existing entries, each with the field that holds it.
        rest: The steps below it. If there are any, the entry itself is missing.
    """

    block: Block
    rule: FieldRule
    index: int | None
    given: list[tuple[Field, Scalar | Block]]
    rest: Path

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for changes that affect the same place in the text."""
        number = self.index or 0
        return (self.block.start, self.rule.name, number if number < len(self.given) else None)

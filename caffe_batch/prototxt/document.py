"""Edits a prototxt in place: only the characters of the value that changes."""

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

#: Names of fields, each repeated one followed by which of its entries, from 0:
#: ``("layer", 3, "data_param", "batch_size")``, ``("test_iter", 0)``.
Path = tuple[str | int, ...]

AnyMessage = TypeVar("AnyMessage", bound=Message)


def path_text(path: Path) -> str:
    """A path as people write it.

    >>> path_text(("layer", 3, "data_param", "batch_size"))
    'layer[3].data_param.batch_size'
    """
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)[1:]


class Document(Generic[AnyMessage]):
    """The text of a net or solver, read and edited by the paths of its message.

    Comments, order, layout, line endings and a byte-order mark stay as they are. Fields that the
    message type lacks may be there; they stay as well.

    Attributes:
        text: The text as edited so far.
        path: What messages call the file, or None.
    """

    def __init__(self, text: str, message_type: type[AnyMessage], path: str | None = None) -> None:
        """Parses a text.

        Raises:
            PrototxtError: The text breaks the syntax; names line and column.
        """
        self.path = path
        self._type = message_type
        self._source = Source(text, path)
        self._tree: Block = parse(self._source)

    @property
    def text(self) -> str:
        return self._source.text

    def message(self) -> AnyMessage:
        """The message that the text stands for, in its own syntax; fields of a fork are left out.

        Raises:
            PrototxtError: A field takes no such value, is given twice or is missing.
        """
        message = self._type()
        fill(message, self._tree, self._source, allow_unknown_fields=True)
        return message

    def has(self, path: Path) -> bool:
        """Whether the field is given; of a repeated one without an index, whether it has any."""
        place = self._find(path)
        return not place.rest and (place.index or 0) < len(place.given)

    def count(self, path: Path) -> int:
        """How many entries a repeated field has; of others 1 or 0."""
        place = self._find(path)
        return 0 if place.rest else len(place.given)

    def get(self, path: Path) -> Any:
        """The value of a field as its message gives it: the default if it is not given.

        Raises:
            PrototxtError: The path names a message, an entry beyond the last, or nothing; or the
                text there is no value of that field.
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
        """Line and column, from 1, of a field that is given."""
        return self._source.position(self._given(path)[0].start)

    def set(self, path: Path, value: Any) -> None:
        """Sets a field, as :meth:`update` does."""
        self.update([(path, value)])

    def update(self, changes: Iterable[tuple[Path, Any]]) -> None:
        """Sets fields one after the other.

        Where the field is given only its value changes. Else it gets a line behind the last field
        of its message (or a place on the same line, if the message is written on one), and
        missing messages around it are made. The entry after the last of a repeated field is
        appended. A change fails as a whole: on an error the text stays as it was.

        Raises:
            PrototxtError: A path that names no single value, or a value that its field can't hold.
        """
        before = self._source, self._tree
        pending: dict[tuple[Any, ...], layout.Splice] = {}
        try:
            for path, value in changes:
                place = self._find(path)
                if place.key in pending:  # it builds on a change not made yet
                    self._apply(pending.values())
                    pending.clear()
                    place = self._find(path)
                pending[place.key] = self._change(path, place, value)
            self._apply(pending.values())
        except PrototxtError:
            self._source, self._tree = before
            raise

    def remove(self, path: Path) -> None:
        """Takes out a field or an entry, with its line if nothing else stands there.

        Raises:
            PrototxtError: It isn't there.
        """
        field, node = self._given(path)
        if isinstance(field.value, Listing) and len(field.value.items) > 1:
            self._apply([layout.remove_item(field.value, node)])
        else:
            self._apply([layout.remove_field(self.text, field)])

    def _apply(self, splices: Iterable[layout.Splice]) -> None:
        self._source = Source(layout.apply(self.text, splices), self.path)
        self._tree = parse(self._source)

    def _change(self, path: Path, place: _Place, value: Any) -> layout.Splice:
        names, rule = self._leaf(place)
        number = place.index or 0
        if rule.repeated and isinstance(path[-1], str):
            raise self._error(f"{path_text(path)} is a list", hint="Name an entry by its index.")
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
        """Walks as far as the text goes."""
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
        """The rule of the field that the steps begin with, its index, and the steps after it."""
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
                raise self._error(f"{path_text(path)}: {name} is a list, {step!r} is no index")
            index = step
        if rest and rule.message is None:
            raise self._error(f"{path_text(path)}: {name} is a single value, without fields")
        return rule, index, rest

    def _leaf(self, place: _Place) -> tuple[list[str], FieldRule]:
        """The fields to make below a place, and the rule of the last."""
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
    """How far a path could be walked.

    Attributes:
        block: The innermost message on the path that is there.
        rule: The next field on the path.
        index: Which of its entries; None if the path doesn't say.
        given: Its entries that are there, each with the field that holds it.
        rest: The steps below it. If there are any, the entry itself is missing.
    """

    block: Block
    rule: FieldRule
    index: int | None
    given: list[tuple[Field, Scalar | Block]]
    rest: Path

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for changes that touch the same place in the text."""
        number = self.index or 0
        return (self.block.start, self.rule.name, number if number < len(self.given) else None)

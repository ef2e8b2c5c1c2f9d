"""Reads nets and solvers, from files and from text, in any syntax that Caffe ever had."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from caffe_batch.errors import PrototxtError
from caffe_batch.prototxt import files
from caffe_batch.prototxt.messages import Skipped, fill, write
from caffe_batch.prototxt.skipped import SkippedField
from caffe_batch.prototxt.syntax import BYTE_ORDER_MARK, Block, Scalar, Source, brief, parse
from caffe_batch.prototxt.upgrade import UpgradedNet, upgrade_net, upgrade_solver
from caffe_batch.prototxt.values import field_rules
from caffe_batch.schema.caffe_pb2 import NetParameter, SolverParameter
from caffe_batch.schema.fork_fields import fork_messages

#: The most layers that a net may have; the deepest that were published have a fifth.
MAX_LAYERS = 25_000

_LAYER = re.compile(r"\blayers?\s*[:{<]")

AnyPath = str | os.PathLike[str]
AnyMessage = TypeVar("AnyMessage", bound=Message)


class PrototxtWarning(UserWarning):
    """Something in a file is ignored, as Caffe does or as the caller asked.

    Attributes:
        path: The file as the user named it, or None.
        line: 1-based, or None if the place is not known.
    """

    def __init__(self, message: str, *, path: str | None = None, line: int | None = None) -> None:
        self.path, self.line = path, line
        where = ":".join(str(part) for part in (path, line) if part is not None)
        super().__init__(f"{where}: {message}" if where else message)


def read(
    path: AnyPath,
    *,
    allow_unknown_fields: bool = False,
    skipped: list[SkippedField] | None = None,
) -> NetParameter | SolverParameter:
    """The net or the solver in a file, whichever it holds. Otherwise like :func:`read_net`."""
    name = os.fspath(path)
    kinds: tuple[type[NetParameter | SolverParameter], ...] = (NetParameter, SolverParameter)
    message, found = _read(name, kinds, allow_unknown_fields)
    if isinstance(message, SolverParameter):
        _collect(found, skipped)
        return _current_solver(message, name)
    return _current_net(message, name, found, skipped)


def read_net(
    path: AnyPath,
    *,
    allow_unknown_fields: bool = False,
    skipped: list[SkippedField] | None = None,
) -> NetParameter:
    """The net in a file, text or binary, in current syntax.

    Args:
        path: A .prototxt, or a .caffemodel that Caffe wrote.
        allow_unknown_fields: Skip fields that Caffe 1.0 doesn't have, with a warning.
        skipped: Gets the fields that are skipped.

    Raises:
        PrototxtError: The file can't be read, isn't a net, or contains a mistake, whose place the
            message names.

    Warns:
        PrototxtWarning: Fields were skipped, or settings dropped while upgrading old syntax.
    """
    name = os.fspath(path)
    message, found = _read(name, (NetParameter,), allow_unknown_fields)
    return _current_net(message, name, found, skipped)


def read_solver(
    path: AnyPath,
    *,
    allow_unknown_fields: bool = False,
    skipped: list[SkippedField] | None = None,
) -> SolverParameter:
    """The solver in a file, in current syntax. Arguments and errors as for :func:`read_net`."""
    name = os.fspath(path)
    message, found = _read(name, (SolverParameter,), allow_unknown_fields)
    _collect(found, skipped)
    return _current_solver(message, name)


def parse_net(
    text: str, *, path: str | None = None, allow_unknown_fields: bool = False
) -> NetParameter:
    """The net in a text, like :func:`read_net`; ``path`` is the text's name in messages."""
    net, _ = _parse(Source(text, path), (NetParameter,), allow_unknown_fields)
    return _current_net(net, path)


def parse_solver(
    text: str, *, path: str | None = None, allow_unknown_fields: bool = False
) -> SolverParameter:
    """The solver in a text, like :func:`read_net`; ``path`` is the text's name in messages."""
    solver, _ = _parse(Source(text, path), (SolverParameter,), allow_unknown_fields)
    return _current_solver(solver, path)


def read_text(path: AnyPath) -> str:
    """The text of a net or solver, to be edited and given to Caffe.

    It is the file's content byte for byte (:func:`caffe_batch.prototxt.encode` restores the bytes),
    but without a byte-order mark, which Caffe's own parser refuses. A binary file becomes the text
    that Caffe would write, without weights.

    Raises:
        PrototxtError: The file can't be read, or is neither text nor a binary message.
    """
    name = os.fspath(path)
    data = files.read_bytes(name)
    message = _binary_message(data, (NetParameter, SolverParameter))
    if message is None:
        return files.decode(data, name).removeprefix(BYTE_ORDER_MARK)
    if isinstance(message, NetParameter):
        for layer in (*message.layer, *message.layers):
            layer.ClearField("blobs")
    return write(message)


def _read(
    path: str, kinds: tuple[type[AnyMessage], ...], allow_unknown_fields: bool
) -> tuple[AnyMessage, list[SkippedField]]:
    data = files.read_bytes(path)
    message = _binary_message(data, kinds)
    if message is not None:
        return message, []
    return _parse(Source(files.decode(data, path), path), kinds, allow_unknown_fields)


def _parse(
    source: Source, kinds: tuple[type[AnyMessage], ...], allow_unknown_fields: bool
) -> tuple[AnyMessage, list[SkippedField]]:
    """The message in a text, of the type that has most of the text's fields, and what was skipped.

    Layers are numbered as in the text.
    """
    _check_layers(sum(1 for _ in _LAYER.finditer(source.text)), source.path)
    tree = parse(source)
    known = [field_rules(kind.DESCRIPTOR) for kind in kinds]
    counts = [sum(field.name in names for field in tree.fields) for names in known]
    message = kinds[counts.index(max(counts))]()
    skipped = fill(message, tree, source, allow_unknown_fields=allow_unknown_fields)
    _warn_skipped(skipped, source)
    return message, [_described(field, source) for field in skipped]


def _described(field: Skipped, source: Source) -> SkippedField:
    value = field.value
    size = None if not isinstance(value, Block) else next(_batch_sizes(value, field.path), None)
    if field.name == "batch_size" and isinstance(value, Scalar) and value.text.isdecimal():
        size = field.path, int(value.text)
    line, _ = source.position(field.offset)
    word = value.text if field.is_value and isinstance(value, Scalar) else None
    return SkippedField(source.path, line, field.owner, field.name, None, field.path, size, word)


def _batch_sizes(
    block: Block, path: tuple[str | int, ...]
) -> Iterator[tuple[tuple[str | int, ...], int]]:
    """The numbers called batch_size in a block that no message type describes."""
    for field in block.fields:
        value, here = field.value, (*path, field.name)
        if isinstance(value, Block):
            yield from _batch_sizes(value, here)
        elif field.name == "batch_size" and isinstance(value, Scalar) and value.text.isdecimal():
            yield here, int(value.text)


def _collect(found: Iterable[SkippedField], into: list[SkippedField] | None) -> None:
    if into is not None:
        into.extend(found)


def _warn_skipped(skipped: list[Skipped], source: Source) -> None:
    """Warns once for each name, with the first place where it occurs."""
    offsets: dict[tuple[str, str], list[int]] = {}
    values = {(field.owner, field.name) for field in skipped if field.is_value}
    for field in skipped:
        offsets.setdefault((field.owner, field.name), []).append(field.offset)
    for (owner, name), places in offsets.items():
        times = f" ({len(places)} times)" if len(places) > 1 else ""
        what = "value" if (owner, name) in values else "field"
        whose = owner if owner in fork_messages() else f"{owner} of Caffe 1.0"
        text = f"skipped {brief(name)}{times}: {whose} has no such {what}"
        if owner == SolverParameter.DESCRIPTOR.name:
            text += "; it stays as it is written, even if it counts updates"
        line, _ = source.position(places[0])
        warnings.warn(PrototxtWarning(text, path=source.path, line=line), stacklevel=4)


def _binary_message(data: bytes, kinds: Iterable[type[AnyMessage]]) -> AnyMessage | None:
    """The binary message of one of these types in the data, or None.

    Almost any bytes can be read as a message of unknown fields, so known fields must be present.
    """
    for kind in kinds if files.is_binary(data) else ():
        message = kind()
        try:
            message.ParseFromString(data)
        except DecodeError:
            continue
        telling = {"layer", "layers"} if kind is NetParameter else field_rules(kind.DESCRIPTOR)
        if any(field.name in telling for field, _ in message.ListFields()):
            return message
    return None


def _check_layers(count: int, path: str | None) -> None:
    """Refuses what would take minutes, before it does."""
    if count > MAX_LAYERS:
        raise PrototxtError(
            f"there are {count:,} layers, and caffe-batch takes nets of {MAX_LAYERS:,}",
            path=path,
            hint="If a program has written them, look for a loop without an end.",
        )


def _current_net(
    net: NetParameter,
    path: str | None,
    found: Iterable[SkippedField] = (),
    skipped: list[SkippedField] | None = None,
) -> NetParameter:
    _check_layers(len(net.layer) + len(net.layers), path)
    upgraded = upgrade_net(net, path=path)
    placed = [_in_layer(field, upgraded) for field in found]
    for field in placed:
        if field.layer is not None and field.path == ("type",):  # an enum in old syntax
            upgraded.net.layer[field.layer].type = field.word or ""
    _collect(placed, skipped)
    if not upgraded.net.layer:
        raise PrototxtError(
            "the net has no layers", path=path, hint="Give a net with layer { ... } in it."
        )
    _warn(upgraded.remarks, path)
    return upgraded.net


def _in_layer(field: SkippedField, upgraded: UpgradedNet) -> SkippedField:
    """A skipped field with its path relative to its layer, in current syntax."""
    match field.path:
        case (("layer" | "layers") as name, int(index), *rest):
            syntaxes = ("current",) if name == "layer" else ("v1", "v0")
            for number, origin in enumerate(upgraded.origins):
                if origin.syntax in syntaxes and origin.index == index:
                    batch = field.batch and (field.batch[0][2:], field.batch[1])
                    return replace(field, layer=number, path=tuple(rest), batch=batch)
    return field


def _current_solver(solver: SolverParameter, path: str | None) -> SolverParameter:
    upgraded = upgrade_solver(solver, path=path)
    _warn(upgraded.remarks, path)
    return upgraded.solver


def _warn(remarks: Iterable[str], path: str | None) -> None:
    for remark in remarks:
        warnings.warn(PrototxtWarning(remark, path=path), stacklevel=4)

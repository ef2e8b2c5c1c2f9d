"""Reads nets and solvers, from files and from text, in any syntax that Caffe ever had."""

from __future__ import annotations

import os

from google.protobuf.message import DecodeError

from caffe_batch.errors import PrototxtError
from caffe_batch.prototxt import files
from caffe_batch.prototxt.messages import AnyMessage, fill_message
from caffe_batch.prototxt.syntax import Source, parse
from caffe_batch.prototxt.upgrade import upgrade_net, upgrade_solver
from caffe_batch.prototxt.values import rules
from caffe_batch.schema.caffe_pb2 import NetParameter, SolverParameter

AnyPath = str | os.PathLike[str]


def read(path: AnyPath, *, allow_unknown_fields: bool = False) -> NetParameter | SolverParameter:
    """The net or the solver in a file, whichever it holds. Else as :func:`read_net`."""
    name = os.fspath(path)
    kinds: tuple[type[NetParameter | SolverParameter], ...] = (NetParameter, SolverParameter)
    message = _read(name, kinds, allow_unknown_fields)
    if isinstance(message, SolverParameter):
        return upgrade_solver(message, path=name)
    return _current_net(message, name)


def read_net(path: AnyPath, *, allow_unknown_fields: bool = False) -> NetParameter:
    """The net in a file, text or binary, in current syntax.

    Args:
        path: A .prototxt, or a .caffemodel that Caffe wrote.
        allow_unknown_fields: Skip fields that Caffe 1.0 lacks, with a warning.

    Raises:
        PrototxtError: The file can't be read, holds no net, or has a mistake; names the place.

    Warns:
        PrototxtWarning: Skipped fields, and settings that old syntax drops.
    """
    name = os.fspath(path)
    return _current_net(_read(name, (NetParameter,), allow_unknown_fields), name)


def read_solver(path: AnyPath, *, allow_unknown_fields: bool = False) -> SolverParameter:
    """The solver in a file, in current syntax. Arguments and errors as :func:`read_net`."""
    name = os.fspath(path)
    return upgrade_solver(_read(name, (SolverParameter,), allow_unknown_fields), path=name)


def parse_net(
    text: str, *, path: str | None = None, allow_unknown_fields: bool = False
) -> NetParameter:
    """The net in a text, as :func:`read_net`. ``path`` is what messages call the text."""
    net = _parse(Source(text, path), (NetParameter,), allow_unknown_fields)
    return _current_net(net, path)


def parse_solver(
    text: str, *, path: str | None = None, allow_unknown_fields: bool = False
) -> SolverParameter:
    """The solver in a text, as :func:`read_net`. ``path`` is what messages call the text."""
    solver = _parse(Source(text, path), (SolverParameter,), allow_unknown_fields)
    return upgrade_solver(solver, path=path)


def _read(path: str, kinds: tuple[type[AnyMessage], ...], allow_unknown_fields: bool) -> AnyMessage:
    data = files.read_bytes(path)
    if files.is_binary(data):
        for kind in kinds:
            message = _from_binary(data, kind)
            if message is not None:
                return message
    return _parse(Source(files.decode(data, path), path), kinds, allow_unknown_fields)


def _parse(
    source: Source, kinds: tuple[type[AnyMessage], ...], allow_unknown_fields: bool
) -> AnyMessage:
    """The message in a text, of the kind that knows most of its fields."""
    tree = parse(source)
    known = [rules(kind.DESCRIPTOR) for kind in kinds]
    counts = [sum(field.name in names for field in tree.fields) for names in known]
    message = kinds[counts.index(max(counts))]()
    fill_message(message, tree, source, allow_unknown_fields=allow_unknown_fields)
    return message


def _from_binary(data: bytes, kind: type[AnyMessage]) -> AnyMessage | None:
    """The message in binary data, or None if it isn't of that kind.

    Nearly any bytes may be read as a message of unknown fields, so known ones have to be there.
    """
    message = kind()
    try:
        message.ParseFromString(data)
    except DecodeError:
        return None
    telling = {"layer", "layers"} if kind is NetParameter else set(rules(kind.DESCRIPTOR))
    given = {field.name for field, _ in message.ListFields()}
    return message if telling & given else None


def _current_net(net: NetParameter, path: str | None) -> NetParameter:
    upgraded = upgrade_net(net, path=path).net
    if not upgraded.layer:
        raise PrototxtError(
            "the net has no layers", path=path, hint="Give a net with layer { ... } in it."
        )
    return upgraded

"""Messages of a layer that its type doesn't read; Caffe skips them silently."""

from __future__ import annotations

from collections.abc import Iterator

from caffe_batch.layers import BUILT_IN
from caffe_batch.layers.registry import Registry
from caffe_batch.net.data.findings import DataFinding, Level
from caffe_batch.net.kinds import kind
from caffe_batch.schema import caffe_pb2


def unread_messages(layer: caffe_pb2.LayerParameter, rules: Registry) -> Iterator[DataFinding]:
    """A remark on each ``*_param`` that a layer of this type doesn't read."""
    rule = rules.get(kind(layer))
    if rule is None or rule.open_params or rule.assumes_batch:
        return  # what such a layer reads isn't known
    read = rule.messages()
    for field, _ in layer.ListFields():
        name = field.name
        if field.message_type is None or not name.endswith("_param") or name in read:
            continue
        readers = [other for other, its in rules.items() if its.message == name]
        readers = [other for other in readers if other in BUILT_IN] or readers
        of_type = f"Is it meant to be of type {' or '.join(readers)}? " if readers else ""
        own = ", ".join(sorted(read)) or "no message of its own"
        yield DataFinding(
            Level.REMARK,
            layer.name,
            f"{name} has no effect in a layer of type {layer.type}",
            hint=f"{of_type}A {layer.type} layer reads {own}.",
        )

"""Edits the file of a net in terms of the net's layers, whatever syntax the file is in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from caffe_batch.errors import PrototxtError
from caffe_batch.prototxt import upgrade_v0, upgrade_v1
from caffe_batch.prototxt.document import Document, Path, path_text
from caffe_batch.prototxt.upgrade import UpgradedNet, upgrade_net
from caffe_batch.prototxt.values import field_rules
from caffe_batch.schema.caffe_pb2 import (
    LayerParameter,
    NetParameter,
    V0LayerParameter,
    V1LayerParameter,
)

# Fields that V1 and current layers have under the same name.
_UNCHANGED = (
    field_rules(V1LayerParameter.DESCRIPTOR).keys() & field_rules(LayerParameter.DESCRIPTOR).keys()
)


@dataclass(frozen=True, slots=True)
class Edit:
    """One value to set in a net.

    Attributes:
        layer: Index of the layer in the net in current syntax; None for a field of the net.
        path: Relative to that layer: ``("data_param", "batch_size")``, ``("loss_weight", 0)``,
            ``("input_param", "shape", 0, "dim", 0)``.
        value: A number, string, bool, or the name of an enum value.
    """

    layer: int | None
    path: Path
    value: Any


def edit_net(text: str, edits: Iterable[Edit], *, path: str | None = None) -> str:
    """The text of a net with some values changed and everything else as it was.

    The file keeps its syntax: a layer's batch size is written to ``batch_size`` or ``batchsize``,
    and an edit of the Input layer that ``input_dim`` becomes is written to ``input_dim``.

    Args:
        text: The net, in any syntax.
        edits: What to change; layers are numbered as in the upgraded net.
        path: The file's name in error messages.

    Raises:
        PrototxtError: The text isn't a net, an edit names nothing that exists, its field can't
            hold the value, or the file's syntax has no place for it.
    """
    document = Document(text, NetParameter, path)
    net, edits = document.message(), list(edits)
    upgraded = upgrade_net(net, path=path)
    document.update((_source_path(edit, net, upgraded, path), edit.value) for edit in edits)
    after = upgrade_net(document.message(), path=path).net
    for edit in {(edit.layer, edit.path): edit for edit in edits}.values():
        if not _holds(after, edit):
            raise _no_place(edit, upgraded, path)
    return document.text


def _holds(net: NetParameter, edit: Edit) -> bool:
    """Whether the value is where the edit wants it once the new text is upgraded."""
    here: Any = net if edit.layer is None else net.layer[edit.layer]
    if _is_of_fork(edit.path):
        return True  # the document has refused it otherwise
    for step in edit.path:
        if isinstance(step, str):
            rule = field_rules(here.DESCRIPTOR)[step]
            here = getattr(here, step)
        elif step < len(here):
            here = here[step]
        else:
            return False
    return rule.write(here) == rule.write(edit.value)


def _is_of_fork(path: Path) -> bool:
    """Whether the path of a layer's field begins with one that Caffe's layers don't have."""
    return path[0] not in field_rules(LayerParameter.DESCRIPTOR)


def _source_path(edit: Edit, net: NetParameter, upgraded: UpgradedNet, path: str | None) -> Path:
    """The path of an edit's value in the file."""
    if edit.layer is None:
        return edit.path
    if not 0 <= edit.layer < len(upgraded.origins):
        raise PrototxtError(
            f"there is no layer {edit.layer}: the net has {len(upgraded.origins)}", path=path
        )
    origin = upgraded.origins[edit.layer]
    if origin.syntax == "current":
        return ("layer", origin.index, *edit.path)
    if origin.syntax == "input":
        found = _input_path(edit.path, net)
    else:
        layer = net.layers[origin.index]
        found = _v1_path(edit.path, layer)
        if found and origin.syntax == "v0":
            found = _v0_path(found, layer.layer.type)
        found = found and ("layers", origin.index, *found)
    if not found:
        raise _no_place(edit, upgraded, path)
    return found


def _input_path(path: Path, net: NetParameter) -> Path | None:
    """The path in the file of a field of the Input layer that the net's inputs become."""
    match path:
        case ("top", int(which)):
            return ("input", which)
        case ("input_param", "shape", int(which), "dim", int(axis)):
            if net.input_shape:
                return ("input_shape", which, "dim", axis)
            return ("input_dim", 4 * which + axis) if 0 <= axis < 4 else None
    return None


def _v1_path(path: Path, layer: V1LayerParameter) -> Path | None:
    """A path relative to a current layer, turned into one relative to a V1 layer."""
    group = upgrade_v1.TRANSFORMED.get(V1LayerParameter.LayerType.Name(layer.type))
    match path:
        case ("param", int(which), str(name)) if name in upgrade_v1.PARAM_FIELDS:
            return (upgrade_v1.PARAM_FIELDS[name], which)
        case ("transform_param", str(name)) if group and name in upgrade_v1.TRANSFORMS:
            return (group, name) if getattr(layer, group).HasField(name) else path
        case ("param" | "type", *_):
            return None
        case (str(name), *_) if name in _UNCHANGED:
            return path
    return None


def _v0_path(path: Path, kind: str) -> Path | None:
    """A path relative to a V1 layer, turned into one relative to a V0 layer of that type."""
    if path[0] in ("bottom", "top"):
        return path
    for name, target in upgrade_v0.targets(kind).items():
        rest = path[len(target) :]
        if path[: len(target)] == target:
            rule = field_rules(V0LayerParameter.DESCRIPTOR)[name]
            if rule.repeated or rule.message:
                return ("layer", name, *rest)
            return ("layer", name) if rest in ((), (0,)) else None
    return None


def _no_place(edit: Edit, upgraded: UpgradedNet, path: str | None) -> PrototxtError:
    layer = "" if edit.layer is None else f" of layer {upgraded.net.layer[edit.layer].name!r}"
    return PrototxtError(
        f"{path_text(edit.path)}{layer} has no place in the old syntax of this file",
        path=path,
        hint="Rewrite the net in current syntax first, as Caffe's upgrade_net_proto_text does.",
    )

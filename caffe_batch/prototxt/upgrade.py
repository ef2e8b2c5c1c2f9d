"""Upgrades old syntaxes of nets and solvers to the current one, as Caffe does on reading a file.

The steps are those of Caffe's util/upgrade_proto.cpp, in the same order. The upgraded net records
where each of its layers came from, so that an edit finds the old field (:mod:`.editing`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from caffe_batch.errors import PrototxtError
from caffe_batch.prototxt.upgrade_v0 import upgrade_v0
from caffe_batch.prototxt.upgrade_v1 import move_transforms, upgrade_v1
from caffe_batch.schema.caffe_pb2 import LayerParameter, NetParameter, SolverParameter

_SOLVER_TYPES = {
    "SGD": "SGD",
    "NESTEROV": "Nesterov",
    "ADAGRAD": "AdaGrad",
    "RMSPROP": "RMSProp",
    "ADADELTA": "AdaDelta",
    "ADAM": "Adam",
}


@dataclass(frozen=True, slots=True)
class Origin:
    """The place in the file that a layer of an upgraded net comes from.

    Attributes:
        syntax: "current" (``layer``), "v1" (``layers``), "v0" (``layers { layer }``) or "input"
            (the net's own ``input`` fields, which become a layer).
        index: Index of the ``layer`` or ``layers`` entry in the file; 0 for "input".
    """

    syntax: Literal["current", "v1", "v0", "input"]
    index: int


@dataclass(frozen=True, slots=True)
class UpgradedNet:
    """A net in current syntax.

    Attributes:
        origins: Where each layer came from.
        remarks: What was dropped in the upgrade, as Caffe drops it.
    """

    net: NetParameter
    origins: tuple[Origin, ...]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class UpgradedSolver:
    """A solver in current syntax. ``remarks``: what Caffe drops, or would drop."""

    solver: SolverParameter
    remarks: tuple[str, ...] = ()


def upgrade_net(net: NetParameter, *, path: str | None = None) -> UpgradedNet:
    """The net in current syntax. The argument isn't changed; if it is current, it is returned.

    Raises:
        PrototxtError: The net has both ``layer`` and ``layers``, inputs without a size, an unknown
            V0 type, or V0 padding that can't be merged into a layer.
    """
    origins = [Origin("current", index) for index in range(len(net.layer))]
    if not (net.layers or net.input or any(map(_spells_out_statistics, net.layer))):
        return UpgradedNet(net, tuple(origins))  # not copied: a .caffemodel may be large
    upgraded = NetParameter()
    upgraded.CopyFrom(net)
    remarks: list[str] = []
    if any(layer.HasField("layer") for layer in net.layers):
        upgraded, indices, remarks = upgrade_v0(net, path)
        origins = [Origin("v0", index) for index in indices]
    elif net.layers and net.layer:
        raise PrototxtError(
            "the net has both 'layer' and 'layers', which Caffe refuses to read",
            path=path,
            hint="Write all of them as layer { ... }, with types in quotes.",
        )
    elif net.layers:
        origins = [Origin("v1", index) for index in range(len(net.layers))]
    move_transforms(upgraded)
    upgrade_v1(upgraded)
    if _upgrade_inputs(upgraded, path):
        origins.insert(0, Origin("input", 0))
    _freeze_batch_norm(upgraded)
    return UpgradedNet(upgraded, tuple(origins), tuple(remarks))


def _upgrade_inputs(net: NetParameter, path: str | None) -> bool:
    """Replaces the net's ``input`` fields by a first Input layer; False if it needs none.

    Inputs without any size are dropped; old .caffemodel files have such inputs.
    """
    names, shapes, dims = list(net.input), list(net.input_shape), list(net.input_dim)
    if not names:
        return False
    if (shapes and len(shapes) < len(names)) or (not shapes and 0 < len(dims) < 4 * len(names)):
        given = f"{len(shapes)} input_shape" if shapes else f"{len(dims)} input_dim"
        raise PrototxtError(
            f"the net has {len(names)} input but {given}",
            path=path,
            hint="Every input needs one input_shape, or four input_dim (N, C, H, W).",
        )
    layers = list(net.layer)
    for name in ("input", "input_shape", "input_dim", "layer"):
        net.ClearField(name)
    if shapes or dims:
        layer = net.layer.add(name="input", type="Input", top=names)
        for position in range(len(names)):
            shape = layer.input_param.shape.add()
            if shapes:
                shape.CopyFrom(shapes[position])
            else:
                shape.dim.extend(dims[4 * position : 4 * position + 4])
    net.layer.extend(layers)
    return bool(shapes or dims)


def _spells_out_statistics(layer: LayerParameter) -> bool:
    """Whether this is an old-style BatchNorm layer, with params for its three statistics."""
    return layer.type == "BatchNorm" and len(layer.param) == 3


def _freeze_batch_norm(net: NetParameter) -> None:
    """Stops the solver from updating the statistics of old-style BatchNorm layers."""
    for layer in filter(_spells_out_statistics, net.layer):
        for param in layer.param:
            param.lr_mult = param.decay_mult = 0


def upgrade_solver(solver: SolverParameter, *, path: str | None = None) -> UpgradedSolver:
    """The solver in current syntax; the argument isn't changed.

    Nets inside it are upgraded as if they were in files of their own. Caffe itself ignores old
    syntax there (``layers``, ``input``) and builds the rest, hence a remark.

    Raises:
        PrototxtError: Both ``type`` and ``solver_type`` are given; or as for :func:`upgrade_net`.
    """
    upgraded, remarks = SolverParameter(), []
    upgraded.CopyFrom(solver)
    if solver.HasField("solver_type"):
        if solver.HasField("type"):
            raise PrototxtError(
                "the solver has both 'type' and the older 'solver_type'",
                path=path,
                hint="Keep type.",
            )
        upgraded.type = _SOLVER_TYPES[SolverParameter.SolverType.Name(solver.solver_type)]
        upgraded.ClearField("solver_type")
    for field, value in upgraded.ListFields():
        if field.message_type is None or field.message_type.name != "NetParameter":
            continue
        for net in value if field.name == "test_net_param" else [value]:
            if net.layers or net.input:
                remarks.append(
                    f"{field.name} is in old syntax, which Caffe ignores inside a solver; "
                    "it is read as if it were in a file of its own"
                )
            inner = upgrade_net(net, path=path)
            remarks += inner.remarks
            net.CopyFrom(inner.net)
    return UpgradedSolver(upgraded, tuple(remarks))

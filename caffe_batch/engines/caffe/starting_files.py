"""Weights and snapshots that a training starts from, checked before anything runs.

Only tags and lengths of the binary files are read, so a model of gigabytes costs nothing. Source:
net.cpp (CopyTrainedLayersFrom), blob.cpp (ShapeEquals), sgd_solver.cpp (RestoreSolverState).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caffe_batch.engines.caffe.snapshot_contents import (
    check_contents,
    check_hdf5_length,
    history_shapes,
)
from caffe_batch.engines.caffe.snapshots import snapshot_of
from caffe_batch.engines.snapshots import DamagedSnapshotError, Snapshot
from caffe_batch.errors import InputError, Option
from caffe_batch.files import not_a_file, open_regular
from caffe_batch.layers.base import Shape
from caffe_batch.memory.solver_state import STATE_BLOBS
from caffe_batch.net.data.blob_file import Blob, read_blob, text
from caffe_batch.net.data.listing import HDF5_SIGNATURE, PREFIX_BYTES, what_else
from caffe_batch.net.graph import Net
from caffe_batch.prototxt.wire import DamagedMessageError, WireMessage, open_message
from caffe_batch.schema import caffe_pb2

_NET = caffe_pb2.NetParameter.DESCRIPTOR
_STATE = caffe_pb2.SolverState.DESCRIPTOR


@dataclass(frozen=True, slots=True)
class _Trained:
    """What a weights file holds: the blobs of each layer, in HDF5 files by number."""

    layers: Mapping[str, Sequence[Blob]]
    hdf5: bool


def check_weights(path: Path, nets: Sequence[Net]) -> None:
    """Check that Caffe can load a weights file into nets.

    Args:
        path: The .caffemodel, or .caffemodel.h5.
        nets: The train net first; the file is loaded into the test nets as well. Empty if they
            can't be built here.

    Raises:
        InputError: It can't, or the file has nothing for the train net. The message says why.
    """
    trained = _read_weights(path)
    if trained is None:
        return
    if not any(trained.layers.values()):
        raise InputError(
            f"weights {path}: the file holds a net without weights",
            hint="Give a .caffemodel that a training has written.",
        )
    for net in nets:
        _check_shapes(path, trained, net)
    if not nets or nets[0].unknown_layers:
        return
    known = nets[0].param_shapes
    there = [name for name in known if trained.layers.get(name)]
    if known and not there:
        raise InputError(
            f"no layer of the net has weights in {path}; the file has "
            f"{_some([name for name, blobs in trained.layers.items() if blobs])}, the net "
            f"{_some(list(known))}",
            hint="Caffe finds weights by layer name: are these the weights of another net?",
        )


def _check_shapes(path: Path, trained: _Trained, net: Net) -> None:
    unknown = set(net.unknown_layers)
    for node in net.nodes:
        blobs = trained.layers.get(node.layer.name)
        if blobs is None or node.layer.name in unknown:
            continue
        wanted = node.param_shapes
        enough = len(blobs) >= len(wanted) if trained.hdf5 else len(blobs) == len(wanted)
        if not enough:
            raise InputError(
                f"weights {path}: layer {node.layer.name!r} has {len(blobs)} blobs there and "
                f"{len(wanted)} in the net",
                hint="Caffe aborts at it. To train this layer anew, give it another name.",
            )
        for number, (blob, shape) in enumerate(zip(blobs, wanted, strict=False)):
            if not blob.equals(shape):
                raise InputError(
                    f"weights {path}: parameter {number} of layer {node.layer.name!r} is "
                    f"{text(blob.shape)} there and {text(shape)} in the net",
                    hint="Caffe aborts at it. To train this layer anew, give it another name.",
                )


def _some(names: Sequence[str], most: int = 3) -> str:
    shown = ", ".join(map(repr, names[:most]))
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _read_weights(path: Path) -> _Trained | None:
    """What a weights file holds; None if h5py is needed but missing.

    Raises:
        InputError: It is missing, damaged, or something else.
    """
    hint = "Give a .caffemodel that Caffe has written."
    if wrong := not_a_file(path):
        raise InputError(f"weights {path}: {wrong}", hint=hint)
    try:
        with open_regular(path) as file:
            start = file.read(PREFIX_BYTES)
        if start.startswith(HDF5_SIGNATURE):
            return _read_hdf5_weights(path)
        known = what_else(start, binary=True)
        if known is None and start and b"\0" not in start and start.isascii():
            known = "text; a prototxt has no weights"
        if known is not None:
            raise InputError(f"weights {path}: it is {known}", hint=hint)
        with open_message(path) as message:
            _refuse_state(path, any(True for _ in message.numbers(_STATE, "iter")))
            layers: dict[str, Sequence[Blob]] = {}
            for name, blobs in weight_layers(message):
                layers.setdefault(name.decode(errors="replace"), [*map(read_blob, blobs)])
            return _Trained(layers, hdf5=False)
    except (DamagedMessageError, DamagedSnapshotError) as damage:
        raise InputError(f"weights {path}: {damage}", hint=hint) from damage
    except OSError as error:
        raise InputError(f"weights {path}: {error.strerror}", hint=hint) from error


def _refuse_state(path: Path, is_state: bool) -> None:
    if is_state:
        found = snapshot_of(path)
        beside = f" Its weights are in {found.weights.name}." if found else ""
        raise InputError(
            f"weights {path}: it is a solverstate, which holds no weights",
            hint=[Option("snapshot"), f" continues from it.{beside}"],
        )


def weight_layers(message: WireMessage) -> Iterator[tuple[bytes, list[WireMessage]]]:
    """Name and blobs of each layer of a net, in the current syntax and in both older ones."""
    kinds = (
        ("layer", caffe_pb2.LayerParameter.DESCRIPTOR),
        ("layers", caffe_pb2.V1LayerParameter.DESCRIPTOR),
    )
    for field, kind in kinds:
        for layer in message.messages(_NET, field):
            inner = next(layer.messages(kind, "layer"), None) if field == "layers" else None
            of, read = (kind, layer) if inner is None else (_V0, inner)
            name = next(read.texts(of, "name"), b"")
            yield name, list(read.messages(of, "blobs"))


_V0 = caffe_pb2.V0LayerParameter.DESCRIPTOR


def _read_hdf5_weights(path: Path) -> _Trained | None:
    check_hdf5_length(path)
    try:
        import h5py
    except ImportError:
        return None
    try:
        with h5py.File(path, "r") as file:
            _refuse_state(path, "history" in file and "iter" in file)
            return _Trained(
                {name: _numbered(layer) for name, layer in file["data"].items()}, hdf5=True
            )
    except (KeyError, AttributeError, TypeError, RuntimeError) as error:
        raise InputError(
            f"weights {path}: it is an HDF5 file, but not one with a net ({error})",
            hint="Give a .caffemodel.h5 that Caffe has written.",
        ) from error


def _numbered(layer: Any) -> list[Blob]:
    """The datasets 0, 1, ... of a layer, up to the first that is missing."""
    blobs: list[Blob] = []
    while str(len(blobs)) in layer:
        blobs.append(Blob(tuple(layer[str(len(blobs))].shape)))
    return blobs


def check_state(snapshot: Snapshot, net: Net, solver_type: str) -> None:
    """Check that a solver of this type can continue from a snapshot.

    Args:
        snapshot: The snapshot; both of its files exist.
        net: The train net.
        solver_type: As in the solver, for example ``"SGD"``.

    Raises:
        InputError: The files are damaged or don't belong together, or come from another net or a
            solver of another type.
    """
    try:
        check_contents(snapshot.update, snapshot.state, snapshot.weights)
        history = history_shapes(snapshot.state)
    except DamagedSnapshotError as damage:
        raise InputError(
            f"the snapshot is not whole: {damage.message}", hint="Give an older one."
        ) from damage
    check_weights(snapshot.weights, [net])
    each = STATE_BLOBS[solver_type]["gpu"] if solver_type in STATE_BLOBS else None
    if history is None or net.unknown_layers or each is None:
        return
    ours = Counter(parameter.shape for parameter in net.params)
    known = Counter(history)
    if known == _times(ours, each):
        return
    for blobs in (1, 2):
        if known == _times(ours, blobs):
            types = [name for name, sides in STATE_BLOBS.items() if sides["gpu"] == blobs]
            raise InputError(
                f"{snapshot.state}: it is from a solver of another type: {blobs} history blob(s) "
                f"per parameter, as in {', '.join(types)}; {solver_type} has {each}",
                hint=[
                    Option("weights"),
                    " with its .caffemodel starts at update 0, with the solver's own type.",
                ],
            )
    raise InputError(
        f"{snapshot.state}: its history of {len(history)} blobs doesn't match the "
        f"{len(net.params)} parameters of this net",
        hint="Is it the snapshot of another net?",
    )


def _times(shapes: Counter[Shape], number: int) -> Counter[Shape]:
    return Counter({shape: number * count for shape, count in shapes.items()})

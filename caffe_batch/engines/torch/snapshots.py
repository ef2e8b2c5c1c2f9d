"""Caffe's own snapshots, written and read without copying their numbers one by one.

Caffe takes these files as its own, and the other way round. The large arrays are written as bytes
between the fields that protobuf writes, and read by walking the tags: for the 61 million weights of
CaffeNet protobuf's Python interface takes many seconds.

Sources: net.cpp (ToProto, ToHDF5, CopyTrainedLayersFrom), blob.cpp (ToProto, FromProto),
sgd_solver.cpp (SnapshotSolverState, RestoreSolverState), util/hdf5.cpp.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from caffe_batch.engines.caffe.starting_files import weight_layers
from caffe_batch.engines.torch.net import LayerBlobs, TorchNet
from caffe_batch.errors import InputError
from caffe_batch.net.data.blob_file import Blob, read_blob, text
from caffe_batch.net.data.extras import extra
from caffe_batch.net.data.listing import HDF5_SIGNATURE
from caffe_batch.prototxt.wire import DamagedMessageError, WireMessage, open_message
from caffe_batch.schema import caffe_pb2

Array = np.ndarray[Any, np.dtype[Any]]

_NET, _LAYER = caffe_pb2.NetParameter, caffe_pb2.LayerParameter
_BLOB, _STATE = caffe_pb2.BlobProto, caffe_pb2.SolverState

#: What h5py raises at a damaged file, and at names that no group can have.
_HDF5_ERRORS = (OSError, KeyError, TypeError, ValueError, RuntimeError)


@dataclass(frozen=True)
class SolverState:
    """What a .solverstate holds, beside the name of its weights.

    Attributes:
        update: Updates done (Caffe's iteration).
        current_step: The drops that the multistep policy had made by then.
        history: The solver's blobs.
    """

    update: int
    current_step: int
    history: Sequence[Array]


def write_weights(path: Path, net: TorchNet, steps: Sequence[torch.Tensor] = ()) -> None:
    """Write a .caffemodel, or a .caffemodel.h5.

    Args:
        path: The file; its name says in which format.
        net: The train net.
        steps: For ``snapshot_diff``: what the last update has taken from each parameter.

    Raises:
        OSError: It can't be written.
    """
    if path.suffix == ".h5":
        with _hdf5(path) as file:
            owned = {(param.layer, param.index) for param in net.params}
            _fill_hdf5(file.create_group("data"), net.layer_blobs, owned)
            if steps:  # those of shared parameters too, as Caffe does
                _fill_hdf5(file.create_group("diff"), net.layer_values(steps))
        return
    with _replacing(path) as out:
        _field(out, _NET, "name", net.net.name.encode())
        diffs = net.layer_values(steps) if steps else itertools.repeat(None)
        for layer, diff in zip(net.layer_blobs, diffs, strict=False):
            head = _plain(layer).SerializeToString()
            blobs = [
                _blob_parts(blob, diff.blobs[number] if diff else None)
                for number, blob in enumerate(layer.blobs)
            ]
            _nested(out, _NET, "layer", [head, *_fields(_LAYER, "blobs", blobs)])


def write_state(path: Path, state: SolverState, weights: Path) -> None:
    """Write a .solverstate, or a .solverstate.h5.

    Args:
        path: The file; its name says in which format.
        state: What it should hold.
        weights: The .caffemodel that belongs to it.

    Raises:
        OSError: It can't be written.
    """
    if path.suffix == ".h5":
        with _hdf5(path) as file:
            file["iter"] = np.array([state.update], np.int32)
            _write_text(file, "learned_net", str(weights))
            file["current_step"] = np.array([state.current_step], np.int32)
            history = file.create_group("history")
            for number, values in enumerate(state.history):
                history[str(number)] = values
        return
    message = _STATE(iter=state.update, learned_net=str(weights))
    with _replacing(path) as out:
        out.write(message.SerializeToString())
        for part in _fields(_STATE, "history", [_blob_parts(each) for each in state.history]):
            out.write(part)
        out.write(_STATE(current_step=state.current_step).SerializeToString())


def load_weights(path: Path, nets: Sequence[TorchNet]) -> set[str]:
    """Load a weights file into nets, by layer name as Caffe does.

    Args:
        path: The .caffemodel, or .caffemodel.h5.
        nets: The train net first; what a test net shares with it is loaded twice, as in Caffe.

    Returns:
        Names of the train net's layers that the file has weights for.

    Raises:
        InputError: It can't be read, or doesn't fit a net.
    """
    hdf5, trained = _is_hdf5(path), read_weights(path)
    loaded: set[str] = set()
    for net in nets:
        owned = {(param.layer, param.index) for param in net.params}
        for layer in net.layer_blobs:
            found = trained.get(layer.name)
            if found is None:
                continue
            for number, blob in enumerate(layer.blobs):
                values = found.get(number)
                if values is None and hdf5 and (layer.name, number) not in owned:
                    continue  # a shared blob is in its owner's group alone
                if values is None or not values[0].equals(tuple(blob.shape)):
                    there = text(values[0].shape) if values else "missing"
                    raise InputError(
                        f"weights {path}: parameter {number} of layer {layer.name!r} is {there} "
                        f"there and {text(tuple(blob.shape))} in the net"
                    )
                blob.copy_(torch.from_numpy(values[1].reshape(tuple(blob.shape))))
            if net is nets[0] and layer.blobs:
                loaded.add(layer.name)
    return loaded


def read_weights(path: Path) -> Mapping[str, Mapping[int, tuple[Blob, Array]]]:
    """What a .caffemodel or .caffemodel.h5 holds: the blobs of each layer, by number.

    Raises:
        InputError: It can't be read.
    """
    return _read_hdf5_weights(path) if _is_hdf5(path) else _read_binary_weights(path)


def read_state(path: Path) -> SolverState:
    """Read a .solverstate, or a .solverstate.h5.

    Raises:
        InputError: It can't be read.
    """
    if path.suffix == ".h5":
        return _read_hdf5_state(path)
    kind = _STATE.DESCRIPTOR
    try:
        with open_message(path) as message:
            return SolverState(
                next(message.numbers(kind, "iter"), 0),
                next(message.numbers(kind, "current_step"), 0),
                [_values(blob) for blob in message.messages(kind, "history")],
            )
    except DamagedMessageError as damage:
        raise InputError(f"{path}: {damage}") from damage


def restore_history(path: Path, found: SolverState, history: Sequence[torch.Tensor]) -> None:
    """Put the blobs of a state into a solver's history.

    Raises:
        InputError: They are of another solver type or net.
    """
    if len(found.history) != len(history):
        raise InputError(
            f"{path}: it has {len(found.history)} history blobs, and this solver {len(history)}",
            hint="Is it the snapshot of a solver of another type, or of another net?",
        )
    for number, (mine, theirs) in enumerate(zip(history, found.history, strict=True)):
        if theirs.size != mine.numel():
            raise InputError(
                f"{path}: history blob {number} has {theirs.size:,} values, and this solver's "
                f"{mine.numel():,}"
            )
        mine.copy_(torch.from_numpy(theirs.reshape(tuple(mine.shape))))


# Binary files


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes its name once it is complete."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error


_Pieces = Sequence[bytes | memoryview]


def _plain(layer: LayerBlobs) -> caffe_pb2.LayerParameter:
    """A layer as it is written, without blobs."""
    message = _LAYER()
    message.CopyFrom(layer.message)
    message.ClearField("blobs")
    return message


def _blob_parts(
    values: torch.Tensor | Array, diff: torch.Tensor | None = None
) -> Sequence[bytes | memoryview]:
    """A BlobProto as pieces: the bytes of its float32 values, those of a diff, and its shape."""
    pieces: list[bytes | memoryview] = []
    for field, numbers in (("data", values), ("diff", diff)):
        if isinstance(numbers, torch.Tensor):
            numbers = numbers.detach().to("cpu", torch.float32).contiguous().numpy()
        if numbers is not None and numbers.size:
            data = np.ascontiguousarray(numbers, np.float32).reshape(-1).view(np.uint8).data
            pieces += [_tag(_BLOB, field), _varint(data.nbytes), data]
    shape = caffe_pb2.BlobShape(dim=tuple(values.shape))
    return [*pieces, _BLOB(shape=shape).SerializeToString()]


def _fields(kind: Any, field: str, values: Iterable[_Pieces]) -> Iterator[bytes | memoryview]:
    """A field of a message for each value."""
    for pieces in values:
        yield _tag(kind, field)
        yield _varint(sum(len(piece) for piece in pieces))
        yield from pieces


def _nested(out: BinaryIO, kind: Any, field: str, pieces: _Pieces) -> None:
    for piece in _fields(kind, field, [pieces]):
        out.write(piece)


def _field(out: BinaryIO, kind: Any, field: str, value: bytes) -> None:
    _nested(out, kind, field, [value])


def _tag(kind: Any, field: str) -> bytes:
    """The tag of a field whose length follows."""
    return _varint(kind.DESCRIPTOR.fields_by_name[field].number << 3 | 2)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_binary_weights(path: Path) -> Mapping[str, Mapping[int, tuple[Blob, Array]]]:
    """The blobs of each layer, by number, with their values."""
    found: dict[str, dict[int, tuple[Blob, Array]]] = {}
    try:
        with open_message(path) as message:
            for name, blobs in weight_layers(message):
                found.setdefault(
                    name.decode(errors="replace"),
                    {n: (read_blob(blob), _values(blob)) for n, blob in enumerate(blobs)},
                )
    except DamagedMessageError as damage:
        raise InputError(f"weights {path}: {damage}") from damage
    return found


def _values(blob: WireMessage) -> Array:
    """The values of a BlobProto in float32, in the shape that it gives."""
    kind = _BLOB.DESCRIPTOR
    single = b"".join(blob.texts(kind, "data"))
    double = b"".join(blob.texts(kind, "double_data"))
    values = np.frombuffer(double, "<f8") if double else np.frombuffer(single, "<f4")
    return values.astype(np.float32).reshape(read_blob(blob).shape)


# HDF5 files


def _is_hdf5(path: Path) -> bool:
    """Caffe looks into a weights file, not at its name."""
    with path.open("rb") as file:
        return file.read(len(HDF5_SIGNATURE)) == HDF5_SIGNATURE


@contextmanager
def _hdf5(path: Path) -> Iterator[Any]:
    """A new HDF5 file that takes its name once it is complete."""
    h5py = extra("h5py", "hdf5", f"or writing {path}")
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with h5py.File(temporary, "w") as file:
            yield file
        os.replace(temporary, path)
    except _HDF5_ERRORS as error:
        temporary.unlink(missing_ok=True)
        number = getattr(error, "errno", None) or 0
        reason = (
            os.strerror(number) if number else f"can't be written ({str(error).splitlines()[0]})"
        )
        raise OSError(number, reason, str(path)) from error


def _fill_hdf5(
    group: Any, layers: Sequence[LayerBlobs], owned: Collection[tuple[str, int]] | None = None
) -> None:
    """A group a layer, with its blobs; ``owned`` are the layers' names and numbers of those."""
    for layer in layers:
        inner = group.create_group(layer.name)
        for number, blob in enumerate(layer.blobs):
            if owned is None or (layer.name, number) in owned:
                inner[str(number)] = blob.to("cpu", torch.float32).numpy()


def _write_text(file: Any, name: str, value: str) -> None:
    """A text as HDF5's C interface writes it, with a zero at its end."""
    h5py = extra("h5py", "hdf5", "or writing HDF5 files")
    data = os.fsencode(value)
    kind = h5py.h5t.C_S1.copy()
    kind.set_size(len(data) + 1)
    kind.set_strpad(h5py.h5t.STR_NULLTERM)
    space = h5py.h5s.create(h5py.h5s.SCALAR)
    dataset = h5py.h5d.create(file.id, name.encode(), kind, space)
    dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, np.array(data + b"\0", f"S{len(data) + 1}"))


def _read_hdf5_weights(path: Path) -> Mapping[str, Mapping[int, tuple[Blob, Array]]]:
    h5py = extra("h5py", "hdf5", f"weights {path}")
    try:
        with h5py.File(path, "r") as file:
            return {
                name: {
                    int(number): (Blob(tuple(data.shape)), np.asarray(data[()], np.float32))
                    for number, data in layer.items()
                }
                for name, layer in file["data"].items()
            }
    except _HDF5_ERRORS as error:
        raise InputError(f"weights {path}: {error}") from error


def _read_hdf5_state(path: Path) -> SolverState:
    h5py = extra("h5py", "hdf5", f"{path}")
    try:
        with h5py.File(path, "r") as file:
            history = file["history"]
            return SolverState(
                int(file["iter"][0]),
                int(file["current_step"][0]),
                [np.asarray(history[str(n)][()], np.float32) for n in range(len(history))],
            )
    except _HDF5_ERRORS as error:
        raise InputError(f"{path}: {error}") from error

"""Whether the two files of a snapshot parse and agree, checked without loading them.

Only tags and lengths of the binary files are read (protobuf's wire format): a cut anywhere shows,
and a model of gigabytes costs nothing. If h5py is missing, only the size of files in HDF5 format
is checked: the format records its own length.

Sources: net.cpp (ToProto, ToHDF5, AppendParam), sgd_solver.cpp (SnapshotSolverState).
"""

from __future__ import annotations

from collections import Counter
from math import prod
from pathlib import Path

from caffe_batch.engines.snapshots import DamagedSnapshotError
from caffe_batch.files import open_regular
from caffe_batch.prototxt.wire import DamagedMessageError, WireMessage, open_message
from caffe_batch.schema import caffe_pb2

Shape = tuple[int, ...]

#: What h5py raises at a damaged file; a damaged object in it is None.
_DAMAGE = (OSError, KeyError, AttributeError, TypeError, ValueError, RuntimeError)

_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def check_contents(update: int, state: Path, weights: Path) -> None:
    """Check that both files parse and belong together.

    The history has one blob for each learnable parameter, or two (AdaDelta, Adam), with the same
    shapes; a parameter shared by layers counts once.

    Args:
        update: Updates done, as the names of the files say.
        state: The solverstate; both files are in HDF5 format if its name ends with ``.h5``.
        weights: The caffemodel.

    Raises:
        DamagedSnapshotError: They don't.
    """
    if state.suffix == ".h5":
        _check_hdf5(update, state, weights)
        return
    try:
        shapes = _learnable_shapes(weights)
        done, history = _state(state)
    except DamagedMessageError as damage:
        raise DamagedSnapshotError(str(damage)) from damage
    _check_update(update, done, state)
    if history not in (shapes, 2 * shapes):
        raise DamagedSnapshotError(_disagreement(len(history), len(shapes), state, weights))


def _check_update(named: int, found: int | None, state: Path) -> None:
    if found != named:
        raise DamagedSnapshotError(f"{state.name} is from update {found}, not {named}")


def _disagreement(history: int, parameters: int, state: Path, weights: Path) -> str:
    return (
        f"{state.name} has a history of {history} blobs that doesn't match the {parameters} "
        f"parameters of {weights.name}"
    )


def _learnable_shapes(path: Path) -> list[Shape]:
    """The shapes of a net's learnable parameters, in the order of the solver's history."""
    net, layer, spec = (
        message.DESCRIPTOR
        for message in (caffe_pb2.NetParameter, caffe_pb2.LayerParameter, caffe_pb2.ParamSpec)
    )
    shapes: list[Shape] = []
    shared: set[bytes] = set()
    with open_message(path) as data:
        for part in data.messages(net, "layer"):
            names = [
                next(param.texts(spec, "name"), b"") for param in part.messages(layer, "param")
            ]
            for index, blob in enumerate(part.messages(layer, "blobs")):
                name = names[index] if index < len(names) else b""
                if name and name in shared:
                    continue
                shared.add(name)
                shapes.append(_blob_shape(blob))
    return shapes


def _state(path: Path) -> tuple[int | None, list[Shape]]:
    """Updates done, and the shapes of the history."""
    state = caffe_pb2.SolverState.DESCRIPTOR
    with open_message(path) as data:
        if not list(data.numbers(state, "current_step")):  # written last
            raise DamagedSnapshotError(f"{path.name} has no end")
        done = next(data.numbers(state, "iter"), None)
        return done, [_blob_shape(blob) for blob in data.messages(state, "history")]


def history_shapes(state: Path) -> list[Shape] | None:
    """The shapes of a solver's history, in no particular order; None if h5py is needed but missing.

    Raises:
        DamagedSnapshotError: The file is damaged.
    """
    if state.suffix != ".h5":
        return _state(state)[1]
    try:
        import h5py
    except ImportError:
        return None
    try:
        with h5py.File(state, "r") as file:
            return [tuple(blob.shape) for blob in file["history"].values()]
    except _DAMAGE as error:
        raise DamagedSnapshotError(f"{state.name}: {error}") from error


def _blob_shape(blob: WireMessage) -> Shape:
    """The shape of a blob, after checking that it has as many values as it says."""
    proto = caffe_pb2.BlobProto.DESCRIPTOR
    shape: Shape = tuple(
        size
        for message in blob.messages(proto, "shape")
        for size in message.packed_numbers(caffe_pb2.BlobShape.DESCRIPTOR, "dim")
    )
    counts = [
        part.size // size
        for name, size in (("data", 4), ("double_data", 8))
        for part in blob.messages(proto, name)
    ]
    if counts and counts[0] != prod(shape):
        raise DamagedSnapshotError(f"{blob.path.name} has a blob of {counts[0]} values for {shape}")
    return shape


def _check_hdf5(update: int, state: Path, weights: Path) -> None:
    for path in (state, weights):
        check_hdf5_length(path)
    try:
        import h5py
    except ImportError:
        return
    try:
        with h5py.File(weights, "r") as file:
            shapes: Counter[Shape] = Counter()
            for layer in file["data"].values():
                shapes.update(dataset.shape for dataset in layer.values())
        with h5py.File(state, "r") as file:
            done = int(file["iter"][0])
            history: list[Shape] = [blob.shape for blob in file["history"].values()]
            file["current_step"][0]
    except _DAMAGE as error:
        raise DamagedSnapshotError(f"{state.name} and its weights: {error}") from error
    _check_update(update, done, state)
    # Groups are in order of name here, so the shapes are compared as a set.
    if Counter(history) not in (shapes, shapes + shapes):
        raise DamagedSnapshotError(_disagreement(len(history), shapes.total(), state, weights))


def check_hdf5_length(path: Path) -> None:
    """Compare a file's size with the end given in its superblock (version 0 to 3)."""
    with open_regular(path) as file:
        head = file.read(64)
    if len(head) < 64 or not head.startswith(_HDF5_SIGNATURE):
        raise DamagedSnapshotError(f"{path.name} is not an HDF5 file, or its beginning is missing")
    version = head[8]
    width, at = (head[13], 24) if version < 2 else (head[9], 12)
    if version == 1:
        at += 4
    end_at = at + 2 * width
    end = int.from_bytes(head[end_at : end_at + width], "little")
    if path.stat().st_size < end:
        raise DamagedSnapshotError(f"{path.name} is cut off: {path.stat().st_size} of {end} bytes")

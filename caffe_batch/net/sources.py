"""What a data layer's source holds: the shape of a record, and how many there are.

Reads the first record only (of an LMDB, a LevelDB, an HDF5 file, an image list). The readers that
need a library which isn't always there say which extra installs it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from caffe_batch.errors import InputError, InputShapeError
from caffe_batch.layers.base import Shape
from caffe_batch.schema import caffe_pb2

#: EXIF orientations that turn the image by a quarter (OpenCV's imread applies them).
_QUARTER_TURNS = {5, 6, 7, 8}
_EXIF_ORIENTATION = 0x0112


@dataclass(frozen=True, slots=True)
class Contents:
    """What a source holds.

    Attributes:
        shapes: Shape of one record for each top that the source decides, without the batch axis.
        records: How many records there are.
        file_rows: HDF5 alone: how many of them are in the largest file.
    """

    shapes: tuple[Shape, ...]
    records: int
    file_rows: int | None = None


@dataclass(frozen=True, slots=True)
class Sources:
    """Where data is looked up, and what the user said of it.

    Attributes:
        directories: Relative paths are tried from each in turn (Caffe: the working directory).
        input_shapes: Shapes that the user gave by top name (``--input-shape``), which win.
    """

    directories: tuple[Path, ...] = (Path(),)
    input_shapes: Mapping[str, Shape] | None = None

    def records(
        self, layer: caffe_pb2.LayerParameter
    ) -> tuple[tuple[Shape, ...] | None, int | None]:
        """What a layer's rule has to know of its source.

        Returns:
            Shape of one record, one a top that the source decides, or None if it has no source;
            and rows of the largest HDF5 file, if there are such files and they were read.

        Raises:
            InputShapeError: The source can't be read and no shape was given; says which option
                gives one.
        """
        given = self._given(layer)
        if given is not None:
            return given, None
        if layer.type not in READERS:
            return None, None
        try:
            contents = self.contents(layer)
        except InputError as error:
            tops = [f"--input-shape {top}=CxHxW" for top in _decided_tops(layer)]
            raise InputShapeError(
                f"the size of {layer.top[0] if layer.top else 'its top'!r} is not known: "
                f"{error.message}",
                layer=layer.name,
                hint=" ".join(filter(None, [error.hint, f"Or give the size: {' '.join(tops)}."])),
            ) from error
        return contents.shapes, contents.file_rows

    def contents(self, layer: caffe_pb2.LayerParameter) -> Contents:
        """Shapes and number of records of a data layer's source.

        Raises:
            InputError: The source is missing, empty, damaged, or needs a library that isn't there.
        """
        return READERS[layer.type](layer, self.find)

    def find(self, source: str) -> Path:
        """The first existing path of a source.

        Raises:
            InputError: It has no name, or is nowhere.
        """
        if not source:
            raise InputError("the layer names no source")
        for directory in self.directories:
            path = directory / source
            if os.path.exists(path):
                return path
        tried = " or ".join(str(directory.resolve()) for directory in self.directories)
        raise InputError(f"source {source!r} is not in {tried}")

    def _given(self, layer: caffe_pb2.LayerParameter) -> tuple[Shape, ...] | None:
        shapes = self.input_shapes
        if not shapes:
            return None
        tops = _decided_tops(layer)
        if not tops or any(top not in shapes for top in tops):
            return None
        return tuple(shapes[top] for top in tops)


def _decided_tops(layer: caffe_pb2.LayerParameter) -> Sequence[str]:
    """The tops whose shape the source decides: all of HDF5Data, else all but the label."""
    if layer.type in ("Data", "ImageData"):
        return layer.top[:1]
    return layer.top


Find = Callable[[str], Path]


def _read_data(layer: caffe_pb2.LayerParameter, find: Find) -> Contents:
    path = find(layer.data_param.source)
    lmdb = layer.data_param.backend == caffe_pb2.DataParameter.LMDB
    value, records = (_first_of_lmdb if lmdb else _first_of_leveldb)(path)
    datum = caffe_pb2.Datum()
    try:
        datum.ParseFromString(value)
    except DecodeError as error:
        raise InputError(f"the first record of {path} is no Datum ({error})") from error
    if datum.encoded:
        return Contents((_encoded_shape(datum, layer.transform_param, path),), records)
    return Contents(((datum.channels, datum.height, datum.width),), records)


def _first_of_lmdb(path: Path) -> tuple[bytes, int]:
    import lmdb

    try:
        with lmdb.open(
            str(path), readonly=True, lock=False, readahead=False, subdir=path.is_dir()
        ) as env, env.begin() as transaction, transaction.cursor() as cursor:  # fmt: skip
            stat = env.stat()
            whole = (env.info()["last_pgno"] + 1) * stat["psize"]
            size = (path / "data.mdb" if path.is_dir() else path).stat().st_size
            if size < whole:  # reading beyond its end would kill this program, and Caffe later
                raise InputError(
                    f"LMDB {path} is cut short: it has {size:,} of {whole:,} bytes",
                    hint="Copy or make it again.",
                )
            if not cursor.first():
                raise InputError(f"LMDB {path} is empty")
            return cursor.value(), stat["entries"]
    except lmdb.Error as error:
        raise InputError(
            f"{path} is no readable LMDB ({error})",
            hint="A LevelDB needs `backend: LEVELDB` in data_param.",
        ) from error


def _first_of_leveldb(path: Path) -> tuple[bytes, int]:
    plyvel = _extra("plyvel", "leveldb", f"LevelDB {path}")
    try:
        database = plyvel.DB(str(path), create_if_missing=False)
    except (plyvel.Error, OSError) as error:
        raise InputError(
            f"{path} is no readable LevelDB ({error})",
            hint="An LMDB needs `backend: LMDB` in data_param; LEVELDB is the default.",
        ) from error
    try:
        first: bytes | None = next(database.iterator(include_key=False), None)
        if first is None:
            raise InputError(f"LevelDB {path} is empty")
        return first, sum(1 for _ in database.iterator(include_value=False))
    finally:
        database.close()


def _encoded_shape(
    datum: caffe_pb2.Datum, transform: caffe_pb2.TransformationParameter, path: Path
) -> Shape:
    """Channels, height and width after decoding, as OpenCV's imdecode gives them."""
    from io import BytesIO

    images = _extra("PIL.Image", "images", f"the encoded records of {path}")
    try:
        with images.open(BytesIO(datum.data)) as image:
            bands, height, width = image.getbands(), image.height, image.width
    except (OSError, images.DecompressionBombError) as error:
        raise InputError(f"the first record of {path} is no readable image") from error
    if transform.force_color:
        channels = 3
    elif transform.force_gray:
        channels = 1
    else:
        # A palette is looked up, CMYK becomes BGR; all others keep their channels.
        channels = {("P",): 3, tuple("CMYK"): 3}.get(bands, len(bands))
    return (channels, height, width)


def _read_images(layer: caffe_pb2.LayerParameter, find: Find) -> Contents:
    settings = layer.image_data_param
    listing = find(settings.source)
    lines = [line for line in _read_listing(listing).splitlines() if line.strip()]
    if not lines:
        raise InputError(f"image list {listing} is empty")
    if settings.new_height and settings.new_width:
        channels = 3 if settings.is_color else 1
        return Contents(((channels, settings.new_height, settings.new_width),), len(lines))
    # Each line is "PATH LABEL"; the path may hold blanks, the label is after the last one.
    name = lines[0].rpartition(" ")[0]
    if not name:
        raise InputError(f"the first line of image list {listing} is not PATH LABEL")
    images = _extra("PIL.Image", "images", f"the images of {listing}")
    path = find(settings.root_folder + name)
    try:
        with images.open(path) as image:
            height, width = image.height, image.width
            if image.getexif().get(_EXIF_ORIENTATION) in _QUARTER_TURNS:
                height, width = width, height
    except (OSError, images.DecompressionBombError) as error:
        raise InputError(f"{path} is no readable image ({error})") from error
    return Contents(((3 if settings.is_color else 1, height, width),), len(lines))


def _read_hdf5(layer: caffe_pb2.LayerParameter, find: Find) -> Contents:
    listing = find(layer.hdf5_data_param.source)
    names = _read_listing(listing).split()
    if not names:
        raise InputError(f"HDF5 file list {listing} is empty")
    h5py = _extra("h5py", "hdf5", f"HDF5 file {names[0]}")
    shapes: list[Shape] = []
    rows: list[int] = []
    for number, name in enumerate(names):
        path = find(name)
        try:
            with h5py.File(path, "r") as file:
                missing = [top for top in layer.top if top not in file]
                if missing:
                    raise InputError(
                        f"HDF5 file {path} has no data set {missing[0]!r}; "
                        f"it has {', '.join(sorted(file)) or 'none'}"
                    )
                found = [_hdf5_shape(file, top, path) for top in layer.top]
                rows.append(found[0][0])
                if number == 0:
                    shapes = [shape[1:] for shape in found]
        except OSError as error:
            raise InputError(f"{path} is no readable HDF5 file ({error})") from error
    return Contents(tuple(shapes), sum(rows), max(rows))


def _hdf5_shape(file: Any, top: str, path: Path) -> Shape:
    shape: Shape = getattr(file[top], "shape", ())  # a group has none
    if not shape:
        raise InputError(f"{top!r} of HDF5 file {path} is no array with a row for each record")
    return shape


def _read_listing(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError as error:
        raise InputError(f"{path} is no readable list of files ({error.strerror})") from error


def _extra(module: str, extra: str, what: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"reading {what} needs the Python package of the extra {extra!r}",
            hint=f"Install it: pip install 'caffe-batch[{extra}]'.",
        ) from error


#: Layer types whose shapes come from a file, and what reads it.
READERS: dict[str, Callable[[caffe_pb2.LayerParameter, Find], Contents]] = {
    "Data": _read_data,
    "ImageData": _read_images,
    "HDF5Data": _read_hdf5,
}

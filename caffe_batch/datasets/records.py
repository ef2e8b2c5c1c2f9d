"""Makes the records of a few files at a time: Datums, and what the conversion has to know of them.

A batch is what a process gets and gives back. Sums of pixels are whole numbers, so the mean doesn't
depend on who added up what.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caffe_batch.datasets.pictures import DamagedPictureError, decoded, encoded, fitted
from caffe_batch.datasets.settings import Settings
from caffe_batch.files import read_regular
from caffe_batch.schema import caffe_pb2

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Files of a batch. The sum of this many bytes fits 16 bits.
BATCH = 8

#: The largest file that is read: no format needs more for ``pictures.MOST_PIXELS``.
LARGEST_FILE = 1 << 30


@dataclass(slots=True)
class Record:
    """What became of one file.

    Attributes:
        datum: The record; None if the file can't be used.
        problem: Why not.
        digest: A hash of the record's pixels.
        size: Height and width of the picture.
        shape: Channels, height and width of the record.
        remarks: Names from ``pictures.REMARKS``.
        gray: Whether the file has one channel.
    """

    datum: bytes | None = None
    problem: str = ""
    digest: str = ""
    size: tuple[int, int] = (0, 0)
    shape: tuple[int, int, int] = (0, 0, 0)
    remarks: tuple[str, ...] = ()
    gray: bool = False


@dataclass(slots=True)
class Batch:
    """The records of a batch of files.

    Attributes:
        records: One for each file, in their order.
        total: Sum of the records' pixels, (C, H, W); None if they differ in size.
        channels: Sum of each channel's pixels.
        pixels: How many pixels a channel has in all.
    """

    records: list[Record] = field(default_factory=list)
    total: NDArray[np.uint16] | None = None
    channels: tuple[int, ...] = ()
    pixels: int = 0


def make_batch(files: Sequence[tuple[Path, int]], settings: Settings) -> Batch:
    """The records of at most ``BATCH`` files, given with their labels."""
    import numpy as np

    batch = Batch()
    planes: list[Any] = []
    for path, label in files:
        try:
            record, own = _record(path, label, settings)
            planes.append(own)
        except DamagedPictureError as error:
            record = Record(problem=str(error))
        except OSError as error:
            record = Record(problem=f"can't be read ({error.strerror})")
        batch.records.append(record)
    if planes:
        batch.channels = tuple(
            sum(int(own[channel].sum(dtype=np.uint64)) for own in planes)
            for channel in range(len(planes[0]))
        )
        batch.pixels = sum(own.shape[1] * own.shape[2] for own in planes)
        if len({own.shape for own in planes}) == 1:
            total = np.zeros(planes[0].shape, np.uint16)
            for own in planes:
                total += own
            batch.total = total
    return batch


def _record(path: Path, label: int, settings: Settings) -> tuple[Record, Any]:
    """The record of a file, and its pixels (C, H, W)."""
    import numpy as np

    if path.stat().st_size > LARGEST_FILE:
        raise DamagedPictureError(f"too large: more than {LARGEST_FILE >> 30} GiB")
    data = read_regular(path)
    picture = decoded(data, gray=settings.gray)
    found = picture.pixels
    pixels = fitted(found, settings)
    height, width, channels = pixels.shape
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    digest = blake2b(repr(planes.shape).encode(), digest_size=16)
    digest.update(planes.data)
    datum = caffe_pb2.Datum(channels=channels, height=height, width=width, label=label)
    if settings.encoded:
        kind = settings.encode_type or picture.kind or "png"
        unchanged = pixels is found and picture.as_is and picture.kind == kind
        datum.data = data if unchanged else encoded(pixels, kind)
        datum.encoded = True
    else:
        datum.data = planes.tobytes()
    record = Record(
        datum.SerializeToString(deterministic=True),
        digest=digest.hexdigest(),
        size=found.shape[:2],
        shape=(channels, height, width),
        remarks=picture.remarks,
        gray=picture.gray,
    )
    return record, planes

"""Small sources of data for the drawn nets: an LMDB, an HDF5 file, pictures and windows."""

from __future__ import annotations

from pathlib import Path

import h5py
import lmdb
import numpy as np
from PIL import Image

from caffe_batch.schema import caffe_pb2

#: Records of each source: a multiple of no batch that is drawn.
RECORDS = 37
CLASSES = 4
SHAPE = (3, 4, 6)


def write_sources(folder: Path) -> None:
    """Writes ``lmdb``, ``rows.txt``, ``images.txt`` and ``windows.txt`` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(11)
    pictures = draw.integers(256, size=(RECORDS, *SHAPE), dtype=np.uint8)
    labels = draw.integers(CLASSES, size=RECORDS)
    with (
        lmdb.open(str(folder / "lmdb"), map_size=1 << 24) as base,
        base.begin(write=True) as transaction,
    ):
        for number, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
            channels, height, width = SHAPE
            datum = caffe_pb2.Datum(
                channels=channels, height=height, width=width,
                label=int(label), data=picture.tobytes(),
            )  # fmt: skip
            transaction.put(b"%05d" % number, datum.SerializeToString())
    with h5py.File(folder / "rows.h5", "w") as file:
        file["hdata"] = draw.normal(size=(RECORDS, *SHAPE)).astype(np.float32)
        file["hlabel"] = labels.astype(np.float32)
    (folder / "rows.txt").write_text(f"{folder / 'rows.h5'}\n")
    lines, windows = [], []
    for number, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        path = folder / f"{number}.png"
        Image.fromarray(picture.transpose(1, 2, 0)).save(path)
        lines.append(f"{path} {label}\n")
        windows.append(f"# {number}\n{path}\n3\n4\n6\n2\n1 0.9 0 0 3 3\n0 0.1 1 1 5 3\n")
    (folder / "images.txt").write_text("".join(lines))
    (folder / "windows.txt").write_text("".join(windows))

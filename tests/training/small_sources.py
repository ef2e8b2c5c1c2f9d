"""Small data sets of every kind that Caffe reads in order, and nets over several of them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import h5py
import lmdb
import numpy as np
import pytest
from PIL import Image

from caffe_batch.schema import caffe_pb2
from tests.leveldb import HAS_LEVELDB, write_leveldb

CLASSES, HEIGHT, WIDTH = 3, 2, 5

#: Records of each source: no multiple of a batch size, of which all are passed several times.
LMDB, LEVELDB, IMAGES = 37, 29, 31
HDF5_FILES = (11, 17, 5)
HDF5 = sum(HDF5_FILES)

LAYER = """
layer {{
  name: "{name}" type: "{type}" top: "{name}" top: "{name}_label"
  include {{ phase: {phase} }} {settings} {{ {text} batch_size: {batch_size} }}
}}
"""
HEAD = """
layer {{
  name: "{name}_ip" type: "InnerProduct" bottom: "{name}" top: "{name}_ip"
  inner_product_param {{ num_output: 3 weight_filler {{ type: "xavier" }} }}
}}
layer {{
  name: "{name}_loss" type: "SoftmaxWithLoss" bottom: "{name}_ip" bottom: "{name}_label"
  top: "{name}_loss"
}}
"""


def images(count: int, seed: int) -> Iterator[tuple[int, bytes]]:
    """Labels and pixels."""
    draw = random.Random(seed)
    for _ in range(count):
        yield draw.randrange(CLASSES), bytes(draw.randrange(256) for _ in range(HEIGHT * WIDTH))


def datums(count: int, seed: int) -> Iterator[tuple[bytes, bytes]]:
    for record, (label, data) in enumerate(images(count, seed)):
        datum = caffe_pb2.Datum(channels=1, height=HEIGHT, width=WIDTH, label=label, data=data)
        yield b"%08d" % record, datum.SerializeToString()


def write_sources(folder: Path) -> None:
    """``lmdb``, ``leveldb_TRAIN`` and ``_TEST`` (one reader at a time), ``hdf5``, ``images``."""
    folder.mkdir()
    with lmdb.open(str(folder / "lmdb"), map_size=1 << 22) as base, base.begin(write=True) as put:
        for key, value in datums(LMDB, 1):
            put.put(key, value)
    for phase in ("TRAIN", "TEST") if HAS_LEVELDB else ():
        write_leveldb(folder / f"leveldb_{phase}", (value for _, value in datums(LEVELDB, 2)))
    names = []
    for number, rows in enumerate(HDF5_FILES):
        names.append(str(folder / f"{number}.h5"))
        numbers = np.random.default_rng(number)
        with h5py.File(names[-1], "w") as file:
            for top in ("hdf5", "shuffled_hdf5"):
                file[top] = numbers.normal(size=(rows, WIDTH)).astype(np.float32)
                file[f"{top}_label"] = numbers.integers(CLASSES, size=rows).astype(np.float32)
    (folder / "hdf5").write_text("\n".join(names))
    lines = []
    for number, (label, data) in enumerate(images(IMAGES, 3)):
        path = folder / f"an image {number}.png"
        Image.frombytes("L", (WIDTH, HEIGHT), data).save(path)
        lines.append(f"{path} {label}\n")
    (folder / "images").write_text("".join(lines))


def net(folder: Path, kinds: list[str], batch_size: int, test_batch_size: int) -> str:
    """A net that learns from several sources at once, each with a loss of its own.

    Args:
        folder: See :func:`write_sources`.
        kinds: lmdb, leveldb, hdf5, shuffled_hdf5, images, shuffled_images.
        batch_size: In training.
        test_batch_size: In the test net.
    """
    text = 'name: "tiny"\n'
    for kind in kinds:
        for phase, size in (("TRAIN", batch_size), ("TEST", test_batch_size)):
            source = folder / kind.removeprefix("shuffled_")
            own = f'source: "{source}"'
            if kind.startswith("shuffled") and phase == "TRAIN":
                own += " shuffle: true"
            if kind == "lmdb":
                layer_type, settings = "Data", "data_param"
                own += " backend: LMDB"
            elif kind == "leveldb":
                pytest.importorskip("plyvel")
                layer_type, settings = "Data", "data_param"
                own = f'source: "{source}_{phase}" backend: LEVELDB'
            elif kind.endswith("hdf5"):
                layer_type, settings = "HDF5Data", "hdf5_data_param"
            else:
                layer_type, settings = "ImageData", "image_data_param"
                own += " is_color: false"
            text += LAYER.format(
                name=kind, type=layer_type, phase=phase, settings=settings, text=own,
                batch_size=size,
            )  # fmt: skip
        text += HEAD.format(name=kind)
    return text

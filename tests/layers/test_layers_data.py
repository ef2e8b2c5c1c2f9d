"""Layers that read and write files, on real files, beside the real Caffe."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import h5py
import lmdb
import numpy as np
import pytest
from google.protobuf import text_format
from PIL import Image

from caffe_batch.errors import InputShapeError, NetError, ShapeError
from caffe_batch.layers import BUILT_IN
from caffe_batch.layers.base import Buffer, Shape, Site
from caffe_batch.layers.data import DataSettings
from caffe_batch.layers.hdf5 import HDF5DataSettings
from caffe_batch.layers.sides import own, top
from caffe_batch.net.convert import convert
from caffe_batch.net.graph import build
from caffe_batch.net.sources import RecordSizes
from caffe_batch.schema import caffe_pb2

HEIGHT, WIDTH = 19, 23
RECORD = (3, HEIGHT, WIDTH)

#: Caffe finds some faults only in the thread that reads ahead, so the first batch is awaited.
CHILD = """
import json, os, resource, sys
import caffe
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
folder, count = sys.argv[1], int(sys.argv[2])
for number in range(count):
    if os.fork() == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        net = caffe.Net("%s/%d.prototxt" % (folder, number), caffe.TRAIN)
        shapes = {name: list(blob.shape) for name, blob in net.blobs.items()}
        net.forward()
        with open("%s/%d.json" % (folder, number), "w") as file:
            json.dump(shapes, file)
        os._exit(0)
    os.wait()
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LMDBs of raw and of encoded records, images, a window file, and HDF5 files."""
    folder = tmp_path_factory.mktemp("data")
    pixels = np.random.default_rng(7).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "colour.png")
    gray = io.BytesIO()
    Image.fromarray(pixels[:, :, 0]).save(gray, "PNG")
    raw = caffe_pb2.Datum(channels=3, height=HEIGHT, width=WIDTH, data=pixels.tobytes(), label=1)
    encoded = caffe_pb2.Datum(encoded=True, data=gray.getvalue(), label=1)
    for name, datum in (("raw", raw), ("encoded", encoded)):
        with lmdb.open(str(folder / name), map_size=1 << 20) as env, env.begin(write=True) as txn:
            for key in (b"0", b"1"):
                txn.put(key, datum.SerializeToString())
    (folder / "images.txt").write_text(f"{folder}/colour.png 1\n")
    windows = f"# 0\n{folder}/colour.png\n3\n{HEIGHT}\n{WIDTH}\n2\n1 0.9 0 0 9 9\n0 0.1 5 5 15 15\n"
    (folder / "windows.txt").write_text(windows)
    with h5py.File(folder / "rows.h5", "w") as file:
        file["t0"] = np.zeros((7, 3, 5), np.float32)
        file["t1"] = np.zeros((7,), np.float32)
    (folder / "rows.txt").write_text(f"{folder}/rows.h5\n")
    return folder


def layer(kind: str, params: str, tops: int = 2) -> str:
    names = " ".join(f'top: "t{i}"' for i in range(tops))
    return f'layer {{ name: "l" type: "{kind}" {names} {params} }}'


def data(more: str = "", transform: str = "", source: str = "raw", tops: int = 2) -> str:
    params = f'source: "FOLDER/{source}" backend: LMDB {more}'
    return layer("Data", f"data_param {{ {params} }} transform_param {{ {transform} }}", tops)


def image(more: str = "", transform: str = "", tops: int = 2) -> str:
    params = f'image_data_param {{ source: "FOLDER/images.txt" {more} }}'
    return layer("ImageData", f"{params} transform_param {{ {transform} }}", tops)


def windows(more: str = "", transform: str = "") -> str:
    params = f'window_data_param {{ source: "FOLDER/windows.txt" {more} }}'
    return layer("WindowData", f"{params} transform_param {{ {transform} }}")


def rows(params: str = "batch_size: 5", more: str = "", tops: int = 2) -> str:
    return layer(
        "HDF5Data", f'hdf5_data_param {{ source: "FOLDER/rows.txt" {params} }} {more}', tops
    )


def written(first: str, second: str) -> str:
    return (
        'layer { name: "in" type: "Input" top: "a" top: "b" input_param { '
        f'shape {{ {first} }} shape {{ {second} }} }} }} layer {{ name: "l" type: "HDF5Output" '
        'bottom: "a" bottom: "b" hdf5_output_param { file_name: "FOLDER/out.h5" } }'
    )


#: (net, what the source's records look like)
ACCEPTED: dict[str, list[tuple[str, tuple[Shape, ...] | None]]] = {
    "Data": [
        (data("batch_size: 5"), (RECORD,)),
        (data("batch_size: 5 prefetch: 1", "crop_size: 13 mean_value: 7", tops=1), (RECORD,)),
        (data("batch_size: 5", "mean_value: 1 mean_value: 2 mean_value: 3"), (RECORD,)),
        (data("batch_size: 5", source="encoded"), ((1, HEIGHT, WIDTH),)),
        (data("batch_size: 5", "force_color: true", source="encoded"), (RECORD,)),
    ],
    "ImageData": [
        (image(), (RECORD,)),
        (image("batch_size: 5 is_color: false", "crop_size: 13"), (RECORD,)),
        (image("batch_size: 5 new_height: 29 new_width: 31"), None),
        (image("new_height: 29 new_width: 31", "crop_size: 29"), None),
    ],
    "WindowData": [
        (windows("batch_size: 5", "crop_size: 13"), None),
        (windows("batch_size: 5", "crop_size: 29"), (RECORD,)),  # windows are stretched to it
    ],
    "HDF5Data": [(rows(), ((3, 5), ())), (rows(tops=1), ((3, 5),))],
    "HDF5Output": [
        (written("dim: 5 dim: 3", "dim: 5"), None),
        (written("dim: 5 dim: 3 dim: 2 dim: 7", "dim: 5 dim: 1"), None),
    ],
}

REFUSED: dict[str, list[tuple[str, tuple[Shape, ...] | None]]] = {
    "Data": [
        (data(), (RECORD,)),
        (data("batch_size: 5", "crop_size: 20"), (RECORD,)),
        (data("batch_size: 5", "mean_value: 1 mean_value: 2"), (RECORD,)),
        (data("batch_size: 5", 'mean_value: 1 mean_file: "x"'), (RECORD,)),
        (data("batch_size: 5", tops=3), (RECORD,)),
    ],
    "ImageData": [
        (image("new_height: 29"), (RECORD,)),
        (image("batch_size: 0"), (RECORD,)),
        (image(transform="crop_size: 20"), (RECORD,)),
        (image("new_height: 29 new_width: 31", "crop_size: 30"), (RECORD,)),
        (image(tops=1), (RECORD,)),
    ],
    "WindowData": [
        (windows("batch_size: 5"), (RECORD,)),
        (windows("", "crop_size: 13"), (RECORD,)),
        (windows("batch_size: 5", "crop_size: 13 mean_value: 1 mean_value: 2"), (RECORD,)),
    ],
    "HDF5Data": [(rows(more="transform_param { }"), ((3, 5), ()))],
    "HDF5Output": [
        (written("dim: 5 dim: 3", "dim: 7"), None),
        (written("dim: 5 dim: 3 dim: 2 dim: 7 dim: 11", "dim: 5"), None),
    ],
}


@pytest.mark.parametrize("cases", [ACCEPTED, REFUSED], ids=["accepted", "refused"])
def test_same_verdict_as_caffe(
    cases: dict[str, list[tuple[str, tuple[Shape, ...] | None]]],
    files: Path,
    tmp_path: Path,
    pycaffe: Callable[..., str],
) -> None:
    nets = [case for of_type in cases.values() for case in of_type]
    texts = [net.replace("FOLDER", str(files)) for net, _ in nets]
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.prototxt").write_text(text)
    pycaffe(CHILD, str(tmp_path), str(len(nets)))
    for number, (text, (_, records)) in enumerate(zip(texts, nets, strict=True)):
        shapes = tmp_path / f"{number}.json"
        caffe = json.loads(shapes.read_text()) if shapes.exists() else None
        ours = our_shapes(text, records)
        assert (text, ours) == (text, caffe)
        assert (text, ours is None) == (text, cases is REFUSED)


def our_shapes(text: str, records: tuple[Shape, ...] | None) -> dict[str, list[int]] | None:
    message = text_format.Parse(text, caffe_pb2.NetParameter())
    layers = [convert(layer, BUILT_IN[layer.type], RecordSizes(records)) for layer in message.layer]
    try:
        return {
            name: list(shape) for name, shape in build(layers, phase="TRAIN").blob_shapes.items()
        }
    except NetError:
        return None


def test_a_size_that_nobody_knows_is_asked_for() -> None:
    site = Site("TRAIN", DataSettings(batch_size=5), (), tops=2)
    with pytest.raises(InputShapeError, match="the size of its records is not known"):
        BUILT_IN["Data"].shape(site)
    with pytest.raises(InputShapeError, match="not 3x5"):
        BUILT_IN["Data"].shape(Site("TRAIN", DataSettings(batch_size=5), (), 2, records=((3, 5),)))
    with pytest.raises(InputShapeError, match='input_shape="TOP=DIMxDIM'):
        BUILT_IN["HDF5Data"].shape(Site("TRAIN", HDF5DataSettings(batch_size=5), (), tops=2))


def test_no_prefetch_is_refused() -> None:
    """Caffe would wait for a batch that nobody fills."""
    site = Site("TRAIN", DataSettings(batch_size=5, prefetch=0), (), 2, records=(RECORD,))
    with pytest.raises(ShapeError, match=r"prefetch must be at least 1"):
        BUILT_IN["Data"].shape(site)


def test_prefetched_batches_hold_the_tops() -> None:
    settings = DataSettings(batch_size=5, prefetch=3, crop_size=13, mean_file="mean.binaryproto")
    site = Site("TRAIN", settings, (), 2, records=(RECORD,))
    memory = BUILT_IN["Data"].memory(site, "gpu")
    batch = Buffer("prefetch_data_", 5 * 3 * 13 * 13, copies=3, prefetch=True)
    assert memory.buffers == (batch, Buffer("prefetch_label_", 5, copies=3, prefetch=True))
    assert memory.build == (own("prefetch_data_").data, own("prefetch_label_").data)
    assert memory.forward == ()
    assert (top(0).data, own("prefetch_data_").data) in memory.shares
    on_host = BUILT_IN["Data"].memory(site, "cpu").buffers
    assert on_host == (*memory.buffers, Buffer("data_mean_", 3 * HEIGHT * WIDTH))

"""The data layers of the PyTorch engine: batch by batch and bit by bit what real Caffe reads."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import h5py
import lmdb
import numpy as np
import pytest
import torch

from caffe_batch.engines.torch.data.feeds import Feed
from caffe_batch.engines.torch.data.opening import Opener
from caffe_batch.engines.torch.draws import CaffeRandom
from caffe_batch.errors import InputError
from caffe_batch.layers.base import Phase
from caffe_batch.net.filtering import net_state
from caffe_batch.net.recipe import NetFile
from caffe_batch.prototxt import read_net
from caffe_batch.schema import caffe_pb2
from tests.leveldb import write_leveldb

Arrays = dict[str, list[np.ndarray[Any, Any]]]

#: Prime numbers, all different: records, and their sizes.
RECORDS, CHANNELS, HEIGHT, WIDTH = 11, 3, 13, 17
BATCH, PASSES, SEED = 5, 7, 1234

READ = """
import sys
import caffe, numpy
caffe.set_random_seed({seed})
net = caffe.Net("net.prototxt", getattr(caffe, {phase!r}))
kept = {{}}
for number in range({passes}):
    net.forward()
    for name, blob in net.blobs.items():
        kept[f"{{name}}.{{number}}"] = blob.data.copy()
numpy.savez("caffe.npz", **kept)
"""


def feeds_of(folder: Path, phase: Phase, seed: int | None = SEED) -> tuple[Opener, list[Feed]]:
    """The open data layers of net.prototxt; relative paths start in ``folder``."""
    message = read_net(folder / "net.prototxt")
    file = NetFile(message, None, net_state(phase, message, None))
    opener = Opener(CaffeRandom(seed), folder.joinpath)
    return opener, [
        Feed(layer.name, opener.open(layer, phase), torch.device("cpu"))
        for _, layer in file.selected()
    ]


def read(folder: Path, phase: Phase, passes: int = PASSES, skipped: int = 0) -> Arrays:
    """What the engine reads; the first batches can be skipped."""
    message = read_net(folder / "net.prototxt")
    opener, feeds = feeds_of(folder, phase)
    found: Arrays = {}
    for layer, feed in zip(message.layer, feeds, strict=True):
        feed.go_to(skipped * BATCH)
        for _ in range(passes - skipped):
            for name, top in zip(layer.top, feed.next(), strict=True):
                assert top.dtype == torch.float32
                found.setdefault(name, []).append(top.numpy().copy())
        feed.close()
    opener.close()
    return found


def check(pycaffe: Callable[..., str], folder: Path, net: str, phase: Phase = "TRAIN") -> None:
    """Compare with Caffe, from the first batch on and from the middle."""
    (folder / "net.prototxt").write_text(net)
    pycaffe(READ.format(seed=SEED, phase=phase, passes=PASSES), cwd=folder)
    for skipped in (0, 3):
        found = read(folder, phase, skipped=skipped)
        with np.load(folder / "caffe.npz") as wanted:
            assert {name.rpartition(".")[0] for name in wanted.files} == set(found)
            for name, arrays in found.items():
                for number, array in enumerate(arrays, skipped):
                    np.testing.assert_array_equal(array, wanted[f"{name}.{number}"])


def draws() -> np.random.Generator:
    return np.random.default_rng(5)


def pictures(shape: tuple[int, ...] = (RECORDS, HEIGHT, WIDTH, CHANNELS)) -> Any:
    return draws().integers(0, 256, shape, np.uint8)


def datums(kind: str) -> list[caffe_pb2.Datum]:
    """Some records: ``raw`` bytes, ``floats``, or ``encoded`` images."""
    found = []
    for label, picture in enumerate(pictures()):
        planes = picture.transpose(2, 0, 1)
        datum = caffe_pb2.Datum(channels=CHANNELS, height=HEIGHT, width=WIDTH, label=label)
        if kind == "raw":
            datum.data = planes.tobytes()
        elif kind == "floats":
            datum.float_data.extend((planes.ravel() / 7).tolist())
        else:
            datum.data = cv2.imencode(".jpg" if label % 2 else ".png", picture)[1].tobytes()
            datum.encoded = True
        found.append(datum)
    return found


def write_lmdb(path: Path, kind: str = "raw") -> None:
    with lmdb.open(str(path), map_size=1 << 24) as database, database.begin(write=True) as put:
        for number, datum in enumerate(datums(kind)):
            put.put(b"%08d" % number, datum.SerializeToString())


def write_mean(path: Path) -> None:
    blob = caffe_pb2.BlobProto(num=1, channels=CHANNELS, height=HEIGHT, width=WIDTH)
    blob.data.extend(draws().uniform(0, 255, CHANNELS * HEIGHT * WIDTH).tolist())
    path.write_bytes(blob.SerializeToString())


DATA = """
layer {{ name: "data" type: "Data" top: "data" top: "label"
  transform_param {{ {transform} }}
  data_param {{ source: "db" backend: {backend} batch_size: 5 }} }}
"""


@pytest.mark.parametrize(
    ("transform", "phase"),
    [
        ("", "TRAIN"),
        ("scale: 0.00390625 mean_value: 104 mean_value: 117 mean_value: 123", "TRAIN"),
        ("crop_size: 7 mirror: true scale: 0.017 mean_value: 104.5", "TRAIN"),
        ('crop_size: 7 mirror: true scale: 0.017 mean_file: "mean"', "TRAIN"),
        ('mirror: true mean_file: "mean"', "TRAIN"),
        ('crop_size: 7 mirror: true scale: 0.017 mean_file: "mean"', "TEST"),
        ("crop_size: 7 scale: 0.3", "TEST"),
    ],
)
def test_records_are_transformed_alike(
    pycaffe: Callable[..., str], tmp_path: Path, transform: str, phase: Phase
) -> None:
    write_lmdb(tmp_path / "db")
    write_mean(tmp_path / "mean")
    check(pycaffe, tmp_path, DATA.format(transform=transform, backend="LMDB"), phase)


@pytest.mark.parametrize(
    ("kind", "transform"),
    [
        ("floats", "crop_size: 7 mirror: true scale: 0.3 mean_value: 5"),
        ("encoded", "force_color: true crop_size: 7 mirror: true"),
        ("encoded", "force_gray: true scale: 0.5"),
        ("encoded", ""),
    ],
)
def test_records_are_read_alike(
    pycaffe: Callable[..., str], tmp_path: Path, kind: str, transform: str
) -> None:
    write_lmdb(tmp_path / "db", kind)
    check(pycaffe, tmp_path, DATA.format(transform=transform, backend="LMDB"))


def test_a_leveldb_is_read_alike(pycaffe: Callable[..., str], tmp_path: Path) -> None:
    write_leveldb(tmp_path / "db", (datum.SerializeToString() for datum in datums("raw")))
    check(pycaffe, tmp_path, DATA.format(transform="mirror: true", backend="LEVELDB"))


def test_several_layers_share_a_database_and_the_generator(
    pycaffe: Callable[..., str], tmp_path: Path
) -> None:
    write_lmdb(tmp_path / "db")
    one = DATA.format(transform="crop_size: 7 mirror: true", backend="LMDB")
    two = one.replace("data", "more").replace("more_param", "data_param").replace("label", "other")
    check(pycaffe, tmp_path, one + two)


IMAGES = """
layer {{ name: "data" type: "ImageData" top: "data" top: "label"
  transform_param {{ {transform} }}
  image_data_param {{ source: "list" root_folder: "images/" batch_size: 5 {settings} }} }}
"""


def write_images(folder: Path, sizes: Callable[[int], tuple[int, int]]) -> None:
    (folder / "images").mkdir()
    lines = []
    for number in range(RECORDS):
        height, width = sizes(number)
        name = f"a picture {number}.{'jpg' if number % 2 else 'png'}"
        picture = np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)
        cv2.imwrite(str(folder / "images" / name), cv2.GaussianBlur(picture, (3, 3), 1))
        lines.append(f"{name} {number * 7}\n")
    (folder / "list").write_text("".join(lines))


@pytest.mark.parametrize(
    ("transform", "settings"),
    [
        ("", "new_height: 19 new_width: 23"),
        ("", "new_height: 41 new_width: 30"),
        ("crop_size: 7 mirror: true", "new_height: 11 new_width: 9 shuffle: true"),
        ("", "new_height: 19 new_width: 23 is_color: false"),
        ("crop_size: 7", "rand_skip: 9"),
        ("crop_size: 7 mirror: true", "rand_skip: 9 shuffle: true"),
    ],
)
def test_images_are_read_alike(
    pycaffe: Callable[..., str], tmp_path: Path, transform: str, settings: str
) -> None:
    write_images(tmp_path, lambda number: (20 + number, 31 - number))
    check(pycaffe, tmp_path, IMAGES.format(transform=transform, settings=settings))


def test_a_picture_of_half_the_size_is_averaged(
    pycaffe: Callable[..., str], tmp_path: Path
) -> None:
    write_images(tmp_path, lambda number: (22, 26))
    check(pycaffe, tmp_path, IMAGES.format(transform="", settings="new_height: 11 new_width: 13"))


WINDOWS = """
layer {{ name: "data" type: "WindowData" top: "data" top: "label"
  transform_param {{ crop_size: 9 {transform} }}
  window_data_param {{ source: "windows" root_folder: "images/" batch_size: 5
    fg_fraction: 0.4 {settings} }} }}
"""


@pytest.mark.parametrize(
    ("transform", "settings"),
    [
        ("", ""),
        ("mirror: true mean_value: 104 mean_value: 117 mean_value: 123", "scale: 0.5"),
        ('mirror: true mean_file: "mean"', "context_pad: 2"),
        ("mirror: true", 'context_pad: 1 crop_mode: "square"'),
    ],
)
def test_windows_are_drawn_alike(
    pycaffe: Callable[..., str], tmp_path: Path, transform: str, settings: str
) -> None:
    write_images(tmp_path, lambda number: (30, 34))
    write_mean(tmp_path / "mean")
    names = [line.rpartition(" ")[0] for line in (tmp_path / "list").read_text().splitlines()]
    text = ""
    for number, name in enumerate(names[:4]):
        short = f"{number}.png"
        (tmp_path / "images" / name).rename(tmp_path / "images" / short)
        corners = draws().integers(0, 12, (6, 2))
        windows = "".join(
            f"{index + 1} {index / 5} {x} {y} {x + 6 + index} {y + 15 - index}\n"
            for index, (x, y) in enumerate(corners)
        )
        text += f"# {number}\n{short}\n3\n30\n34\n6\n{windows}"
    (tmp_path / "windows").write_text(text)
    check(pycaffe, tmp_path, WINDOWS.format(transform=transform, settings=settings))


ROWS = """
layer {{ name: "data" type: "HDF5Data" top: "data" top: "label"
  hdf5_data_param {{ source: "list" batch_size: 5 shuffle: {shuffle} }} }}
"""


def write_rows(folder: Path, files: tuple[int, ...]) -> None:
    random = draws()
    for number, rows in enumerate(files):
        with h5py.File(folder / f"{number}.h5", "w") as file:
            file["data"] = random.normal(size=(rows, 2, 3))
            file["label"] = random.integers(0, 9, rows)
    (folder / "list").write_text("".join(f"{number}.h5\n" for number in range(len(files))))


@pytest.mark.parametrize("files", [(11,), (3, 8, 2)])
@pytest.mark.parametrize("shuffle", ["false", "true"])
def test_rows_are_read_alike(
    pycaffe: Callable[..., str], tmp_path: Path, files: tuple[int, ...], shuffle: str
) -> None:
    write_rows(tmp_path, files)
    check(pycaffe, tmp_path, ROWS.format(shuffle=shuffle))


def test_shuffled_rows_go_on_from_a_state(tmp_path: Path) -> None:
    write_rows(tmp_path, (3, 8, 2))
    (tmp_path / "net.prototxt").write_text(ROWS.format(shuffle="true"))
    opener, (feed,) = feeds_of(tmp_path, "TRAIN")
    for _ in range(3):
        feed.next()
    state, words = feed.state(), opener.libc.words.copy()
    wanted = [feed.next() for _ in range(8)]
    opener, (feed,) = feeds_of(tmp_path, "TRAIN")
    feed.go_to(3 * BATCH, state)
    opener.libc.words = words
    for tops in wanted:
        for found, top in zip(feed.next(), tops, strict=True):
            assert torch.equal(found, top)


WITHOUT_ROOM = """
import re, resource, threading
from pathlib import Path
from tests.engines.torch.test_torch_data import feeds_of

opener, feeds = feeds_of(Path(), "TRAIN")
size = 1024 * int(re.findall(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[0])
threading.stack_size(2**30)
resource.setrlimit(resource.RLIMIT_AS, (size + 2**29, resource.RLIM_INFINITY))
try:
    feeds[0].next()
except MemoryError as error:
    print(error)
feeds[0].close()
opener.close()
"""


def test_without_room_for_its_thread_a_feed_says_so_and_closes(tmp_path: Path) -> None:
    """Python says "can't start new thread", which no one would read as a lack of memory."""
    write_lmdb(tmp_path / "db")
    (tmp_path / "net.prototxt").write_text(DATA.format(transform="", backend="LMDB"))
    here = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    child = subprocess.run(
        [sys.executable, "-c", WITHOUT_ROOM], cwd=tmp_path, env=here,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (child.returncode, child.stdout) == (
        0, "layer 'data': can't start new thread\n",
    ), child.stderr  # fmt: skip


def test_without_a_seed_other_crops_are_drawn(tmp_path: Path) -> None:
    write_lmdb(tmp_path / "db")
    net = DATA.format(transform="crop_size: 3 mirror: true", backend="LMDB")
    (tmp_path / "net.prototxt").write_text(net)
    found = []
    for _ in range(2):
        opener, (feed,) = feeds_of(tmp_path, "TRAIN", None)
        found.append(torch.cat([feed.next()[0] for _ in range(PASSES)]))
        feed.close()
        opener.close()
    assert not torch.equal(*found)


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        ("crop_size: 14", "record '00000000': a record of 13 x 17 is smaller than crop_size 14"),
        ("mean_value: 1 mean_value: 2", "2 mean_value for 3 channels"),
        ('mean_file: "mean"', "a record is 3 x 13 x 17 and the mean file 1 x 2 x 3"),
    ],
)
def test_what_does_not_fit_is_told(tmp_path: Path, transform: str, message: str) -> None:
    write_lmdb(tmp_path / "db")
    blob = caffe_pb2.BlobProto(num=1, channels=1, height=2, width=3)
    blob.data.extend([0.0] * 6)
    (tmp_path / "mean").write_bytes(blob.SerializeToString())
    (tmp_path / "net.prototxt").write_text(DATA.format(transform=transform, backend="LMDB"))
    opener, (feed,) = feeds_of(tmp_path, "TRAIN")
    with pytest.raises(InputError, match=message):
        feed.next()
    feed.close()
    opener.close()

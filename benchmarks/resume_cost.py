"""What it costs to move a data layer to a record, compared with reading up to it.

    python benchmarks/resume_cost.py [--records N] [--json FILE]

For each kind of source, with records as large as CIFAR's (3 x 32 x 32): microseconds per record to
skip ahead as a resumed run does, and to let the layer read and transform the same records, which is
the alternative. At most one epoch is skipped, however many came before; HDF5Data that shuffles goes
through all of them. The best of several runs counts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import h5py
import lmdb
import numpy as np
import plyvel
from PIL import Image

from caffe_batch import runtimes
from caffe_batch.schema import caffe_pb2

ROOT = Path(__file__).resolve().parent.parent
BATCH, SHAPE, TURNS = 100, (3, 32, 32), 3
IMAGES = 2_000  # an image takes long to read

#: Type of the layer, and its settings with the source in place of %s.
LAYERS = {
    "LMDB": ("Data", 'data_param { source: "%s" backend: LMDB batch_size: 100 }'),
    "LevelDB": ("Data", 'data_param { source: "%s" batch_size: 100 }'),
    "HDF5": ("HDF5Data", 'hdf5_data_param { source: "%s" batch_size: 100 }'),
    "shuffled HDF5": ("HDF5Data", 'hdf5_data_param { source: "%s" batch_size: 100 shuffle: true }'),
    "images": ("ImageData", 'image_data_param { source: "%s" batch_size: 100 }'),
}

MEASURE = """
import sys, time, json
sys.path.insert(0, sys.argv[1])
import caffe
from record_seeker import RecordSeeker
net, layer_type, records, turns = sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
caffe.init_log(2, True)

def build(count):
    start = time.perf_counter()
    with RecordSeeker(caffe, {layer_type: [count]}).active():
        made = caffe.Net(net, caffe.TRAIN)
    return made, time.perf_counter() - start

going_on, reading = [], []
for _ in range(turns):
    made, least = build(0)
    start = time.perf_counter()
    for _ in range(records // 100):
        made._forward(0, 0)
    reading.append(time.perf_counter() - start)
    del made
    if layer_type != "ImageData":
        made, seconds = build(records)
        going_on.append(seconds - least)
        del made
print(json.dumps([min(times) / records * 1e6 if times else None for times in (going_on, reading)]))
"""


def datums(records: int) -> Iterator[tuple[bytes, bytes]]:
    draw = np.random.default_rng(1)
    for number in range(records):
        data = draw.integers(256, size=SHAPE, dtype=np.uint8).tobytes()
        datum = caffe_pb2.Datum(channels=3, height=32, width=32, label=0, data=data)
        yield b"%08d" % number, datum.SerializeToString()


def write_lmdb(folder: Path, records: int) -> Path:
    path = folder / "lmdb"
    with lmdb.open(str(path), map_size=1 << 34) as base, base.begin(write=True) as put:
        for key, value in datums(records):
            put.put(key, value)
    return path


def write_leveldb(folder: Path, records: int) -> Path:
    path = folder / "leveldb"
    with plyvel.DB(str(path), create_if_missing=True) as base:
        for key, value in datums(records):
            base.put(key, value)
    return path


def write_hdf5(folder: Path, records: int) -> Path:
    """Ten files."""
    draw, names = np.random.default_rng(1), []
    for number in range(10):
        names.append(str(folder / f"{number}.h5"))
        with h5py.File(names[-1], "w") as file:
            file["data"] = draw.random((records // 10, *SHAPE), dtype=np.float32)
            file["label"] = np.zeros(records // 10, np.float32)
    (folder / "hdf5").write_text("\n".join(names))
    return folder / "hdf5"


def write_images(folder: Path, records: int) -> Path:
    """A number of PNG files, which the list repeats."""
    draw, lines = np.random.default_rng(1), []
    for number in range(IMAGES):
        path = folder / f"{number}.png"
        Image.fromarray(draw.integers(256, size=(32, 32, 3), dtype=np.uint8)).save(path)
        lines.append(f"{path} 0\n")
    (folder / "images").write_text("".join(lines * -(-records // IMAGES)))
    return folder / "images"


WRITERS: dict[str, Callable[[Path, int], Path]] = {
    "LMDB": write_lmdb,
    "LevelDB": write_leveldb,
    "HDF5": write_hdf5,
    "shuffled HDF5": write_hdf5,
    "images": write_images,
}


def turned_list_us(path: Path) -> float:
    """Microseconds per line to write an image list that begins in the middle."""
    seconds = []
    for _ in range(TURNS):
        start = time.perf_counter()
        lines = path.read_bytes().split(b"\n")[:-1]
        middle = len(lines) // 2
        path.with_suffix(".turned").write_bytes(b"\n".join((*lines[middle:], *lines[:middle], b"")))
        seconds.append((time.perf_counter() - start) / len(lines))
    return 1e6 * min(seconds)


def measure(name: str, records: int) -> tuple[float, float]:
    """Microseconds per record: to skip it, and to read it."""
    runtime = runtimes.find()
    layer_type, settings = LAYERS[name]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        source = WRITERS[name](folder, records)
        net = folder / "net.prototxt"
        net.write_text(
            f'layer {{ name: "data" type: "{layer_type}" top: "data" top: "label" '
            f"{settings % source} }}\n"
        )
        code = [MEASURE, str(ROOT / "caffe_batch" / "training"), str(net), layer_type]
        read = min(records, IMAGES) if name == "images" else records
        done = subprocess.run(
            runtime.command(["-c", *code, str(read), str(TURNS)]),
            env=runtime.environment(), stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
        going_on, reading = json.loads(done.stdout)
        return going_on if name != "images" else turned_list_us(source), reading


def main() -> None:
    """Measures all kinds and prints a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=20_000, help="a multiple of 1000")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    options = parser.parse_args()
    figures = {}
    for name in LAYERS:
        going_on, reading = measure(name, options.records)
        figures[name] = {"go_on_us": round(going_on, 3), "read_us": round(reading, 3)}
        print(f"{name:14} {going_on:8.2f} us per record to go on, {reading:8.2f} us to read")
    if options.json:
        options.json.write_text(
            json.dumps({"records": options.records, **figures}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()

"""How fast the engines read data, side by side: the second table of docs/pytorch.md.

    python benchmarks/input.py [--turns N] [--json FILE]

A net of nothing but a data layer: images of 3 x 256 x 256 from an LMDB, raw or as JPEG, or from a
list of JPEG files; a crop of 227, mirrored, less a mean of each channel. Caffe and the PyTorch
engine read the same records by turns. The processor time of all threads counts, for a sample.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import lmdb
import numpy as np
from PIL import Image

from benchmarks.engines import summary, versions, workers
from caffe_batch.schema import caffe_pb2

BATCH, RECORDS, SIZE = 32, 256, 256

TRANSFORM = (
    "transform_param { crop_size: 227 mirror: true "
    "mean_value: 104 mean_value: 117 mean_value: 123 }"
)

#: The data layers by name.
LAYERS = {
    "LMDB, raw": f'type: "Data" data_param {{ source: "raw" backend: LMDB batch_size: {BATCH} }}',
    "LMDB, JPEG": f'type: "Data" data_param {{ source: "jpeg" backend: LMDB batch_size: {BATCH} }}',
    "ImageData, JPEG": 'type: "ImageData" image_data_param { source: "list.txt" '
    f"batch_size: {BATCH} }}",
}


def write_records(folder: Path) -> None:
    """The same smooth pictures three times: raw and encoded in LMDBs, and as files in a list."""
    draw = np.random.default_rng(1)
    raw, encoded, lines = {}, {}, []
    for number in range(RECORDS):
        coarse = Image.fromarray(draw.integers(0, 256, (16, 16, 3), np.uint8))
        picture = coarse.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=90)
        planes = np.asarray(picture)[:, :, ::-1].transpose(2, 0, 1)
        label = number % 10
        key = f"{number:05d}".encode()
        raw[key] = caffe_pb2.Datum(
            channels=3, height=SIZE, width=SIZE, data=planes.tobytes(), label=label
        ).SerializeToString()
        encoded[key] = caffe_pb2.Datum(
            data=file.getvalue(), encoded=True, label=label
        ).SerializeToString()
        (folder / f"{number}.jpg").write_bytes(file.getvalue())
        lines.append(f"{number}.jpg {label}\n")
    (folder / "list.txt").write_text("".join(lines))
    for name, records in (("raw", raw), ("jpeg", encoded)):
        with (
            lmdb.open(str(folder / name), map_size=1 << 28) as database,
            database.begin(write=True) as transaction,
        ):
            for key, value in records.items():
                transaction.put(key, value)


def main() -> None:
    """Measures and prints a line for each kind of data; writes the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--batches", type=int, default=16, help="of a turn")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    options = parser.parse_args()
    results: dict[str, Any] = {"versions": versions(), "cases": {}}
    samples = options.batches * BATCH
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_records(folder)
        for kind, layer in LAYERS.items():
            net = folder / "net.prototxt"
            net.write_text(
                f'name: "input" layer {{ name: "data" top: "data" top: "label" {layer} '
                f"{TRANSFORM} }}\n"
            )
            with workers("feeder", [str(net)], 1, folder) as both:
                for _ in range(2):  # an answer is about the turn before it
                    for worker in both:
                        worker.work(options.batches)
                taken = [
                    tuple(
                        1e6 * worker.work(options.batches)["processor_s"] / samples
                        for worker in both
                    )
                    for _ in range(options.turns)
                ]
            found = summary([(caffe, torch) for caffe, torch in taken], "us")
            results["cases"][kind] = found
            low, high = found["quartiles"]
            print(
                f"{kind}: a sample takes Caffe {found['caffe_us']:,.0f} us, PyTorch "
                f"{found['torch_us']:,.0f} us, ratio {found['ratio']:.2f} ({low:.2f} to "
                f"{high:.2f})",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""What several GPUs read, according to the audit and to the nets of real Caffe.

A net of solver r of G is made in CPU mode by telling Caffe rank and number (pycaffe's
set_solver_rank and set_solver_count), as parallel.cpp does before it starts a worker.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import lmdb
import numpy as np
import pytest
from PIL import Image

from caffe_batch.memory import CaffeMemory
from caffe_batch.net import Sources, read_recipe
from caffe_batch.planning import Cause, Finding, Verdict, audit
from caffe_batch.schema import caffe_pb2

RECORDS, SIZE, GPUS = 24, 6, 2

#: The pixel at the top left of each record (that tells record, crop and mirror) and the labels, in
#: two updates of one GPU with the whole batch, and of each GPU with its share.
CHILD = """
import json, sys
import caffe

def read(path, rank, gpus, size, passes):
    caffe.set_solver_count(gpus)
    caffe.set_solver_rank(rank)
    caffe.set_random_seed(3 + rank)  # solver.cpp, Init
    net = caffe.Net(path, caffe.TRAIN)
    seen = []
    for _ in range(passes):
        net.forward()
        pixels = net.blobs["data"].data.reshape(size, -1)
        labels = net.blobs["label"].data.ravel()
        seen.append([[int(label), int(pixel[0])] for label, pixel in zip(labels, pixels)])
    return seen

whole, part, gpus, size, passes = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
print(json.dumps({
    "one": read(whole, 0, 1, gpus * size, passes),
    "each": [read(part, rank, gpus, size, passes) for rank in range(gpus)],
}))
"""


def write_records(folder: Path) -> dict[str, str]:
    """The same records in each format: record r has the label r and pixels that all differ."""
    pixels = [np.arange(9, dtype=np.uint8).reshape(3, 3) + 9 * r for r in range(RECORDS)]
    with lmdb.open(str(folder / "lmdb"), map_size=1 << 24) as base, base.begin(write=True) as put:
        for r, image in enumerate(pixels):
            datum = caffe_pb2.Datum(channels=1, height=3, width=3, label=r, data=image.tobytes())
            put.put(b"%08d" % r, datum.SerializeToString())
    with h5py.File(folder / "rows.h5", "w") as file:
        file["data"] = np.stack(pixels)[:, None].astype(np.float32)
        file["label"] = np.arange(RECORDS, dtype=np.float32)
    (folder / "rows.txt").write_text(f"{folder}/rows.h5\n")
    for r, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{r}.png")
    lines = [f"{folder}/{r}.png {r}\n" for r in range(RECORDS)]
    (folder / "images.txt").write_text("".join(lines))
    return {
        "Data": f'data_param {{ source: "{folder}/lmdb" backend: LMDB batch_size: %d }}',
        "HDF5Data": f'hdf5_data_param {{ source: "{folder}/rows.txt" batch_size: %d %s }}',
        "ImageData": f'image_data_param {{ source: "{folder}/images.txt" batch_size: %d '
        "is_color: false %s }",
    }


@pytest.fixture(scope="module")
def formats(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_records(tmp_path_factory.mktemp("records"))


def text(kind: str, settings: str, size: int, more: str, transform: str) -> str:
    filled = settings % ((size, more) if "%s" in settings else size)
    return (
        f'layer {{ name: "in" type: "{kind}" top: "data" top: "label" {filled} {transform} }}\n'
        'layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" '
        "inner_product_param { num_output: 2 } }\n"
        'layer { name: "loss" type: "EuclideanLoss" bottom: "ip" bottom: "ip" top: "loss" }\n'
    )


def finding(net: Path, gpus: int) -> Finding:
    recipe = read_recipe(net)
    model = CaffeMemory(recipe, Sources(recipe.directories), gpus=gpus)
    found = audit(model, batch_size=SIZE, iter_size=2, gpus=gpus)
    (order,) = [each for each in found if each.cause is Cause.DATA_ORDER]
    return order


SHUFFLE, MIRROR, CROP = "shuffle: true", "mirror: true", "crop_size: 2"


@pytest.mark.parametrize(
    ("kind", "more", "transform", "verdict"),
    [
        ("Data", "", "", Verdict.EXACT),
        ("Data", "", MIRROR, Verdict.APPROXIMATE),
        ("Data", "", CROP, Verdict.APPROXIMATE),
        ("HDF5Data", "", "", Verdict.EXACT),
        ("HDF5Data", SHUFFLE, "", Verdict.APPROXIMATE),
        ("ImageData", "", "", Verdict.DIFFERENT),
        ("ImageData", SHUFFLE, "", Verdict.APPROXIMATE),
    ],
)
def test_what_several_gpus_read(
    kind: str, more: str, transform: str, verdict: Verdict,
    formats: dict[str, str], tmp_path: Path, pycaffe: Callable[..., str],
) -> None:  # fmt: skip
    if transform:
        transform = f"transform_param {{ {transform} }}"
    files = {"whole": GPUS * SIZE, "part": SIZE}
    for name, size in files.items():
        (tmp_path / name).write_text(text(kind, formats[kind], size, more, transform))
    assert finding(tmp_path / "part", GPUS).verdict is verdict
    assert finding(tmp_path / "part", 1).verdict is Verdict.EXACT
    passes = RECORDS // (GPUS * SIZE)
    paths = [str(tmp_path / name) for name in files]
    seen = json.loads(pycaffe(CHILD, *paths, str(GPUS), str(SIZE), str(passes)))
    one = [sorted(map(tuple, update)) for update in seen["one"]]
    each = [
        sorted(tuple(record) for gpu in seen["each"] for record in gpu[number])
        for number in range(passes)
    ]
    assert (each == one) is (verdict is Verdict.EXACT)
    labels = [label for update in each for label, _ in update]
    once = sorted(labels) == list(range(RECORDS))  # each record once in an epoch
    assert once is (kind == "Data" or verdict is Verdict.EXACT)
    if verdict is Verdict.DIFFERENT:  # the same images on both GPUs
        assert seen["each"][0] == seen["each"][1]

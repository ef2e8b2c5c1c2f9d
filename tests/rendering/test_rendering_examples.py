"""The nets and solvers of prototxt/, each trained by real Caffe for two updates on made-up data."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import lmdb
import numpy as np
import pytest

from caffe_batch import resources
from caffe_batch.schema import caffe_pb2

EXAMPLES = resources.folder("prototxt")

TRAIN = """
import json
import caffe
caffe.set_mode_cpu()
solver = caffe.get_solver("solver.prototxt")
solver.step(2)
solver.test_nets[0].share_with(solver.net)
outputs = solver.test_nets[0].forward()
print(json.dumps({
    "iterations": solver.iter,
    "losses": [float(net.blobs["loss"].data) for net in (solver.net, solver.test_nets[0])],
    "batch": next(iter(solver.net.blobs.values())).data.shape[0],
    "outputs": sorted(outputs),
    "parameters": sum(
        blob.data.size for blobs in solver.net.params.values() for blob in blobs
    ),
}))
"""


def write_lmdb(path: Path, shape: tuple[int, int, int], labels: int) -> None:
    values = np.random.default_rng(0)
    channels, height, width = shape
    with lmdb.open(str(path), map_size=2**24) as database, database.begin(write=True) as writer:
        for index in range(150):
            image = values.integers(0, 256, shape, np.uint8)
            record = caffe_pb2.Datum(
                channels=channels,
                height=height,
                width=width,
                data=image.tobytes(),
                label=index % labels,
            )
            writer.put(b"%05d" % index, record.SerializeToString())


def write_hdf5(folder: Path, name: str) -> None:
    values = np.random.default_rng(0)
    with h5py.File(folder / f"{name}.h5", "w") as file:
        file["measured"] = values.normal(size=(600, 20)).astype(np.float32)
        file["wanted"] = values.normal(size=(600, 3)).astype(np.float32)
    (folder / f"{name}_files.txt").write_text(f"{name}.h5\n")


def write_data(example: str, folder: Path) -> None:
    for phase in ("train", "test"):
        if example == "mlp":
            write_hdf5(folder, phase)
        elif example == "siamese":
            write_lmdb(folder / f"pairs_{phase}_lmdb", (2, 28, 28), 2)
        elif example == "cifar10":
            write_lmdb(folder / f"cifar10_{phase}_lmdb", (3, 32, 32), 10)
        else:
            write_lmdb(folder / f"digits_{phase}_lmdb", (1, 8, 8), 10)


@pytest.mark.parametrize(
    ("example", "batch", "parameters", "outputs"),
    [
        ("digits", 256, 53_514, ["accuracy", "loss"]),
        ("cifar10", 100, 89_578, ["accuracy", "loss"]),
        ("mlp", 512, 20 * 64 + 64 + 64 * 64 + 64 + 64 * 3 + 3, ["loss"]),
        ("siamese", 128, 2 * (520 + 288_100 + 202), ["loss"]),
    ],
)
def test_an_example_trains(
    pycaffe: Callable[..., str],
    tmp_path: Path,
    example: str,
    batch: int,
    parameters: int,
    outputs: list[str],
) -> None:
    for file in ("net.prototxt", "solver.prototxt"):
        shutil.copy(EXAMPLES / example / file, tmp_path)
    write_data(example, tmp_path)
    result = json.loads(pycaffe(TRAIN, cwd=tmp_path))
    assert result["iterations"] == 2
    assert result["batch"] == batch
    assert result["parameters"] == parameters
    assert result["outputs"] == outputs
    assert all(math.isfinite(loss) for loss in result["losses"])


def test_the_readme_names_every_example() -> None:
    table = (EXAMPLES / "README.md").read_text()
    folders = [path.name for path in EXAMPLES.iterdir() if path.is_dir()]
    assert [name for name in folders if f"`{name}/`" not in table] == []

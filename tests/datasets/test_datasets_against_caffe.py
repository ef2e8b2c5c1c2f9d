"""What Caffe reads from a data set is what it reads from the pictures themselves.

ImageData loads a picture with the function that convert_imageset uses (io.cpp, ReadImageToCVMat);
benchmarks/data_conversion.py compares with that program itself.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from caffe_batch import api
from tests.datasets.making import HEIGHT, WIDTH, noise, read_lmdb, write_classes, write_kinds

Pycaffe = Callable[..., str]
Values = NDArray[np.float32]

READ = """
import sys
import numpy as np
import caffe
blobs = caffe.Net(sys.argv[1], caffe.TEST)
blobs.forward()
np.savez(sys.argv[2], data=blobs.blobs["data"].data, label=blobs.blobs["label"].data)
"""

NET = """layer {{ name: "data" type: "{type}" top: "data" top: "label" {more}
  {field} {{ source: "{source}" batch_size: {batch} {settings} }} }}"""


def read(pycaffe: Pycaffe, folder: Path, text: str) -> dict[str, Values]:
    (folder / "net.prototxt").write_text(text)
    pycaffe(READ, "net.prototxt", "read.npz", cwd=folder)
    with np.load(folder / "read.npz") as found:
        return dict(found)


def of_pictures(pycaffe: Pycaffe, folder: Path, count: int, settings: str) -> dict[str, Values]:
    text = NET.format(
        type="ImageData", field="image_data_param", source="list.txt", batch=count, more="",
        settings=f'root_folder: "pictures/" {settings}',
    )  # fmt: skip
    return read(pycaffe, folder, text)


def of_records(pycaffe: Pycaffe, folder: Path, count: int, more: str = "") -> dict[str, Values]:
    text = NET.format(
        type="Data", field="data_param", source="out/train_lmdb", batch=count, more=more,
        settings="backend: LMDB",
    )  # fmt: skip
    return read(pycaffe, folder, text)


def listed(folder: Path) -> list[str]:
    names = write_kinds(folder / "pictures")
    lines = (f"{name} {number % 3}\n" for number, name in enumerate(names))
    (folder / "list.txt").write_text("".join(lines))
    return names


@pytest.mark.parametrize("resize", [None, "31x29", "61x71"])
@pytest.mark.parametrize("gray", [False, True])
def test_pixels_of_all_kinds(
    pycaffe: Pycaffe, tmp_path: Path, gray: bool, resize: str | None
) -> None:
    names = listed(tmp_path)
    api.data(
        tmp_path / "list.txt", tmp_path / "out", root=tmp_path / "pictures", gray=gray,
        resize=resize, shuffle=False, test_share=0,
    )  # fmt: skip
    height, width = (resize or f"{HEIGHT}x{WIDTH}").split("x")
    settings = f"is_color: {str(not gray).lower()} new_height: {height} new_width: {width}"
    theirs = of_pictures(pycaffe, tmp_path, len(names), settings)
    ours = of_records(pycaffe, tmp_path, len(names))
    assert (ours["label"] == theirs["label"]).all()
    assert ours["data"].shape == (len(names), 1 if gray else 3, int(height), int(width))
    different = [
        name
        for name, one, other in zip(names, ours["data"], theirs["data"], strict=True)
        if (one != other).any()
    ]
    assert different == []


@pytest.mark.parametrize("kind", [None, "png"])
def test_encoded_records_are_read_as_the_pictures_are(
    pycaffe: Pycaffe, tmp_path: Path, kind: Literal["png"] | None
) -> None:
    """Also those that Caffe would decode otherwise: on their side, with alpha, with 16 bits."""
    names = listed(tmp_path)
    lossy = {"cmyk.jpg", "gray.jpg", "on its side.jpg"}  # encoded again, as JPEG
    api.data(
        tmp_path / "list.txt", tmp_path / "out", root=tmp_path / "pictures", encoded=True,
        encode_type=kind, shuffle=False, test_share=0,
    )  # fmt: skip
    theirs = of_pictures(pycaffe, tmp_path, len(names), "is_color: true")["data"]
    ours = of_records(pycaffe, tmp_path, len(names))["data"]
    for name, one, other in zip(names, ours, theirs, strict=True):
        if kind is None and name in lossy:
            assert np.abs(one - other).mean() < 6, name
        else:
            assert (one == other).all(), name


def test_files_that_caffe_reads_as_they_are_stay_as_they_are(tmp_path: Path) -> None:
    names = listed(tmp_path)
    api.data(
        tmp_path / "list.txt", tmp_path / "out", root=tmp_path / "pictures", encoded=True,
        shuffle=False, test_share=0,
    )  # fmt: skip
    records = [datum.data for _, datum in read_lmdb(tmp_path / "out" / "train_lmdb")]
    files = [(tmp_path / "pictures" / name).read_bytes() for name in names]
    kept = [name for name, one, other in zip(names, records, files, strict=True) if one == other]
    assert kept == ["a.jpg", "all colours.jpg", "b.png", "progressive.jpeg"]


def test_the_mean(pycaffe: Pycaffe, tmp_path: Path) -> None:
    """The mean file is what Caffe subtracts, and the values are those of its channels."""
    write_classes(tmp_path / "pictures", {"a": 7, "b": 6})
    made = api.data(tmp_path / "pictures", tmp_path / "out", resize="5x11", test_share=0)
    plain = of_records(pycaffe, tmp_path, 13)["data"]
    more = 'transform_param { mean_file: "out/mean.binaryproto" }'
    centred = of_records(pycaffe, tmp_path, 13, more)["data"]
    assert np.abs(centred.mean(axis=0)).max() < 1e-4
    assert np.allclose(plain - centred, plain.mean(axis=0), atol=1e-4)
    assert np.allclose(made.dataset.mean_values, plain.mean(axis=(0, 2, 3)), atol=1e-4)


def test_pictures_of_different_sizes_with_a_crop(pycaffe: Pycaffe, tmp_path: Path) -> None:
    for name, sizes in {"a": [(7, 9), (11, 8)], "b": [(13, 7), (8, 8)]}.items():
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number, size in enumerate(sizes):
            noise(number, *size).save(tmp_path / "pictures" / name / f"{number}.png")
    made = api.data(tmp_path / "pictures", tmp_path / "out", keep_sizes=True, test_share=0)
    assert made.dataset.shape is None
    assert made.dataset.mean_file is None
    read = of_records(pycaffe, tmp_path, 4, "transform_param { crop_size: 5 }")
    assert read["data"].shape == (4, 3, 5, 5)
    every = [datum for _, datum in read_lmdb(tmp_path / "out" / "train_lmdb")]
    mean = sum(
        np.frombuffer(datum.data, np.uint8).reshape(3, -1).sum(axis=1, dtype=np.int64)
        for datum in every
    ) / sum(datum.height * datum.width for datum in every)
    assert np.allclose(made.dataset.mean_values, mean)

"""Pictures for the tests: the digits in folders, and one file of each kind that there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from caffe_batch.schema import caffe_pb2

HEIGHT, WIDTH = 37, 53


def noise(seed: int, height: int = HEIGHT, width: int = WIDTH, channels: int = 3) -> Image.Image:
    """A picture that no other one equals: gradients with some noise."""
    draws = np.random.default_rng(seed)
    coarse = draws.integers(0, 256, (5, 7, channels), np.uint8)
    image = Image.fromarray(coarse[:, :, 0] if channels == 1 else coarse)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def write_classes(folder: Path, counts: dict[str, int], size: int = 7) -> Path:
    """A folder with a folder of PNG files for each class."""
    seed = 0
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for index in range(count):
            noise(seed, size, size).save(folder / name / f"{index}.png")
            seed += 1
    return folder


def write_digits(folder: Path, most: int = 1797) -> Path:
    """scikit-learn's digits as PNG files in ten folders."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    for index, (image, label) in enumerate(zip(digits.images[:most], digits.target, strict=False)):
        path = folder / str(label) / f"{index:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 15).astype(np.uint8)).save(path)
    return folder


def write_kinds(folder: Path) -> list[str]:
    """One file of each kind of picture, all of the same size once they are upright; their names."""
    folder.mkdir(parents=True, exist_ok=True)
    colour, gray = noise(1), noise(2, channels=1)
    colour.save(folder / "a.jpg", quality=90)
    colour.save(folder / "all colours.jpg", quality=80, subsampling=0)
    colour.save(folder / "progressive.jpeg", quality=75, progressive=True)
    gray.save(folder / "gray.jpg")
    colour.convert("CMYK").save(folder / "cmyk.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(3, WIDTH, HEIGHT).save(folder / "on its side.jpg", exif=exif)
    colour.save(folder / "b.png")
    gray.save(folder / "gray.png")
    gray.convert("1").save(folder / "black and white.png")
    colour.convert("P", palette=Image.Palette.ADAPTIVE).save(folder / "palette.png")
    alpha = noise(4).convert("RGBA")
    alpha.putalpha(gray)
    alpha.save(folder / "alpha.png")
    Image.merge("LA", (gray, gray)).save(folder / "gray alpha.png")
    deep = np.asarray(gray).astype(np.uint16) * 257 + 90
    Image.fromarray(deep).save(folder / "16 bits.png")
    write_deep_colours(folder / "16 bit colours.png")
    colour.save(folder / "a.bmp")
    colour.save(folder / "a.tif")
    return sorted(path.name for path in folder.iterdir())


def write_deep_colours(path: Path) -> None:
    """A PNG with three channels of 16 bits, which Pillow reads but doesn't write."""
    import cv2

    values = np.random.default_rng(5).integers(0, 2**16, (HEIGHT, WIDTH, 3), np.uint16)
    assert cv2.imwrite(str(path), values)


def read_lmdb(path: Path) -> list[tuple[str, caffe_pb2.Datum]]:
    """Keys and records of an LMDB."""
    import lmdb

    found = []
    with lmdb.open(str(path), readonly=True, lock=False) as env, env.begin() as transaction:
        for key, value in transaction.cursor():
            datum = caffe_pb2.Datum()
            datum.ParseFromString(value)
            found.append((key.decode("utf-8", "surrogateescape"), datum))
    return found


def pixels(datum: caffe_pb2.Datum) -> NDArray[Any]:
    """The values of a raw record, (C, H, W)."""
    values = np.frombuffer(datum.data, np.uint8)
    return values.reshape(datum.channels, datum.height, datum.width)

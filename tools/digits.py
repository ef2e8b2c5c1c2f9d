"""Writes scikit-learn's handwritten digits as two LMDBs that Caffe's Data layer reads.

    python tools/digits.py FOLDER

makes FOLDER/digits_train_lmdb (1,437 records) and FOLDER/digits_test_lmdb (360): 8x8 grey images,
values 0..240 (the set's 0..16 times 15, to make use of a byte's range), labels 0..9. The split and
the order of the records are always the same; each digit has the same share in both sets.
An existing set is left unchanged.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import lmdb
import numpy as np
from numpy.typing import NDArray

from caffe_batch.schema import caffe_pb2

SEED = 0
TEST_RECORDS = 360
SCALE = 15  # 0..16 -> 0..240
MAP_BYTES = 64 * 2**20  # the size an LMDB may grow to; the file is only as large as its content

Images = NDArray[np.uint8]  # (records, 8, 8)
Labels = NDArray[np.int64]  # (records,)


def split_digits() -> dict[str, tuple[Images, Labels]]:
    """The digits as {"train": (images, labels), "test": ...}, shuffled with a fixed seed."""
    from sklearn.datasets import load_digits  # takes a second, and is only needed once
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = (digits.images * SCALE).astype(np.uint8)
    train, test, train_labels, test_labels = train_test_split(
        images, digits.target, test_size=TEST_RECORDS, stratify=digits.target, random_state=SEED
    )
    return {"train": (train, train_labels), "test": (test, test_labels)}


def write_lmdb(target: Path, images: Images, labels: Labels) -> None:
    """Write the records under a temporary name beside ``target``, then give them its name."""
    with tempfile.TemporaryDirectory(prefix=".digits-", dir=target.parent) as scratch:
        unfinished = Path(scratch) / target.name
        with (
            lmdb.open(str(unfinished), map_size=MAP_BYTES) as database,
            database.begin(write=True) as transaction,
        ):
            for index, (image, label) in enumerate(zip(images, labels, strict=True)):
                height, width = image.shape
                datum = caffe_pb2.Datum(
                    channels=1, height=height, width=width, data=image.tobytes(), label=int(label)
                )
                transaction.put(f"{index:05d}".encode(), datum.SerializeToString())
        unfinished.rename(target)


def write_digits(folder: Path) -> list[Path]:
    """Write the sets that are missing in ``folder``; return the paths of those written."""
    folder.mkdir(parents=True, exist_ok=True)
    targets = {name: folder / f"digits_{name}_lmdb" for name in ("train", "test")}
    missing = {name: target for name, target in targets.items() if not target.exists()}
    if missing:
        sets = split_digits()
        for name, target in missing.items():
            write_lmdb(target, *sets[name])
    return list(missing.values())


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the handwritten digits as two LMDBs.")
    parser.add_argument("folder", type=Path, help="where the two LMDBs go")
    folder = parser.parse_args().folder
    written = write_digits(folder)
    for path in written:
        print(f"wrote {path}")
    if not written:
        print(f"the digits are in {folder} already")


if __name__ == "__main__":
    main()

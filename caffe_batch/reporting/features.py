"""Features of pictures as an HDF5 file: a row for each picture, and their names."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from caffe_batch.errors import InputError
from caffe_batch.experiments.classification import Answer
from caffe_batch.files import write_bytes
from caffe_batch.net.data.extras import extra

#: The data set with the names of the pictures, in the order of the rows.
NAMES = "pictures"


def write_features(answers: Sequence[Answer], path: Path) -> None:
    """Write the values of each blob under its name; pictures without an answer have no row.

    Raises:
        InputError: There is no answer, or the pictures differ in the size of a blob.
        OSError: It can't be written.
    """
    import numpy as np

    h5py = extra("h5py", "hdf5", "HDF5 files")
    good = [answer for answer in answers if not answer.problem]
    if not good:
        raise InputError("no picture could be read, so there are no features")
    content = BytesIO()
    with h5py.File(content, "w") as file:
        for name in good[0].values:
            shapes = {answer.values[name].shape for answer in good}
            if len(shapes) > 1:
                raise InputError(
                    f"blob {name!r} has several shapes, since the pictures differ in size: "
                    f"{', '.join(map(str, sorted(shapes)))}",
                    hint="Take a blob that has one size, or pictures of one size.",
                )
            file[name] = np.stack([answer.values[name] for answer in good])
        names = [answer.picture.encode(errors="surrogateescape") for answer in good]
        file[NAMES] = np.array(names, dtype=object).astype("S") if names else names
    write_bytes(path, content.getvalue())

"""What the check of the data finds, judged by what real Caffe does with the same files."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import h5py
import lmdb
import numpy as np
import pytest
from PIL import Image

from caffe_batch import prototxt
from caffe_batch.errors import CaffeBatchError
from caffe_batch.net import Recipe, Sources
from caffe_batch.net.data import windows
from caffe_batch.net.data.check import check_data
from caffe_batch.net.data.findings import DataCheck, DataReport, Level
from caffe_batch.net.filtering import net_state
from caffe_batch.net.recipe import NetFile
from caffe_batch.schema import caffe_pb2
from tests.leveldb import write_leveldb

Pycaffe = Callable[..., str]

#: Ten passes, backward in TRAIN; ends with what Caffe ends with.
PASSES = """
import gc, sys, caffe
net = caffe.Net("net.prototxt", getattr(caffe, sys.argv[1]))
for _ in range(10):
    net.forward()
    if sys.argv[1] == "TRAIN":
        net.backward()
del net
gc.collect()
"""

FC = (
    'layer {{ name: "fc" type: "InnerProduct" bottom: "data" top: "fc" inner_product_param {{ '
    'num_output: {} weight_filler {{ type: "xavier" }} }} }}\n'
)
SOFTMAX = (
    'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }\n'
)
CLASSIFIER = FC.format(3) + SOFTMAX


def hdf5_layer(batch: int = 4, tops: str = 'top: "data" top: "label"', name: str = "d") -> str:
    return (
        f'layer {{ name: "{name}" type: "HDF5Data" {tops} hdf5_data_param {{ '
        f'source: "{name}.txt" batch_size: {batch} }} }}\n'
    )


def data_layer(transform: str = "", batch: int = 2, backend: str = "LMDB") -> str:
    return (
        f'layer {{ name: "d" type: "Data" top: "data" top: "label" transform_param {{ {transform} '
        f'}} data_param {{ source: "db" backend: {backend} batch_size: {batch} }} }}\n'
    )


def image_layer(transform: str = "", settings: str = "", batch: int = 2) -> str:
    return (
        f'layer {{ name: "d" type: "ImageData" top: "data" top: "label" transform_param {{ '
        f'{transform} }} image_data_param {{ source: "l.txt" batch_size: {batch} {settings} }} }}\n'
    )


def write_hdf5(folder: Path, *files: dict[str, np.ndarray], name: str = "d") -> None:
    for number, sets in enumerate(files):
        with h5py.File(folder / f"{name}{number}.h5", "w") as file:
            for top, values in sets.items():
                file[top] = values
    names = "\n".join(f"{name}{number}.h5" for number in range(len(files)))
    (folder / f"{name}.txt").write_text(names + "\n")


def rows(number: int, *shape: int) -> np.ndarray:
    values: np.ndarray = np.random.default_rng(1).random((number, *shape), np.float32)
    return values


def labelled(*labels: float) -> dict[str, np.ndarray]:
    return {"data": rows(len(labels), 5), "label": np.array(labels, np.float32)}


def datum(size: Sequence[int], label: int = 0, short: int = 0) -> bytes:
    channels, height, width = size
    data = bytes(channels * height * width - short)
    return caffe_pb2.Datum(
        channels=channels, height=height, width=width, data=data, label=label
    ).SerializeToString()


def write_lmdb(folder: Path, *values: bytes, name: str = "db") -> None:
    with lmdb.open(str(folder / name), map_size=2**24) as env, env.begin(write=True) as out:
        for number, value in enumerate(values):
            out.put(f"{number:08}".encode(), value)


def write_images(folder: Path, listing: str, **sizes: tuple[int, int]) -> None:
    for name, size in sizes.items():
        Image.new("RGB", size).save(folder / f"{name}.png")
    (folder / "l.txt").write_bytes(listing.encode())


def write_array(path: Path, values: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, values)


def write_blob(path: Path, *shape: int, old: bool = False) -> None:
    blob = caffe_pb2.BlobProto(data=[0.0] * int(np.prod(shape)))
    if old:
        blob.num, blob.channels, blob.height, blob.width = shape
    else:
        blob.shape.dim.extend(shape)
    path.write_bytes(blob.SerializeToString())


@dataclass(frozen=True)
class Case:
    """Files, a net, what is found in them, and whether real Caffe dies of it."""

    write: Callable[[Path], object]
    net: str
    says: tuple[str, ...] = ()
    level: Level = Level.ERROR
    dies: bool = True
    phase: str = "TRAIN"


def fine(write: Callable[[Path], object], net: str, phase: str = "TRAIN") -> Case:
    return Case(write, net, dies=False, phase=phase)


def remark(write: Callable[[Path], object], net: str, *says: str, phase: str = "TRAIN") -> Case:
    return Case(write, net, says, Level.REMARK, dies=False, phase=phase)


def labels(*values: float) -> Callable[[Path], object]:
    return lambda folder: write_hdf5(folder, labelled(*values))


def both(*writers: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda folder: [write(folder) for write in writers]


LOSS_OF = 'layer {{ name: "loss" type: "{}" bottom: "fc" bottom: "label" top: "loss" {} }}\n'
BY_CLASS = (
    'layer { name: "acc" type: "Accuracy" bottom: "fc" bottom: "label" top: "acc" top: "by" }\n'
)
ACCURACY = BY_CLASS.replace(' top: "by"', "")
EMBED = (
    'layer { name: "loss" type: "Embed" bottom: "label" top: "e" embed_param { input_dim: 3 '
    'num_output: 2 bias_term: false weight_filler { type: "xavier" } } }\n'
    'layer { name: "r" type: "Reduction" bottom: "e" top: "r" loss_weight: 1 }\n'
)
PROBABILITIES = 'layer { name: "s" type: "Softmax" bottom: "fc" top: "fc" }\n'
IGNORING = LOSS_OF.format("SoftmaxWithLoss", "loss_param { ignore_label: -1 }")
SLICED = (
    hdf5_layer(tops='top: "data" top: "pair"')
    + 'layer { name: "sl" type: "Slice" bottom: "pair" top: "other" top: "two" '
    "slice_param { axis: 1 slice_point: 1 } }\n"
    'layer { name: "fl" type: "Flatten" bottom: "two" top: "label" }\n'
    'layer { name: "si" type: "Silence" bottom: "other" }\n' + FC.format(3) + SOFTMAX
)


def pairs(folder: Path, *second: float) -> None:
    pair = np.stack([np.full(len(second), 9.0), np.array(second)], 1).astype(np.float32)
    write_hdf5(folder, {"data": rows(len(second), 5), "pair": pair})


LABELS = {
    "in range": fine(labels(0, 1, 2, 1), hdf5_layer() + CLASSIFIER),
    "above, in training": Case(
        labels(0, 1, 2, 5_000_000), hdf5_layer() + CLASSIFIER,
        ("label is 5e+06, but this layer takes 0 to 2", "writes to memory", "row 3"),
    ),
    "counted from 1": Case(
        labels(1, 2, 3, 3), hdf5_layer() + CLASSIFIER,
        ("label is 3, but", "row 2", "count from 1?"), dies=False,
    ),
    "below, in training": Case(
        labels(-1, 0, 1, 2), hdf5_layer() + CLASSIFIER, ("label is -1", "row 0", "ignore_label")
    ),
    "below, in a test": remark(
        labels(-1, 0, 1, 2), hdf5_layer() + CLASSIFIER, "label is -1", "reads", phase="TEST"
    ),
    "ignored": fine(labels(-1, 0, 1, 2), hdf5_layer() + FC.format(3) + IGNORING),
    "cut off by Caffe": fine(labels(-0.9, 0, 1, 2.9), hdf5_layer() + CLASSIFIER),
    "no number": Case(
        labels(0, 1, float("nan"), 2), hdf5_layer() + CLASSIFIER, ("label is -inf", "row 2")
    ),
    "accuracy": remark(
        labels(-1, 0, 1, 2), hdf5_layer() + FC.format(3) + ACCURACY, "label is -1", phase="TEST"
    ),
    "accuracy by class": Case(
        labels(-1, 0, 1, 2), hdf5_layer() + FC.format(3) + BY_CLASS, ("label is -1",), phase="TEST"
    ),
    "accuracy ignores through the wrong message": remark(
        labels(-1, 0, 1, 2),
        hdf5_layer() + FC.format(3)
        + ACCURACY.replace("top: \"acc\"", "top: \"acc\" loss_param { ignore_label: -1 }"),
        "loss_param has no effect in a layer of type Accuracy", "accuracy_param", phase="TEST",
    ),
    "hinge": Case(
        labels(0, 1, 2, 5_000_000), hdf5_layer() + FC.format(3) + LOSS_OF.format("HingeLoss", ""),
        ("label is 5e+06", "writes"), phase="TEST",
    ),
    "multinomial": Case(
        labels(-1, 0, 1, 2),
        hdf5_layer() + FC.format(3) + PROBABILITIES.replace('top: "fc"', 'top: "p"')
        + LOSS_OF.format("MultinomialLogisticLoss", "").replace('bottom: "fc"', 'bottom: "p"'),
        ("label is -1", "writes"),
    ),
    "infogain": remark(
        both(labels(0, 1, 2, -1), lambda folder: write_blob(folder / "h", 1, 1, 3, 3)),
        hdf5_layer() + FC.format(3)
        + LOSS_OF.format("InfogainLoss", 'infogain_loss_param { source: "h" }'),
        "label is -1", "reads",
    ),
    "embed": Case(labels(0, 1, 2, -1), hdf5_layer() + EMBED, ("label is -1", "writes")),
    "probabilities": remark(
        labels(0, 1, 2, 1),
        hdf5_layer() + FC.format(1) + LOSS_OF.format("SigmoidCrossEntropyLoss", ""),
        "a target is 2",
    ),
    "a column in range beside one that isn't": fine(lambda f: pairs(f, 0, 1, 2, 1), SLICED),
    "a column": Case(lambda f: pairs(f, 0, 1, 2, -1), SLICED, ("label is -1", "row 3"), dies=False),
    "constants": Case(
        labels(0, 1, 2, 1),
        hdf5_layer(tops='top: "data"')
        + 'layer { name: "c" type: "DummyData" top: "label" dummy_data_param { shape { dim: 4 } '
        'data_filler { type: "constant" value: -1 } } }\n' + CLASSIFIER,
        ("label is -1", "dummy_data_param"),
    ),
    "of an LMDB": Case(
        lambda f: write_lmdb(f, *(datum((1, 3, 2), label) for label in (-1, 0, 1, 2))),
        data_layer() + CLASSIFIER, ("label is -1", "record '00000000'"),
    ),
    "of a list": Case(
        lambda f: write_images(f, "a.png 0\na.png -1\n", a=(8, 6)),
        image_layer() + CLASSIFIER, ("l.txt:2", "label is -1"), dies=False,
    ),
}  # fmt: skip

LISTS = {
    "carriage returns": fine(
        lambda f: write_images(f, "a.png 1\r\na.png 2\r\n", a=(8, 6)), image_layer() + CLASSIFIER
    ),
    "no label": remark(
        lambda f: write_images(f, "a.png\na.png 1\n", a=(8, 6)), image_layer() + CLASSIFIER,
        "l.txt:1", "no label after 'a.png'; Caffe takes 0",
    ),
    "a word as a label": remark(
        lambda f: write_images(f, "a.png 1\na.png cat\n", a=(8, 6)), image_layer() + CLASSIFIER,
        "l.txt:2", "'cat' is not a whole number; Caffe takes 0",
    ),
    "a fraction as a label": remark(
        lambda f: write_images(f, "a.png 1.7\n", a=(8, 6)), image_layer() + CLASSIFIER,
        "'1.7' is not a whole number; Caffe takes 1",
    ),
    "an empty line": Case(
        lambda f: write_images(f, "a.png 1\n\na.png 1\n", a=(8, 6)), image_layer() + CLASSIFIER,
        ("l.txt:2", "an empty line"),
    ),
    "an empty line at the end": Case(
        lambda f: write_images(f, "a.png 1\na.png 1\n\n", a=(8, 6)), image_layer() + CLASSIFIER,
        ("l.txt:3", "an empty line"),
    ),
    "a blank behind the label": Case(
        lambda f: write_images(f, "a.png 1\na.png 1 \n", a=(8, 6)), image_layer() + CLASSIFIER,
        ("l.txt:2", "'a.png 1'", "exactly one blank"),
    ),
    "two blanks": Case(
        lambda f: write_images(f, "a.png 1\na.png  1\n", a=(8, 6)), image_layer() + CLASSIFIER,
        ("l.txt:2", "'a.png '", "exactly one blank"),
    ),
    "a tab": Case(
        lambda f: write_images(f, "a.png 1\na.png\t1\n", a=(8, 6)), image_layer() + CLASSIFIER,
        ("l.txt:2", "not by a tab"),
    ),
    "a missing image": Case(
        lambda f: write_images(f, "a.png 1\nb.png 2\n", a=(8, 6)), image_layer() + CLASSIFIER,
        ("l.txt:2", "'b.png' is not in"),
    ),
    "no image": Case(
        both(lambda f: write_images(f, "a.png 1\nl.txt 2\n", a=(8, 6))),
        image_layer() + CLASSIFIER, ("l.txt:2", "not a readable image"),
    ),
    "no image, resized": Case(
        lambda f: write_images(f, "a.png 1\nl.txt 2\n", a=(8, 6)),
        image_layer(settings="new_height: 4 new_width: 5") + CLASSIFIER, ("l.txt:2",),
    ),
}  # fmt: skip

SIZES = {
    "one by one": remark(
        lambda f: write_images(f, "a.png 1\nb.png 2\n", a=(8, 6), b=(6, 8)),
        image_layer(batch=1) + CLASSIFIER, "differ in size", "only batch_size 1",
    ),
    "two at once": Case(
        lambda f: write_images(f, "a.png 1\nb.png 2\n", a=(8, 6), b=(6, 8)),
        image_layer() + CLASSIFIER, ("differ in size",), Level.REMARK,
    ),
    "parameters that follow the size": Case(
        lambda f: write_images(f, "a.png 1\nb.png 2\n", a=(8, 6), b=(9, 6)),
        image_layer(batch=1) + CLASSIFIER, ("layer 'fc'", "parameters are 3 x 144"),
    ),
    "cropped": fine(
        lambda f: write_images(f, "a.png 1\nb.png 2\n", a=(8, 6), b=(6, 8)),
        image_layer("crop_size: 5") + CLASSIFIER,
    ),
    "resized": fine(
        lambda f: write_images(f, "a.png 1\nb.png 2\n", a=(8, 6), b=(6, 8)),
        image_layer(settings="new_height: 4 new_width: 5") + CLASSIFIER,
    ),
    "smaller than the crop": Case(
        lambda f: write_images(f, "a.png 1\nb.png 2\n", a=(8, 6), b=(4, 8)),
        image_layer("crop_size: 5") + CLASSIFIER,
        ("3 x 8 x 4 is smaller than crop_size 5", "l.txt:2"),
    ),
    "datums": Case(
        lambda f: write_lmdb(f, datum((1, 3, 2)), datum((1, 4, 2))),
        data_layer() + CLASSIFIER, ("differ in size",), Level.REMARK,
    ),
    "datums of other channels": Case(
        lambda f: write_lmdb(f, datum((1, 4, 3)), datum((2, 4, 3))),
        data_layer("crop_size: 2") + CLASSIFIER, ("the channels differ", "'00000001'"),
    ),
    "a datum cut short": Case(
        lambda f: write_lmdb(f, datum((1, 3, 2)), datum((1, 3000, 2000), short=5_999_990)),
        data_layer("crop_size: 2") + CLASSIFIER, ("10 values for 1 x 3000 x 2000",),
    ),
    "no datum": Case(
        lambda f: write_lmdb(f, datum((1, 3, 2)), b"\xff\xff"), data_layer() + CLASSIFIER,
        ("no Datum", "'00000001'"),
    ),
    "no encoded image": Case(
        lambda f: write_lmdb(
            f, datum((1, 3, 2)), caffe_pb2.Datum(encoded=True, data=b"x").SerializeToString()
        ),
        data_layer() + CLASSIFIER, ("no readable image", "'00000001'"),
    ),
}  # fmt: skip

MEANS = {
    "of the record": fine(
        both(lambda f: write_lmdb(f, datum((1, 3, 2))),
             lambda f: write_blob(f / "m", 1, 1, 3, 2, old=True)),
        data_layer('mean_file: "m" crop_size: 2') + CLASSIFIER,
    ),
    "of the crop": Case(
        both(lambda f: write_lmdb(f, datum((1, 3, 2))), lambda f: write_blob(f / "m", 1, 1, 2, 2)),
        data_layer('mean_file: "m" crop_size: 2') + CLASSIFIER, ("mean image is 1 x 2 x 2",),
    ),
    "of three axes": Case(
        both(lambda f: write_lmdb(f, datum((1, 3, 2))), lambda f: write_blob(f / "m", 1, 3, 2)),
        data_layer('mean_file: "m"') + CLASSIFIER, ("mean image is 3 x 2 x 1",),
    ),
    "missing": Case(
        lambda f: write_lmdb(f, datum((1, 3, 2))), data_layer('mean_file: "m"') + CLASSIFIER,
        ("mean_file 'm' is not in",),
    ),
    "empty": Case(
        both(lambda f: write_lmdb(f, datum((1, 3, 2))), lambda f: (f / "m").write_bytes(b"")),
        data_layer('mean_file: "m"') + CLASSIFIER, ("m is empty",),
    ),
    "of numpy": Case(
        both(lambda f: write_lmdb(f, datum((1, 3, 2))),
             lambda f: write_array(f / "m", np.zeros((1, 3, 2)))),
        data_layer('mean_file: "m"') + CLASSIFIER, ("a NumPy file", "compute_image_mean"),
    ),
    "of another image": Case(
        both(lambda f: write_images(f, "a.png 1\n", a=(8, 6)),
             lambda f: write_blob(f / "m", 1, 3, 6, 9)),
        image_layer('mean_file: "m"') + CLASSIFIER, ("3 x 6 x 9", "3 x 6 x 8"),
    ),
    "an infogain matrix of other classes": Case(
        both(labels(0, 1, 2, 1), lambda f: write_blob(f / "h", 1, 1, 4, 4)),
        hdf5_layer() + FC.format(3)
        + LOSS_OF.format("InfogainLoss", 'infogain_loss_param { source: "h" }'),
        ("1 x 1 x 4 x 4, but must be 3 x 3",),
    ),
}  # fmt: skip

TWICE = {"data": rows(4, 5), "label": np.zeros(4, np.float32)}
HDF5 = {
    "unequal rows": Case(
        lambda f: write_hdf5(f, TWICE, {"data": rows(4, 5), "label": np.zeros(3, np.float32)}),
        hdf5_layer() + CLASSIFIER, ("d1.h5", "'label' has 3 rows and 'data' 4"),
    ),
    "no rows": Case(
        lambda f: write_hdf5(f, TWICE, {"data": rows(0, 5), "label": np.zeros(0, np.float32)}),
        hdf5_layer() + CLASSIFIER, ("d1.h5", "no rows"),
    ),
    "larger rows": remark(
        lambda f: write_hdf5(f, TWICE, {**TWICE, "data": rows(4, 6)}),
        hdf5_layer() + CLASSIFIER, "a row of 'data' is 6, but 5 in the first file",
    ),
    "smaller rows": Case(
        lambda f: write_hdf5(
            f, {**TWICE, "data": rows(4, 9_000_000)}, {**TWICE, "data": rows(4, 1)}
        ),
        hdf5_layer().replace('top: "data"', 'top: "data"')
        + 'layer { name: "r" type: "Reduction" bottom: "data" top: "data1" '
        "reduction_param { axis: 1 } }\n"
        'layer { name: "l" type: "EuclideanLoss" bottom: "data1" bottom: "label" top: "l" }\n',
        ("a row of 'data' is 1, but 9000000 in the first", "past the end"),
    ),
    "a missing data set": Case(
        lambda f: write_hdf5(f, TWICE, {"data": rows(4, 5)}), hdf5_layer() + CLASSIFIER,
        ("no dataset 'label'",),
    ),
    "booleans": Case(
        lambda f: write_hdf5(f, TWICE, {**TWICE, "label": np.zeros(4, bool)}),
        hdf5_layer() + CLASSIFIER, ("type bool", "float32"),
    ),
    "whole numbers and doubles": fine(
        lambda f: write_hdf5(f, TWICE, {**TWICE, "label": np.zeros(4, np.int64)},
                             {**TWICE, "label": np.zeros(4, np.float64)}),
        hdf5_layer() + CLASSIFIER,
    ),
    "a missing file": Case(
        both(lambda f: write_hdf5(f, TWICE, TWICE), lambda f: (f / "d1.h5").unlink()),
        hdf5_layer() + CLASSIFIER, ("'d1.h5' is not in",),
    ),
    "no HDF5 file": Case(
        both(lambda f: write_hdf5(f, TWICE, TWICE), lambda f: (f / "d1.h5").write_text("text")),
        hdf5_layer() + CLASSIFIER, ("d1.h5 is not a readable HDF5 file",),
    ),
    "side by side": remark(
        both(lambda f: write_hdf5(f, {"data": rows(4, 5)}),
             lambda f: write_hdf5(f, {"label": np.zeros(6, np.float32)}, name="e")),
        hdf5_layer(tops='top: "data"') + hdf5_layer(tops='top: "label"', name="e") + CLASSIFIER,
        "6 records side by side with the 4 of layer 'd'", "from record 5 on",
    ),
    "two tasks": fine(
        both(lambda f: write_hdf5(f, labelled(0, 1)),
             lambda f: write_hdf5(f, {"x": rows(3, 5), "y": np.zeros(3, np.float32)}, name="e")),
        hdf5_layer() + hdf5_layer(tops='top: "x" top: "y"', name="e") + CLASSIFIER
        + (FC.format(3) + SOFTMAX).replace('"data"', '"x"').replace('"label"', '"y"')
        .replace('"fc"', '"fc2"').replace('"loss"', '"loss2"'),
    ),
}  # fmt: skip

WINDOW_LAYER = (
    'layer { name: "d" type: "WindowData" top: "data" top: "label" transform_param { crop_size: 6 '
    '} window_data_param { source: "w.txt" batch_size: 4 } }\n'
)
FOREGROUND, BACKGROUND = "1 0.9 1 1 10 10", "0 0.1 2 2 9 9"


def write_windows(folder: Path, *windows: str, name: str = "a.png") -> None:
    Image.new("RGB", (20, 16)).save(folder / "a.png")
    lines = ["# 0", name, "3", "16", "20", str(len(windows)), *windows]
    (folder / "w.txt").write_text("\n".join(lines) + "\n")


WINDOWS = {
    "fine": fine(lambda f: write_windows(f, FOREGROUND, BACKGROUND), WINDOW_LAYER + CLASSIFIER),
    "a missing image": remark(
        lambda f: write_windows(f, FOREGROUND, BACKGROUND, name="b.png"),
        WINDOW_LAYER + CLASSIFIER, "'b.png' is not in", "leaves the batch unfilled",
    ),
    "no foreground": Case(
        lambda f: write_windows(f, BACKGROUND), WINDOW_LAYER + CLASSIFIER, ("no foreground window",)
    ),
    "no background": Case(
        lambda f: write_windows(f, FOREGROUND), WINDOW_LAYER + CLASSIFIER, ("no background window",)
    ),
    "a foreground of label 0": Case(
        lambda f: write_windows(f, "0 0.9 1 1 5 5", FOREGROUND, BACKGROUND),
        WINDOW_LAYER + CLASSIFIER, ("foreground window has label 0",),
    ),
    "a label of no class": Case(
        lambda f: write_windows(f, "5000000 0.9 1 1 5 5", BACKGROUND),
        WINDOW_LAYER + CLASSIFIER, ("label is 5e+06, but",),
    ),
    "outside the image": Case(
        lambda f: write_windows(f, "1 0.9 1 1 50 50", BACKGROUND),
        WINDOW_LAYER + CLASSIFIER, ("1 1 50 50 isn't inside the image of 20 x 16",),
    ),
    "a list": Case(
        lambda f: (f / "w.txt").write_text("a.png 1\n"), WINDOW_LAYER + CLASSIFIER,
        ("is not a window file", "CLASS OVERLAP"),
    ),
}  # fmt: skip

ALL = {
    f"{group}: {name}": case
    for group, cases in (
        ("labels", LABELS), ("lists", LISTS), ("sizes", SIZES), ("means", MEANS), ("hdf5", HDF5),
        ("windows", WINDOWS),
    )
    for name, case in cases.items()
}  # fmt: skip


def looked_at(
    folder: Path, net: str, phase: str = "TRAIN", extent: DataCheck = DataCheck.QUICK
) -> DataReport:
    message = prototxt.parse_net(net)
    file = NetFile(message, None, net_state("TEST" if phase == "TEST" else "TRAIN", message))
    recipe = Recipe(caffe_pb2.SolverParameter(), None, file, ())
    return check_data(recipe, Sources((folder,)), extent=extent)


def test_a_quick_look_reads_the_first_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole images of them, and it says so; what the rest may have isn't said to be missing."""
    monkeypatch.setattr(windows, "WINDOWS", 4)
    for name in ("a.png", "b.png", "c.png", "d.png"):
        Image.new("RGB", (20, 16)).save(tmp_path / name)
    boxes = {name: [FOREGROUND] * 3 for name in ("a.png", "b.png", "c.png")}
    boxes["d.png"] = [BACKGROUND, "x"]
    lines = [
        f"# {number}\n{name}\n3\n16\n20\n{len(each)}\n" + "\n".join(each)
        for number, (name, each) in enumerate(boxes.items())
    ]
    (tmp_path / "w.txt").write_text("\n".join(lines) + "\n")
    report = looked_at(tmp_path, WINDOW_LAYER + CLASSIFIER)
    assert report.findings == ()
    assert [n for n in report.notes if "'w.txt' only the first 6 are read" in n] != []
    whole = looked_at(tmp_path, WINDOW_LAYER + CLASSIFIER, extent=DataCheck.ALL)
    assert "is not a window file" in whole.findings[0].sentence()  # its last one is no window
    (tmp_path / "w.txt").write_text("\n".join(lines).removesuffix("x") + FOREGROUND + "\n")
    whole = looked_at(tmp_path, WINDOW_LAYER + CLASSIFIER, extent=DataCheck.ALL)
    assert (whole.findings, whole.notes) == ((), ())


@pytest.mark.parametrize("extent", [DataCheck.QUICK, DataCheck.ALL])
@pytest.mark.parametrize("case", ALL.values(), ids=ALL.keys())
def test_what_is_found(tmp_path: Path, case: Case, extent: DataCheck) -> None:
    case.write(tmp_path)
    report = looked_at(tmp_path, case.net, case.phase, extent)
    told = [f"{each.sentence()} {each.hint or ''}" for each in report.findings]
    if not case.says:
        assert told == []
        return
    levels = [
        finding.level
        for finding, text in zip(report.findings, told, strict=True)
        if all(part in text for part in case.says)
    ]
    assert levels == [case.level], told


@pytest.mark.parametrize("case", ALL.values(), ids=ALL.keys())
def test_real_caffe_dies_or_runs(tmp_path: Path, pycaffe: Pycaffe, case: Case) -> None:
    case.write(tmp_path)
    (tmp_path / "net.prototxt").write_text(case.net)
    if case.dies:
        with pytest.raises(RuntimeError, match="pycaffe ended with -"):
            pycaffe(PASSES, case.phase, cwd=tmp_path)
    else:
        pycaffe(PASSES, case.phase, cwd=tmp_path)


@pytest.mark.parametrize("backend", ["LMDB", "LEVELDB"])
def test_a_quick_look_reads_a_sample_with_both_ends(tmp_path: Path, backend: str) -> None:
    values = [datum((1, 3, 2), label=int(number == 2999)) for number in range(3000)]
    if backend == "LMDB":
        write_lmdb(tmp_path, *values)
    else:
        write_leveldb(tmp_path / "db", values)
    net = data_layer(backend=backend) + FC.format(1) + SOFTMAX
    report = looked_at(tmp_path, net)
    (look,) = report.looks
    assert (look.records, look.source) == (3000, "db")
    assert 200 < look.read < 300
    assert "record '00002999'" in report.errors[0].sentence()
    (look,) = looked_at(tmp_path, net, extent=DataCheck.ALL).looks
    assert look.read == 3000


def test_progress_goes_up_to_all_records(tmp_path: Path) -> None:
    write_lmdb(tmp_path, *[datum((1, 3, 2))] * 3000)
    message = prototxt.parse_net(data_layer() + CLASSIFIER)
    recipe = Recipe(
        caffe_pb2.SolverParameter(),
        None,
        NetFile(message, None, net_state("TRAIN", message)),
        (),
    )
    seen: list[tuple[str, int, int]] = []
    check_data(
        recipe, Sources((tmp_path,)), extent=DataCheck.ALL, progress=lambda *at: seen.append(at)
    )
    assert seen == [("db", 1024, 3000), ("db", 2048, 3000), ("db", 3000, 3000)]


def test_a_layer_that_both_phases_share_is_reported_once(tmp_path: Path) -> None:
    write_hdf5(tmp_path, labelled(0, 1, 2, 3))
    message = prototxt.parse_net(hdf5_layer() + CLASSIFIER)
    train, test = (NetFile(message, None, net_state(phase, message)) for phase in ("TRAIN", "TEST"))
    recipe = Recipe(caffe_pb2.SolverParameter(), None, train, (test,))
    report = check_data(recipe, Sources((tmp_path,)))
    assert [(each.level, each.phases) for each in report.findings] == [
        (Level.ERROR, ("TRAIN",)),
        (Level.REMARK, ("TEST",)),
    ]
    assert len(report.looks) == 1


def test_every_message_of_a_layer_is_read_by_some_type() -> None:
    from caffe_batch.layers import BUILT_IN
    from caffe_batch.layers.forks import ALIKE, DIFFERENT

    rules = [*BUILT_IN.values(), *ALIKE, *(rule for each in DIFFERENT.values() for rule in each)]
    read = frozenset[str]().union(*(rule.messages() for rule in rules))
    fields = caffe_pb2.LayerParameter.DESCRIPTOR.fields
    messages = {field.name for field in fields if field.name.endswith("_param")}
    assert messages - read == {"python_param"}


@pytest.mark.parametrize("seed", range(4))
def test_damaged_files_are_reported_without_a_traceback(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    small = [case for name, case in ALL.items() if "smaller rows" not in name and "cut" not in name]
    for number in range(60):
        case, folder = draw.choice(small), tmp_path / str(number)
        folder.mkdir()
        case.write(folder)
        files = sorted(
            path for path in folder.rglob("*") if path.is_file() and path.name != "lock.mdb"
        )
        damage(draw.choice(files), draw)
        with suppress(CaffeBatchError):
            looked_at(folder, case.net, case.phase, DataCheck.ALL).raise_errors()


def damage(path: Path, draw: random.Random) -> None:
    """Cut a file, or change some bytes of it."""
    content = bytearray(path.read_bytes())
    place = draw.randrange(len(content) + 1)
    if draw.random() < 0.3:
        del content[place:]
    else:
        length = draw.choice((0, 1, 4))
        content[place : place + length] = draw.randbytes(draw.choice((1, 4, 20)))
    path.write_bytes(content)

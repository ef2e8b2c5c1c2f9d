"""Nets that take 100 MB to 4 GB of host memory in CPU mode and little time to train.

Each shows another thing that takes memory: activations, parameters, the state of each solver type,
prefetched or whole sources, test nets, sharing, and what is only there while a net is built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lmdb

from caffe_batch.rendering import render
from caffe_batch.schema import caffe_pb2


@dataclass(frozen=True)
class CpuNet:
    """A net to measure.

    Attributes:
        net: Its text.
        solver: Fields of its solver, as they are written, beside those of SOLVER.
        sources: Writes the data that it reads into a folder.
    """

    net: str
    solver: Mapping[str, object] = field(default_factory=dict)
    sources: Callable[[Path], None] | None = None

    def write(self, folder: Path) -> Path:
        """Writes net.prototxt, solver.prototxt and the data; returns the folder."""
        folder.mkdir(parents=True)
        (folder / "net.prototxt").write_text(self.net)
        fields = {**SOLVER, **self.solver}
        text = "".join(f"{name}: {value}\n" for name, value in fields.items())
        (folder / "solver.prototxt").write_text(text)
        if self.sources:
            self.sources(folder)
        return folder


SOLVER: dict[str, object] = {
    "net": '"net.prototxt"',
    "base_lr": 1e-6,
    "lr_policy": '"fixed"',
    "weight_decay": 0.0005,
    "snapshot_after_train": "false",
    "random_seed": 1,
    "solver_mode": "CPU",
}

#: A test before the first update.
TESTED = {"test_iter": 1, "test_interval": 1000}


def layer(kind: str, name: str, bottoms: str, tops: str, settings: str = "") -> str:
    """One layer; bottoms and tops are separated by blanks."""
    ends = [f'bottom: "{blob}"' for blob in bottoms.split()]
    ends += [f'top: "{blob}"' for blob in tops.split()]
    return f'layer {{ name: "{name}" type: "{kind}" {" ".join(ends)} {settings} }}\n'


def dummy(*shapes: tuple[str, tuple[int, ...]]) -> str:
    """Random numbers for tops of these names and shapes; for tops named label, zeros."""
    settings = ""
    for name, shape in shapes:
        filler = "" if name == "label" else 'type: "gaussian"'
        dims = " ".join(f"dim: {size}" for size in shape)
        settings += f"shape {{ {dims} }} data_filler {{ {filler} }} "
    names = " ".join(name for name, _ in shapes)
    return layer("DummyData", "data", "", names, f"dummy_data_param {{ {settings} }}")


def dense(name: str, bottom: str, outputs: int, more: str = "") -> str:
    settings = f'num_output: {outputs} weight_filler {{ type: "xavier" }} {more}'
    return layer("InnerProduct", name, bottom, name, f"inner_product_param {{ {settings} }}")


def conv(
    name: str, bottom: str, outputs: int, kernel: int, more: str = "", kind: str = "Convolution"
) -> str:
    settings = f'num_output: {outputs} kernel_size: {kernel} weight_filler {{ type: "xavier" }}'
    return layer(kind, name, bottom, name, f"convolution_param {{ {settings} {more} }}")


def classifier(bottom: str, outputs: int = 10) -> str:
    return dense("scores", bottom, outputs) + layer(
        "SoftmaxWithLoss", "loss", "scores label", "loss"
    )


def perceptron(width: int) -> str:
    """Nearly all of its memory is parameters: about 2 x width^2."""
    net = dummy(("data", (4, width)), ("label", (4,)))
    return net + dense("fc1", "data", width) + dense("fc2", "fc1", width) + classifier("fc2")


def twins(width: int) -> str:
    """Two branches that share their parameters, each built with its own ones."""
    net = dummy(("a", (4, width)), ("b", (4, width)), ("label", (4,)))
    for branch in "ab":
        shared = 'param { name: "w" } param { name: "b" }'
        settings = (
            f'inner_product_param {{ num_output: {width} weight_filler {{ type: "xavier" }} }}'
        )
        net += layer("InnerProduct", f"fc_{branch}", branch, f"fc_{branch}", f"{shared} {settings}")
    return net + layer("Eltwise", "sum", "fc_a fc_b", "sum") + classifier("sum")


def recurrent(kind: str, steps: int, streams: int, outputs: int) -> str:
    net = dummy(
        ("x", (steps, streams, 64)), ("label", (steps, streams)), ("cont", (steps, streams))
    )
    settings = f'num_output: {outputs} weight_filler {{ type: "xavier" }}'
    net += layer(kind, "rnn", "x cont", "h", f"recurrent_param {{ {settings} }}")
    net += dense("scores", "h", 10, "axis: 2")
    axis = "softmax_param { axis: 2 }"
    return net + layer("SoftmaxWithLoss", "loss", "scores label", "loss", axis)


def normalized(batch: int, size: int) -> str:
    """Normalisations that keep copies of the whole batch."""
    net = dummy(("data", (batch, 3, size, size)), ("label", (batch,)))
    net += conv("conv", "data", 16, 3, "pad: 1")
    net += layer("BatchNorm", "bn", "conv", "bn")
    net += layer("Scale", "scale", "bn", "scale", "scale_param { bias_term: true }")
    net += layer("PReLU", "prelu", "scale", "scale")
    net += layer("MVN", "mvn", "scale", "mvn")
    net += layer("LRN", "lrn", "mvn", "lrn", "lrn_param { local_size: 3 }")
    within = "lrn_param { local_size: 3 norm_region: WITHIN_CHANNEL }"
    net += layer("LRN", "within", "lrn", "within", within)
    net += layer("Pooling", "pool", "within", "pool", "pooling_param { kernel_size: 8 stride: 8 }")
    return net + classifier("pool")


def branched(batch: int, size: int) -> str:
    """Branches that are copied apart and joined again, as in GoogLeNet."""
    net = dummy(("data", (batch, 3, size, size)), ("label", (batch,)))
    net += conv("stem", "data", 16, 3, "pad: 1")
    net += conv("one", "stem", 16, 1) + conv("three", "stem", 16, 3, "pad: 1")
    pool = "pooling_param { pool: MAX kernel_size: 3 stride: 1 pad: 1 }"
    net += layer("Pooling", "pooled", "stem", "pooled", pool)
    for name in ("one", "three"):
        net += layer("ReLU", f"{name}_relu", name, name)
    net += layer("Concat", "joined", "one three pooled", "joined")
    net += layer("Dropout", "dropped", "joined", "dropped")
    net += layer(
        "Pooling", "mean", "dropped", "mean", "pooling_param { pool: AVE global_pooling: true }"
    )
    return net + classifier("mean")


def segmentation(batch: int, size: int) -> str:
    """Fully convolutional, with a score for every pixel."""
    net = dummy(("data", (batch, 3, size, size)), ("label", (batch, 1, size, size)))
    net += conv("conv", "data", 48, 3, "pad: 1 stride: 2") + layer("ReLU", "relu", "conv", "conv")
    net += conv("up", "conv", 24, 4, "stride: 2", "Deconvolution")
    net += layer("Crop", "crop", "up data", "crop", "crop_param { offset: 1 }")
    return net + layer("SoftmaxWithLoss", "loss", "crop label", "loss")


def vgg16(batch: int) -> str:
    """VGG-16 (Simonyan and Zisserman, 2014) for 224x224 images."""
    net, bottom = dummy(("data", (batch, 3, 224, 224)), ("label", (batch,))), "data"
    for stage, (depth, outputs) in enumerate(((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)), 1):
        for i in range(1, depth + 1):
            name = f"conv{stage}_{i}"
            net += conv(name, bottom, outputs, 3, "pad: 1") + layer(
                "ReLU", f"{name}_relu", name, name
            )
            bottom = name
        pool = "pooling_param { pool: MAX kernel_size: 2 stride: 2 }"
        net += layer("Pooling", f"pool{stage}", bottom, f"pool{stage}", pool)
        bottom = f"pool{stage}"
    for name in ("fc6", "fc7"):
        net += dense(name, bottom, 4096) + layer("ReLU", f"{name}_relu", name, name)
        net += layer("Dropout", f"{name}_drop", name, name)
        bottom = name
    return net + classifier("fc7", 1000)


def template(name: str, batch: int, test_batch: int = 1) -> str:
    """A net of templates/ on random numbers."""
    settings: dict[str, Any] = {"batch_size": batch, "test_batch_size": test_batch, "data": "dummy"}
    return render(name, settings)


def image_database(batch: int, test_batch: int) -> str:
    """An LMDB, read by both phases."""
    net = ""
    for phase, size in (("TRAIN", batch), ("TEST", test_batch)):
        settings = f"""include {{ phase: {phase} }} transform_param {{ crop_size: 227 }}
            data_param {{ source: "images" backend: LMDB batch_size: {size} }}"""
        net += layer("Data", "data", "", "data label", settings)
    pool = "pooling_param { pool: AVE kernel_size: 8 stride: 8 }"
    return net + layer("Pooling", "pool", "data", "pool", pool) + classifier("pool")


def write_images(folder: Path) -> None:
    """The LMDB of :func:`image_database`: 200 images of 3 x 256 x 256, 39 MB."""
    with (
        lmdb.open(str(folder / "images"), map_size=1 << 27) as database,
        database.begin(write=True) as transaction,
    ):
        for record in range(200):
            datum = caffe_pb2.Datum(channels=3, height=256, width=256, label=record % 10)
            datum.data = bytes([record]) * (3 * 256 * 256)
            transaction.put(b"%08d" % record, datum.SerializeToString())


def hdf5_files(batch: int) -> str:
    source = f'hdf5_data_param {{ source: "files" batch_size: {batch} }}'
    net = layer("HDF5Data", "data", "", "data label", source)
    net += conv("conv", "data", 8, 4, "stride: 4") + layer("ReLU", "relu", "conv", "conv")
    return net + classifier("conv")


def write_hdf5(folder: Path, rows: Sequence[int] = (3000, 1000)) -> None:
    """The files of :func:`hdf5_files`, each with so many rows of 3 x 64 x 64."""
    import h5py

    names = [f"{number}.h5" for number in rows]
    for name, number in zip(names, rows, strict=True):
        with h5py.File(folder / name, "w") as file:
            file.create_dataset("data", (number, 3, 64, 64), "f4", fillvalue=0.5)
            file.create_dataset("label", (number,), "f4")
    (folder / "files").write_text("\n".join(names))


WIDTH = 4000  # 128 MB of parameters
MOMENTUM = {"momentum": 0.9}
NESTEROV = {"type": '"Nesterov"', "momentum": 0.9}
ADAGRAD = {"type": '"AdaGrad"'}
RMSPROP = {"type": '"RMSProp"', "rms_decay": 0.98}
ADADELTA = {"type": '"AdaDelta"', "momentum": 0.95}
ADAM = {"type": '"Adam"', "momentum": 0.9}

NETS = {
    "CaffeNet, batch 16, test net": CpuNet(template("caffenet", 16, 4), TESTED),
    "ResNet-50, batch 4, test net": CpuNet(template("resnet50", 4, 2), TESTED),
    "ResNet-152, batch 2": CpuNet(template("resnet152", 2)),
    "VGG-16, batch 8": CpuNet(vgg16(8)),
    "normalisations": CpuNet(normalized(16, 128)),
    "branches, iter_size 3": CpuNet(branched(24, 96), {"iter_size": 3}),
    "segmentation": CpuNet(segmentation(8, 200)),
    "LSTM, 40 steps": CpuNet(recurrent("LSTM", 40, 64, 256), MOMENTUM),
    "LSTM, 120 steps, while it is built": CpuNet(recurrent("LSTM", 120, 1, 512)),
    "RNN, 50 steps, Adam": CpuNet(recurrent("RNN", 50, 100, 300), ADAM),
    "LMDB, prefetch, test net": CpuNet(image_database(64, 32), TESTED, write_images),
    "HDF5 files": CpuNet(hdf5_files(64), {}, write_hdf5),
    "shared parameters": CpuNet(twins(WIDTH)),
    "parameters, SGD": CpuNet(perceptron(WIDTH), MOMENTUM),
    "parameters, SGD, L1": CpuNet(perceptron(WIDTH), {"regularization_type": '"L1"'}),
    "parameters, Nesterov": CpuNet(perceptron(WIDTH), NESTEROV),
    "parameters, AdaGrad": CpuNet(perceptron(WIDTH), ADAGRAD),
    "parameters, RMSProp": CpuNet(perceptron(WIDTH), RMSPROP),
    "parameters, AdaDelta": CpuNet(perceptron(WIDTH), ADADELTA),
    "parameters, Adam": CpuNet(perceptron(WIDTH), ADAM),
}

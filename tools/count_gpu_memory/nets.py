"""The whole nets whose device memory is counted: the project's own and those of Debian's caffe-doc.

Each becomes a job of its own: its solver and nets with the requested batch size, and a few made-up
records in place of the data that its authors trained it on, and of the same size.
"""

from __future__ import annotations

import gzip
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import h5py
import lmdb
from PIL import Image

from caffe_batch import prototxt
from caffe_batch.rendering import render
from caffe_batch.runtimes import apt, debian
from caffe_batch.runtimes.host import host_mirror
from caffe_batch.runtimes.installation import this_architecture
from caffe_batch.schema import caffe_pb2

PROTOTXT = Path(__file__).parents[2] / "prototxt"

#: Records of each made-up source.
RECORDS = 4

#: Channels, height and width of a record.
Record = tuple[int, int, int]


@dataclass(frozen=True)
class WholeNet:
    """A net with its solver, at several batch sizes.

    Attributes:
        name: Its name in the results.
        files: Texts of the solver and of its net.
        record: Size of the records that it is trained on.
        batch_sizes: The TRAIN batch sizes at which it is measured.
        datasets: For HDF5 data: name and remaining dimensions of each dataset.
    """

    name: str
    files: tuple[str, str]
    record: Record
    batch_sizes: tuple[int, ...]
    datasets: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def jobs(self, folder: Path) -> Iterator[tuple[int, Path]]:
        """Each batch size, and the new folder that holds its job."""
        for size in self.batch_sizes:
            job = folder / f"{self.name}-{size}"
            job.mkdir()
            write_job(self, size, job)
            yield size, job


def write_job(whole: WholeNet, batch_size: int, folder: Path) -> None:
    """Writes solver.prototxt, net.prototxt and the data; paths are relative to ``folder``."""
    solver_text, net_text = whole.files
    solver = prototxt.parse_solver(solver_text)
    net = prototxt.parse_net(net_text)
    for layer in net.layer:
        _point_to_data(layer, whole, folder)
        if any(rule.phase == caffe_pb2.TEST for rule in layer.include):
            continue
        for parameter in ("data_param", "image_data_param", "window_data_param", "hdf5_data_param"):
            if layer.HasField(parameter):
                getattr(layer, parameter).batch_size = batch_size
    for field in ("net", "train_net", "test_net", "test_iter", "snapshot", "snapshot_prefix"):
        solver.ClearField(field)
    solver.net = "net.prototxt"
    if any(rule.phase == caffe_pb2.TEST for layer in net.layer for rule in layer.include):
        solver.test_iter.extend([1] * max(1, len(prototxt.parse_solver(solver_text).test_iter)))
        solver.test_interval = solver.test_interval or 1000
    else:
        solver.ClearField("test_interval")
        solver.ClearField("test_state")
    # The tests come first, so that the peak after two updates includes theirs.
    solver.ClearField("test_initialization")
    solver.solver_mode = caffe_pb2.SolverParameter.GPU
    (folder / "net.prototxt").write_text(prototxt.write(net))
    (folder / "solver.prototxt").write_text(prototxt.write(solver))


def _point_to_data(layer: caffe_pb2.LayerParameter, whole: WholeNet, folder: Path) -> None:
    """Makes a layer's data and names it there; drops the mean image, which no GPU gets to see."""
    layer.transform_param.ClearField("mean_file")
    if not layer.transform_param.ListFields():
        layer.ClearField("transform_param")
    if layer.type == "Data":
        layer.data_param.source = _database(folder / "data_lmdb", whole.record)
        layer.data_param.backend = caffe_pb2.DataParameter.LMDB
    elif layer.type == "ImageData":
        _image(folder / "image.png", whole.record)
        layer.image_data_param.source = "images.txt"
        layer.image_data_param.root_folder = ""
        (folder / "images.txt").write_text("image.png 0\n" * RECORDS)
    elif layer.type == "WindowData":
        _image(folder / "image.png", whole.record)
        layer.window_data_param.source = "windows.txt"
        layer.window_data_param.root_folder = ""
        sizes = "\n".join(str(size) for size in whole.record)
        windows = "1 0.9 0 0 30 40\n0 0.1 5 7 35 47\n"  # class, overlap, corners
        (folder / "windows.txt").write_text(f"# 0\nimage.png\n{sizes}\n2\n{windows}")
    elif layer.type == "HDF5Data":
        layer.hdf5_data_param.source = "files.txt"
        (folder / "files.txt").write_text("data.h5\n")
        with h5py.File(folder / "data.h5", "w") as file:
            for name, shape in whole.datasets:
                file.create_dataset(name, (RECORDS, *shape), "f4")


def _database(path: Path, record: Record) -> str:
    if not path.exists():
        channels, height, width = record
        datum = caffe_pb2.Datum(
            channels=channels, height=height, width=width, data=bytes(channels * height * width)
        )
        with lmdb.open(str(path), map_size=1 << 26) as database, database.begin(write=True) as put:
            for number in range(RECORDS):
                put.put(b"%08d" % number, datum.SerializeToString())
    return path.name


def _image(path: Path, record: Record) -> None:
    _, height, width = record
    Image.new("RGB", (width, height)).save(path)


def own_nets() -> Iterator[WholeNet]:
    """The nets of the templates and of ``prototxt/``."""
    image = (3, 256, 256)
    for template, sizes in (
        ("caffenet", (1, 16, 64, 256)),
        ("resnet50", (2, 8, 16)),
        ("resnet101", (4,)),
        ("resnet152", (1, 4)),
    ):
        solver = render("solver", {"net": "net.prototxt", "max_iter": 100})
        yield WholeNet(template, (solver, render(template, {})), image, sizes)
    for name, record, sizes in (
        ("cifar10", (3, 32, 32), (10, 100)),
        ("digits", (1, 8, 8), (32, 256)),
        ("siamese", (2, 28, 28), (7, 64)),
        ("mlp", (1, 1, 1), (1, 64)),
    ):
        solver, net = (
            (PROTOTXT / name / f"{kind}.prototxt").read_text() for kind in ("solver", "net")
        )
        datasets = (("measured", (20,)), ("wanted", (3,))) if name == "mlp" else ()
        yield WholeNet(name, (solver, net), record, sizes, datasets)


def doc_nets(folder: Path) -> Iterator[WholeNet]:
    """The nets of Debian's caffe-doc, each with every kind of solver that comes with it.

    Args:
        folder: Where the package was unpacked (:func:`fetch_doc`).
    """
    root = folder / "usr/share/doc/caffe-doc"
    image, digit = (3, 256, 256), (1, 28, 28)
    read = partial(_read, root)
    for model, sizes in (
        ("bvlc_alexnet", (1, 32, 256)),
        ("bvlc_reference_caffenet", (8, 128)),
        ("bvlc_googlenet", (2, 16, 32)),
        ("finetune_flickr_style", (5, 50)),
    ):
        files = (
            read(f"models/{model}/solver.prototxt"),
            read(f"models/{model}/train_val.prototxt"),
        )
        yield WholeNet(model, files, image, sizes)
    yield from _doc_example(read, "cifar10", (3, 32, 32), (
        ("cifar10_quick_solver", "cifar10_quick_train_test", (1, 100)),
        ("cifar10_full_solver", "cifar10_full_train_test", (25, 100)),
        ("cifar10_full_sigmoid_solver", "cifar10_full_sigmoid_train_test", (50, 111)),
        ("cifar10_full_sigmoid_solver_bn", "cifar10_full_sigmoid_train_test_bn", (50, 100)),
    ))  # fmt: skip
    yield from _doc_example(read, "mnist", digit, (
        ("lenet_solver", "lenet_train_test", (1, 64, 1024)),
        ("lenet_solver_adam", "lenet_train_test", (64,)),
        ("lenet_solver_rmsprop", "lenet_train_test", (64,)),
        ("lenet_adadelta_solver", "lenet_train_test", (64,)),
        ("mnist_autoencoder_solver", "mnist_autoencoder", (1, 100)),
        ("mnist_autoencoder_solver_nesterov", "mnist_autoencoder", (100,)),
        ("mnist_autoencoder_solver_adagrad", "mnist_autoencoder", (100,)),
        ("mnist_autoencoder_solver_adadelta", "mnist_autoencoder", (100,)),
    ))  # fmt: skip
    yield from _doc_example(read, "siamese", (2, 28, 28), (
        ("mnist_siamese_solver", "mnist_siamese_train_test", (3, 64)),
    ))  # fmt: skip
    yield from _doc_example(read, "finetune_pascal_detection", image, (
        ("pascal_finetune_solver", "pascal_finetune_trainval_test", (4, 128)),
    ))  # fmt: skip
    solver = 'base_lr: 0.01 lr_policy: "fixed" test_iter: 1 test_interval: 10 max_iter: 100'
    datasets = (("data", (4,)), ("label", ()))
    for net in ("train_val", "nonlinear_train_val"):
        text = read(f"examples/hdf5_classification/{net}.prototxt")
        yield WholeNet(f"hdf5_{net}", (solver, text), (1, 1, 1), (1, 10), datasets)


def _doc_example(
    read: Callable[[str], str],
    example: str,
    record: Record,
    pairs: tuple[tuple[str, str, tuple[int, ...]], ...],
) -> Iterator[WholeNet]:
    for solver, net, sizes in pairs:
        files = (
            read(f"examples/{example}/{solver}.prototxt"),
            read(f"examples/{example}/{net}.prototxt"),
        )
        yield WholeNet(solver, files, record, sizes)


def _read(root: Path, name: str) -> str:
    """A file of the documentation; Debian compresses the larger ones."""
    path = root / name
    return path.read_text() if path.exists() else gzip.open(f"{path}.gz", "rt").read()


def fetch_doc(folder: Path) -> None:
    """Downloads Debian 11's caffe-doc with this machine's apt and unpacks it into ``folder``."""
    archive = apt.Archive(host_mirror(), debian.SUITE, this_architecture().debian)
    state = folder / "apt"
    state.mkdir()
    with (folder / "lock").open("w") as lock:
        packages = apt.download(
            archive, ["caffe-doc"], state, lock.fileno(), lambda step, share: None
        )
    (package,) = (path for path in packages if path.name.startswith("caffe-doc_"))
    subprocess.run(["dpkg-deb", "--extract", package, folder], check=True)

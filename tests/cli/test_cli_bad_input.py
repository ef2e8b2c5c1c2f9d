"""Any failure gives one clear message and the right exit code, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from caffe_batch.files import replace_text
from caffe_batch.jobs import job_files
from tests.command import NAMESPACE, PROGRAM, Result, call, can_mount, spawn, tree
from tests.holding import PATIENCE_S, wait_for
from tests.planned_jobs import write_lmdb

DATA = """\
layer { name: "data" type: "Input" top: "data" top: "label"
  input_param { shape { dim: 4 dim: 3 dim: 7 dim: 11 } shape { dim: 4 } } }
"""
LAYERS = """\
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
"""
LOSS = 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }\n'
NET = DATA + LAYERS + LOSS
SOLVER = 'net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 9\n'
LMDB = """
layer { name: "data" type: "Data" top: "data" top: "label"
  data_param { source: "lmdb" backend: LMDB batch_size: 4 } }
"""
SECOND = """
layer { name: "more" type: "Data" top: "more" data_param { source: "x" batch_size: 8 } }
layer { name: "turn" type: "Reshape" bottom: "more" top: "rows"
  reshape_param { shape { dim: 4 dim: -1 } } }
layer { name: "flat" type: "Flatten" bottom: "data" top: "flat" }
layer { name: "join" type: "Concat" bottom: "rows" bottom: "flat" top: "join" }
"""
SHAPES = ("--input-shape", "data=3x5x7", "--input-shape", "more=3x5x7")
PYTHON = """
layer { name: "mine" type: "Python" bottom: "data" top: "mine"
  python_param { module: "no_such_module" layer: "Mine" } }
""" + LAYERS.replace('bottom: "data"', 'bottom: "mine"')


@dataclass(frozen=True)
class Bad:
    """A call that has to fail.

    Attributes:
        args: The arguments; without any, net.prototxt is planned into a job directory.
        says: What the message holds, in this order.
        code: The exit code.
        net, solver: Text of net.prototxt and solver.prototxt.
        files: Other files.
    """

    says: tuple[str, ...]
    args: tuple[object, ...] = ("plan", "net.prototxt", "--gpu-memory", "1GiB", "--out", "job")
    net: str | bytes = NET
    solver: str = SOLVER
    code: int = 2
    files: dict[str, str | bytes] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        files = {"net.prototxt": self.net, "solver.prototxt": self.solver, **self.files}
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)


def plan(*args: object, net: str = "net.prototxt", memory: object = "1GiB") -> tuple[object, ...]:
    return ("plan", net, "--gpu-memory", memory, *args, "--out", "job")


SOLVED = plan(net="solver.prototxt")

CASES: dict[str, Bad] = {
    # Files
    "no file": Bad(
        ("nett.prototxt: there is no such file", "Did you mean net.prototxt?"),
        plan(net="nett.prototxt"),
    ),
    "no folder": Bad(
        ("no/net.prototxt: there is no such file", "There is no directory 'no' either."),
        plan(net="no/net.prototxt"),
    ),
    "no template": Bad(
        ("resnet5: there is no such file, and no such template", "resnet50"), plan(net="resnet5")
    ),
    "no job": Bad(("jop: there is no such file",), ("train", "jop"), code=2),
    "a folder": Bad(
        ("models: this is a directory, not a file", "such as models/net.prototxt"),
        plan(net="models"),
        files={"models/net.prototxt": NET},
    ),
    "no solver": Bad(("s: there is no such file",), plan("--solver", "s")),
    "long path": Bad(("the file can't be read: File name too long",), plan(net="x" * 5000)),
    "empty net": Bad(("net.prototxt: the net has no layers", "layer { ... }"), net=""),
    "comments only": Bad(("net.prototxt: the net has no layers",), net="# nothing\n\n"),
    "binary": Bad(
        ("net.prototxt: the file is neither text nor a binary net", ".caffemodel"),
        net=bytes(range(256)) * 9,
    ),
    "picture": Bad(("neither text nor a binary net", "an image"), net=b"\x89PNG\r\n\x1a\n\0\0"),
    "UTF-16": Bad(("neither text", "UTF-16 text: save it as UTF-8"), net=NET.encode("utf-16")),
    "Latin-1": Bad(
        ("net.prototxt:3:15: name contains bytes that are not UTF-8", "Save the file as UTF-8."),
        net=NET.replace('"ip"', '"ré"').encode("latin-1"),
    ),
    "a solver as net": Bad(
        ("solver.prototxt:1:1: NetParameter has no field 'net'", "is this the right file?"),
        plan("--solver", "solver.prototxt", net="solver.prototxt"),
    ),
    "a net as solver": Bad(
        ("net.prototxt:1:1: SolverParameter has no field 'layer'", "is this the right file?"),
        plan("--solver", "net.prototxt"),
    ),
    # Syntax
    "open brace": Bad(
        ("net.prototxt:5:", "the '}' of layer (line 5), found the end of the file"), net=NET[:-2]
    ),
    "no value": Bad(("net.prototxt:1:",), net=NET.replace('"data"', "", 1)),
    "deep": Bad(("more than 100 nested messages",), net="layer {" * 20_000),
    "layers without end": Bad(
        ("net.prototxt: there are 25,001 layers, and caffe-batch takes nets of 25,000", "a loop"),
        net='layer { name: "a" type: "ReLU" bottom: "a" top: "a" }' * 25_001,
    ),
    "an endless device": Bad(
        ("/dev/zero: the text is larger than 16777216 bytes",), plan(net="/dev/zero")
    ),
    "a field": Bad(
        ("net.prototxt:4:25: InnerProductParameter has no field 'num_outputs'", "num_output?"),
        net=NET.replace("num_output", "num_outputs"),
    ),
    "a word for a number": Bad(
        ("num_output takes a non-negative integer, found 'five'",),
        net=NET.replace("num_output: 5", "num_output: five"),
    ),
    "below zero": Bad(
        ("net.prototxt:4:37: num_output takes a non-negative integer, found '-5'",),
        net=NET.replace("num_output: 5", "num_output: -5"),
    ),
    # Nets
    "no TRAIN phase": Bad(
        ("net.prototxt: no layer belongs to the TRAIN phase", "include rule for another phase"),
        net=NET.replace("layer {", "layer { include { phase: TEST }"),
    ),
    "no TRAIN data": Bad(
        ("net.prototxt: no layer of the TRAIN phase reads or produces data", "Layer 'data' does"),
        net=NET.replace("layer {", "layer { include { phase: TEST }", 1),
    ),
    "no loss": Bad(("the TRAIN net has no loss", "SoftmaxWithLoss"), net=DATA + LAYERS),
    "two batch sizes": Bad(
        (
            "data layers 'data' and 'more'",
            "batch_size 4 and 8",
            "takes no other batch of both",
            "one of them counts time steps",
        ),
        plan(*SHAPES),
        net=LMDB + LAYERS + LOSS + SECOND,
    ),
    "batch of 0": Bad(
        ("layer 'data': input_param has a batch of 0",), net=NET.replace("dim: 4", "dim: 0")
    ),
    "test batch of 0": Bad(
        (
            "in the TEST net, layer 'te': its top 'data' of shape (0, 3, 7, 11) has no elements",
            "'ip' reads it",
            "Write the batch size as the first number of its shape.",
        ),
        SOLVED,
        net=DATA.replace("top:", "include { phase: TRAIN } top:", 1)
        + DATA.replace('"data"', '"te" include { phase: TEST }', 1).replace("dim: 4", "dim: 0")
        + LAYERS
        + LOSS,
        solver=SOLVER + "test_iter: 2 test_interval: 5",
    ),
    "no bottom": Bad(
        ("layer 'ip': bottom 'dat' isn't produced by any earlier layer", "Did you mean data?"),
        net=NET.replace('bottom: "data"', 'bottom: "dat"'),
    ),
    "cycle": Bad(
        (
            "layer 'a': bottom 'y' isn't produced by any earlier layer",
            "Layer 'b' produces it, but comes",
        ),
        net=NET + 'layer { name: "a" type: "ReLU" bottom: "y" top: "x" }'
        'layer { name: "b" type: "ReLU" bottom: "x" top: "y" }',
    ),
    "one top twice": Bad(
        ("layer 'ip': top 'label' is already produced by an earlier layer", "another name"),
        net=NET + LAYERS.replace('top: "ip"', 'top: "label"'),
    ),
    "unknown type": Bad(
        ("layer 'ip': type 'InnerProdukt' is not a layer type", "InnerProduct?", "--allow-unknown"),
        net=NET.replace("InnerProduct", "InnerProdukt"),
    ),
    "Python layer": Bad(
        ("layer 'mine': a Python layer's shapes", "--allow-unknown", "--input-shape"),
        net=DATA + PYTHON + LOSS,
    ),
    "Python layer in memory": Bad(
        ("layer 'mine': a Python layer's shapes", "--allow-unknown"),
        ("memory", "net.prototxt"),
        net=DATA + PYTHON + LOSS,
    ),
    "large kernel": Bad(
        ("layer 'c': a kernel", "9", "doesn't fit", "smaller kernel"),
        net=NET + 'layer { name: "c" type: "Convolution" bottom: "data" top: "c" '
        "convolution_param { num_output: 2 kernel_size: 9 } }",
    ),
    "shapes that differ": Bad(
        ("layer 'sum': bottom",),
        net=NET + 'layer { name: "sum" type: "Eltwise" bottom: "data" bottom: "ip" top: "sum" }',
    ),
    "huge blob": Bad(
        ("layer 'data': data (1, 3, 9999999999, 11) has 329999999967 elements", "Caffe's limit"),
        net=NET.replace("dim: 7", "dim: 9999999999"),
    ),
    "a share above all": Bad(  # with which Caffe writes beyond the batch
        ("layer 'w': fg_fraction is a share of the batch from 0 to 1, not 1.5",),
        net=NET + 'layer { name: "w" type: "WindowData" top: "w" top: "v" transform_param { '
        "crop_size: 5 } window_data_param { batch_size: 4 fg_fraction: 1.5 } }",
    ),
    "shape below zero": Bad(
        ("layer 'data': data (1, 3, -7, 11) has a shape that no blob can have",),
        net=NET.replace("dim: 7", "dim: -7"),
    ),
    # Data
    "no source": Bad(
        ("the size of 'data' is not known: source 'lmdb' is not in", "--input-shape data=CxHxW"),
        net=LMDB + LAYERS + LOSS,
    ),
    "an empty source": Bad(
        ("the size of 'data' is not known: the layer names no source", "--input-shape"),
        net=LMDB.replace('"lmdb"', '""') + LAYERS + LOSS,
    ),
    "no LMDB": Bad(
        ("lmdb is not a readable LMDB", "--input-shape data=CxHxW"),
        net=LMDB + LAYERS + LOSS,
        files={"lmdb/data.mdb": b"no LMDB" * 1000},
    ),
    "no LMDB file": Bad(
        ("lmdb is not a readable LMDB",), net=LMDB + LAYERS + LOSS, files={"lmdb": "text"}
    ),
    # Solvers
    "the solver's net is missing": Bad(
        (
            "solver.prototxt: its net 'nowhere/n.prototxt' is not in",
            "give the net itself, with --solver solver.prototxt",
        ),
        SOLVED,
        solver=SOLVER.replace("net.prototxt", "nowhere/n.prototxt"),
    ),
    "the solver has no net": Bad(
        ("solver.prototxt: a solver names its train net", "has none", 'Add net: "FILE"'),
        SOLVED,
        solver="base_lr: 0.1",
    ),
    "the solver has two nets": Bad(
        ("this one has train_net and net", "Keep one of them"),
        SOLVED,
        solver=SOLVER + 'train_net: "net.prototxt"',
    ),
    "the solver is its own net": Bad(
        ("solver.prototxt:1:1: NetParameter has no field 'net'",),
        SOLVED,
        solver=SOLVER.replace("net.prototxt", "solver.prototxt"),
    ),
    "solver type": Bad(
        ("solver type 'Adan' is not one of Caffe's", "Did you mean Adam?"),
        SOLVED,
        solver=SOLVER + 'type: "Adan"',
    ),
    "learning rate that is no number": Bad(
        ("solver.prototxt: the learning rate of the first update is nan", "base_lr"),
        SOLVED,
        solver=SOLVER.replace("0.1", "nan"),
    ),
    "momentum that is no number": Bad(
        ("solver.prototxt: momentum is nan, and no update has a meaning with that",),
        SOLVED,
        solver=SOLVER + "momentum: nan",
    ),
    "policy": Bad(
        ("Caffe has no lr_policy 'stepp'", "Did you mean step?"),
        SOLVED,
        solver=SOLVER.replace("fixed", "stepp"),
    ),
    "no policy": Bad(
        ("the solver has no lr_policy", "fixed, step"),
        SOLVED,
        solver=SOLVER.replace('lr_policy: "fixed"', ""),
    ),
    "iter_size of the file": Bad(
        ("the solver has iter_size 0", "Set iter_size to the number of passes"),
        SOLVED,
        solver=SOLVER + "iter_size: 0",
    ),
    # Options
    "nothing at all": Bad(("Usage: caffe-batch plan", "Missing argument 'NET'"), ("plan",)),
    "no budget": Bad(
        ("how much memory may the run use?", "--gpu-memory 8GiB"), ("plan", "net.prototxt")
    ),
    "no size": Bad(("'eight' is not a size", "8GiB"), plan(memory="eight")),
    "size below zero": Bad(("'-5GiB' is not a size",), plan(memory="-5GiB")),
    "size of nothing": Bad(("'0' leaves no memory at all",), plan(memory="0")),
    "size of many digits": Bad(("is not a size",), plan(memory="9" * 5000)),
    "share": Bad(("180% is not a share", "1% to 100%"), plan(memory="180%")),
    "reserve": Bad(("'lots' is not a size",), plan("--reserve", "lots")),
    "large reserve": Bad(
        ("the reserve of 2 GiB leaves nothing of 1 GiB", "--reserve 0"), plan("--reserve", "2GiB")
    ),
    "effective batch 0": Bad(
        ("an effective batch of 0 has no samples", "1 or more"), plan("--effective-batch", 0)
    ),
    "effective batch below 0": Bad(
        ("an effective batch of -8 has no samples",), plan("--effective-batch", -8)
    ),
    "effective batch below the GPUs": Bad(
        ("an effective batch of 3 is smaller than the 4 GPUs", "--effective-batch 4 or more"),
        plan("--effective-batch", 3, "--gpus", 4),
    ),
    "effective batch that isn't shared": Bad(
        ("10 can't be shared exactly by 4 GPUs", "8 and 12"),
        plan("--effective-batch", 10, "--gpus", 4),
    ),
    "effective batch 2^40": Bad(
        ("an effective batch of 1099511627776 is more than", "2147483647 at most"),
        plan("--effective-batch", 2**40),
    ),
    "a huge prime": Bad(("is more than",), plan("--effective-batch", 10**21 - 11)),
    "effective batch of 5000 digits": Bad(
        ("--effective-batch", "not a valid integer"), plan("--effective-batch", "9" * 5000)
    ),
    "effective batch in words": Bad(
        ("Invalid value for '--effective-batch': 'many' is not a valid integer",),
        plan("--effective-batch", "many"),
    ),
    "no GPUs": Bad(("0 GPUs can't train", "--gpus 1"), plan("--gpus", 0)),
    "10^20 GPUs": Bad(("more than Caffe's iter_size can count",), plan("--gpus", 10**20)),
    "no records": Bad(("--train-records", "0 is not in the range"), plan("--train-records", 0)),
    "batch_size 2^40": Bad(
        ("layer 'data': data (1099511627776, 3, 7, 11) has", "Caffe's limit is 2147483647"),
        ("memory", "net.prototxt", "--batch-size", 2**40),
    ),
    "batch_size 0": Bad(
        ("--batch-size", "0 is not in the range"), ("memory", "net.prototxt", "--batch-size", 0)
    ),
    "mode": Bad(("'tpu' is not one of 'gpu', 'cpu'",), plan("--mode", "tpu")),
    "input shape without a size": Bad(
        ("--input-shape 'data' is not of the form TOP=CxHxW", "data=3x256x256"),
        plan("--input-shape", "data"),
    ),
    "input shape of 0": Bad(
        ("'data=3x0x5' is not of the form",), plan("--input-shape", "data=3x0x5")
    ),
    "input shape of many digits": Bad(
        ("is not of the form",), plan("--input-shape", "data=" + "9" * 5000)
    ),
    "input shape twice": Bad(
        ("--input-shape names top 'data' twice",),
        plan("--input-shape", "data=3x5x7", "--input-shape", "data=3x5x7"),
    ),
    "input shape of no top": Bad(
        ("--input-shape names top 'dat', which no layer of the net has", "data?"),
        plan("--input-shape", "dat=3x5x7"),
    ),
    "input shape of a layer with a rule": Bad(
        (
            "layer 'ip': its top 'ip' is (1, 5) by the rule of its type, which contradicts "
            "--input-shape ip=7",
            "Leave it out",
        ),
        plan("--input-shape", "ip=7"),
    ),
    "command": Bad(("there is no command 'paln'", "Did you mean plan?"), ("paln",)),
    "no such command": Bad(
        ("there is no command 'xyzzy'", "plan, memory, draw, train"), ("xyzzy",)
    ),
    "option": Bad(
        ("No such option '--gpu-memry'", "--gpu-memory"), ("plan", "net.prototxt", "--gpu-memry", 1)
    ),
    "option without a value": Bad(
        ("Option '--gpu-memory' requires an argument",), ("plan", "net.prototxt", "--gpu-memory")
    ),
    "two nets": Bad(("unexpected extra argument", "b"), ("memory", "net.prototxt", "b")),
    # Where the job goes
    "out is a file": Bad(
        ("'--out': Directory 'net.prototxt' is a file",),
        ("plan", "net.prototxt", "--gpu-memory", "1GiB", "--out", "net.prototxt"),
    ),
    "out would overwrite the net": Bad(
        (". holds a net.prototxt, which the job would overwrite", "a new directory"),
        ("plan", "net.prototxt", "--gpu-memory", "1GiB", "--out", "."),
    ),
    "out holds a job": Bad(
        ("job holds a job already", "caffe-batch train job"), files={"job/plan.json": "{}"}
    ),
    "out below a file": Bad(
        ("net.prototxt/job: Not a directory",),
        ("plan", "net.prototxt", "--gpu-memory", "1GiB", "--out", "net.prototxt/job"),
        code=1,
    ),
    "out is not UTF-8": Bad(
        (r"j\udce9' is not UTF-8, so no prototxt can name it", "Give another directory"),
        ("plan", "net.prototxt", "--gpu-memory", "1GiB", "--out", "j\udce9"),
    ),
    # The budget
    "too small a budget": Bad(
        (
            "batch_size 1 needs ",
            " more than the 1 KiB that the budget of 1 KiB leaves for Caffe",
            "\n  ip (InnerProduct): ",
            "\n  data (Input): ",
            "\n  loss (SoftmaxWithLoss): ",
            "Try more memory, smaller input images",
        ),
        plan("--reserve", 0, memory="1KiB"),
        code=3,
    ),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check_message(done: Result, code: int, says: tuple[str, ...]) -> None:
    """One message on stderr that holds the parts in their order; nothing on stdout."""
    assert done.code == code, done.err
    assert done.out == ""
    assert "Traceback" not in done.err
    assert done.err.endswith("\n")
    assert done.err.count("caffe-batch: ") + done.err.count("Error: ") == 1, done.err
    rest = done.err
    for part in says:
        assert part in rest, f"{part!r} is not (or not here) in:\n{done.err}"
        rest = rest.partition(part)[2]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_bad_input(folder: Path, case: Bad) -> None:
    case.write(folder)
    before = tree(folder)
    check_message(call(*case.args), case.code, case.says)
    assert tree(folder) == before


def test_missing_bytes_and_the_five_layers_that_cost_most(folder: Path) -> None:
    more = "".join(LAYERS.replace('"ip"', f'"ip{i}"') for i in range(9))
    (folder / "net.prototxt").write_text(NET + more)
    found = json.loads(call("memory", "net.prototxt", "--batch-size", 1, "--json").out)
    done = call(*plan("--reserve", "1KiB", memory="3KiB"))
    device = found["device_bytes"]
    missing = device["peak_with_tests"] + device["rounding"] - 2048
    assert done.code == 3
    assert f"({missing:,} bytes) more than the 2 KiB that the budget of 3 KiB leaves" in done.err
    layers = [line.split()[0] for line in done.err.splitlines() if line.startswith("  ")]
    largest = sorted(found["layers"], key=lambda layer: layer["bytes"], reverse=True)[:5]
    assert layers == [layer["name"] for layer in largest]


def data_net(kind: str, source: str) -> str:
    """A net whose only unknown is its source."""
    param = {"Data": "data_param", "ImageData": "image_data_param", "HDF5Data": "hdf5_data_param"}
    backend = "backend: LMDB" if kind == "Data" else ""
    return (
        f'layer {{ name: "data" type: "{kind}" top: "data" top: "label" '
        f'{param[kind]} {{ source: "{source}" batch_size: 4 {backend} }} }}\n{LAYERS}{LOSS}'
    )


def png(width: int, height: int) -> bytes:
    """The beginning of a picture, as far as its size."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + b"\0\0\0\0"


@pytest.mark.parametrize(
    ("kind", "files", "says"),
    [
        ("Data", {"list/x": ""}, ("list is not a readable LMDB", "--input-shape data=CxHxW")),
        ("ImageData", {"list": "\n"}, ("image list list has nothing but empty lines",)),
        ("ImageData", {"list": "nolabel.png\n"}, ("source 'nolabel.png' is not in",)),
        ("ImageData", {"list": "no.png 1\n"}, ("source 'no.png' is not in",)),
        ("ImageData", {"list/x": ""}, ("list is not a readable list of files: it is a folder",)),
        ("ImageData", {"list": "a b.png 1", "a b.png": "text"}, ("b.png is not a readable image",)),
        ("ImageData", {"list": "a 1", "a": png(10**5, 10**5)}, ("a is not a readable image",)),
        ("HDF5Data", {"list": ""}, ("HDF5 file list list is empty",)),
        ("HDF5Data", {"list": "no.h5"}, ("source 'no.h5' is not in", "--input-shape label=CxHxW")),
        ("HDF5Data", {"list/x": ""}, ("list is not a readable list of files",)),
        ("HDF5Data", {"list": "a.h5", "a.h5": "text"}, ("a.h5 is not a readable HDF5 file",)),
    ],
)
def test_bad_data(
    folder: Path, kind: str, files: dict[str, str | bytes], says: tuple[str, ...]
) -> None:
    case = Bad(says, net=data_net(kind, "list"), files=files)
    test_bad_input(folder, case)


def test_hdf5_without_rows(folder: Path) -> None:
    h5py = pytest.importorskip("h5py")
    (folder / "net.prototxt").write_text(data_net("HDF5Data", "list"))
    (folder / "list").write_text("a.h5")
    for content in ("scalar", "group", "nothing"):
        with h5py.File("a.h5", "w") as file:
            file["label"] = [0.0, 1.0]
            if content == "scalar":
                file["data"] = 3.0
            elif content == "group":
                file.create_group("data")
        what = (
            "has no dataset 'data'" if content == "nothing" else "'data' of HDF5 file a.h5 is not"
        )
        check_message(call("memory", "net.prototxt"), 2, (what, "--input-shape data=CxHxW"))


def test_half_an_lmdb(folder: Path) -> None:
    """A copy that was cut short is refused before its missing pages kill the program."""
    source = write_lmdb(folder / "whole") / "data.mdb"
    (folder / "lmdb").mkdir()
    (folder / "lmdb" / "data.mdb").write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    (folder / "net.prototxt").write_text(LMDB + LAYERS + LOSS)
    done = spawn(PROGRAM, *plan(), cwd=folder)
    check_message(done, 2, ("LMDB lmdb is truncated: it has", "Copy or create it again."))
    assert not (folder / "job").exists()


def test_python_layer_whose_module_is_missing_in_training(folder: Path, runtime: object) -> None:
    made = DATA.replace('"Input"', '"DummyData"').replace("input_param", "dummy_data_param")
    (folder / "net.prototxt").write_text(made + PYTHON + LOSS)
    unknown = ("--allow-unknown", "--input-shape", "mine=2x3x5")
    assert call(*plan(*unknown)).code == 0
    done = spawn(PROGRAM, "train", "job", cwd=folder)
    assert (done.code, done.out) == (4, "")
    message = next(line for line in done.err.splitlines() if line.startswith("caffe-batch: "))
    assert "No module named 'no_such_module'" in message
    assert str(folder / "job" / "caffe.log") in done.err
    assert json.loads((folder / "job" / "job.json").read_text())["state"] == "failed"


def test_a_named_pipe_that_nobody_writes_to(folder: Path) -> None:
    os.mkfifo("net.prototxt")
    says = ("net.prototxt: nobody writes anything to this pipe or device",)
    check_message(call("memory", "net.prototxt"), 2, says)


@pytest.mark.parametrize("name", ["metrics.jsonl", "caffe.log", "loss.png"])
def test_a_pipe_where_a_training_writes(folder: Path, name: str, runtime: object) -> None:
    (folder / "net.prototxt").write_text(data_net("Data", str(write_lmdb(folder / "data"))))
    assert call(*plan("--batch-size", 4)).code == 0
    os.mkfifo(folder / "job" / name)
    says = (f"job/{name} is not a file, and a training writes one there", "Remove it.")
    check_message(call("train", "job"), 2, says)


def test_a_home_of_nobody(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAFFE_BATCH_HOME", "~nouser/x")
    says = ("CAFFE_BATCH_HOME is '~nouser/x', and ~nouser is no user's home here",)
    check_message(call("runtime", "list"), 2, says)


# Trouble from outside: a full disk, signals, streams that are closed.


@pytest.fixture
def planned(folder: Path) -> Path:
    (folder / "net.prototxt").write_text(NET + "# " + "x" * 600 + "\n")
    return folder


@pytest.mark.parametrize("size", ["size=4k", "size=8k", "nr_inodes=2"])
def test_full_disk(planned: Path, size: str) -> None:
    """A disk without room for the second file, the third, a folder."""
    if not can_mount():
        pytest.skip("no tmpfs can be mounted; test_files_that_may_not_grow does the like")
    (planned / "disk").mkdir()
    script = f"""
        mount -t tmpfs -o {size} tmpfs disk || exit 99
        "$0" plan net.prototxt --gpu-memory 1GiB --out disk/job
        echo "exit $?"
        find disk
    """
    done = spawn(*NAMESPACE, "sh", "-c", script, PROGRAM, cwd=planned)
    assert done.out == "exit 1\ndisk\n", done.err
    note, message, hint = done.err.splitlines()
    assert note.startswith("note: ")
    assert message.startswith(f"caffe-batch: {planned}/disk/job")
    assert message.endswith(": No space left on device")
    assert hint == "Free some space there, then run the command again."


@pytest.mark.parametrize("blocks", [1, 3])  # of 512 bytes: not for the net, not for plan.json
def test_files_that_may_not_grow(planned: Path, blocks: int) -> None:
    before = tree(planned)
    limited = ("sh", "-c", f'ulimit -f {blocks}; exec "$0" "$@"', PROGRAM)
    done = spawn(*limited, *plan(), cwd=planned)
    name = "net.prototxt" if blocks == 1 else "plan.json"
    check_message(done, 1, (f"caffe-batch: {planned}/job/{name}: File too large",))
    assert tree(planned) == before


def test_full_stdout(planned: Path) -> None:
    for command in ("memory net.prototxt", "memory net.prototxt --json"):
        done = spawn("sh", "-c", f'exec "$0" {command} >/dev/full', PROGRAM, cwd=planned)
        check_message(done, 1, ("No space left on device",))


def without_privileges(*command: object) -> tuple[object, ...]:
    """The command, bound by file modes even where the tests run as root."""
    if os.geteuid() != 0:
        return command
    return ("setpriv", "--bounding-set=-dac_override,-dac_read_search", *command)


@pytest.mark.parametrize(
    ("closed", "code", "says"),
    [
        ("net.prototxt", 2, "net.prototxt: the file can't be read: Permission denied"),
        ("models", 2, "models/net.prototxt: the file can't be read: Permission denied"),
        ("out", 1, "Permission denied"),
    ],
)
def test_no_permission(planned: Path, closed: str, code: int, says: str) -> None:
    for name in ("models", "out"):
        (planned / name).mkdir()
    (planned / "models" / "net.prototxt").write_text(NET)
    before = tree(planned)
    net = "models/net.prototxt" if closed == "models" else "net.prototxt"
    command = ("plan", net, "--gpu-memory", "1GiB", "--out", "out/job")
    (planned / closed).chmod(0)
    done = spawn(*without_privileges(PROGRAM, *command), cwd=planned)
    (planned / closed).chmod(0o700)
    check_message(done, code, (says,))
    assert tree(planned) == before


#: A rule that waits for ever, once it has said so: in its module, or where it is asked for memory.
HOLD = """
import pathlib, time
from caffe_batch.layers.base import Rule

def hold():
    pathlib.Path(__file__).with_name("tmp").joinpath("here").touch()
    time.sleep(3600)

class Hold(Rule):
    type = "Hold"

    def shape(self, site):
        return site.bottoms

    def memory(self, site, mode):
        hold()

RULES = [Hold()]
"""


@pytest.mark.parametrize(
    ("net", "rules"),
    [
        ("resnet152", f"{HOLD}hold()\n"),  # the rendered template is in a temporary folder
        ("net.prototxt", HOLD),
    ],
)
def test_interrupted_while_planning(planned: Path, net: str, rules: str) -> None:
    (planned / "tmp").mkdir()
    (planned / "hold.py").write_text(rules)
    layer = 'layer { name: "hold" type: "Hold" bottom: "ip" top: "held" }\n'
    (planned / "net.prototxt").write_text(NET + layer)
    before = tree(planned)
    child = subprocess.Popen(
        [PROGRAM, "plan", net, "--rules", "hold.py", "--gpu-memory", "8GiB", "--out", "job"],
        cwd=planned,
        env={**os.environ, "TMPDIR": str(planned / "tmp"), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with child:
        here = planned / "tmp" / "here"
        wait_for(lambda: here.exists() or child.poll() is not None)
        assert child.poll() is None, child.communicate()
        assert len(list((planned / "tmp").iterdir())) == (1 if net == "net.prototxt" else 2)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=PATIENCE_S)
    assert (child.returncode, out, err.strip()) == (130, "", "Interrupted.")
    here.unlink()
    assert tree(planned) == before


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_interrupted_while_writing(
    planned: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    """Ctrl-C right after the first, second or last file has its name."""
    written = []

    def interrupted(path: Path, text: str) -> None:
        replace_text(path, text)
        written.append(path.name)
        if len(written) == stop:
            raise KeyboardInterrupt

    monkeypatch.setattr(job_files, "replace_text", interrupted)
    before = tree(planned)
    done = call(*plan())
    assert (done.code, done.out) == (130, "")
    assert done.err.endswith("Interrupted.\n")
    assert len(written) == stop
    assert tree(planned) == before


def test_a_reader_that_goes_away(planned: Path) -> None:
    """The reader is gone before the first byte: writing fails for sure, and nobody listens."""
    script = """
        { sleep 1; for option in "" --json; do
            "$0" memory net.prototxt $option
            echo $? >>codes
        done } 2>err | :
    """
    done = spawn("sh", "-c", script, PROGRAM, cwd=planned)
    assert (done.out, done.err) == ("", "")
    assert (planned / "codes").read_text() == "1\n1\n"
    assert (planned / "err").read_text() == ""


@pytest.mark.parametrize(
    ("closed", "options"), [(">&-", ""), (">&-", "--json"), ("<&- >&- 2>&-", "")]
)
def test_closed_streams(planned: Path, closed: str, options: str) -> None:
    script = f'"$0" plan net.prototxt --gpu-memory 1GiB --out job {options} {closed}'
    done = spawn("sh", "-c", script, PROGRAM, cwd=planned)
    assert done.code == 0
    assert [line for line in done.err.splitlines() if not line.startswith("note: ")] == []
    assert (planned / "job" / "plan.json").is_file()


def test_a_message_for_a_closed_stderr(planned: Path) -> None:
    done = spawn("sh", "-c", '"$0" memory gone.prototxt 2>&-', PROGRAM, cwd=planned)
    assert (done.code, done.out, done.err) == (2, "", "")


def test_stdout_that_lacks_letters(planned: Path) -> None:
    (planned / "net.prototxt").write_text(NET.replace('name: "ip"', 'name: "größe 名"'))
    done = spawn(PROGRAM, "memory", "net.prototxt", cwd=planned, PYTHONIOENCODING="ascii")
    assert (done.code, done.err) == (0, "")
    assert r"gr\xf6\xdfe \u540d" in done.out


def test_a_pipe_is_read_but_not_copied(planned: Path) -> None:
    before = tree(planned)
    for command, code in (
        ("memory", 0),
        ("plan --gpu-memory 1GiB", 0),
        ("plan --gpu-memory 1GiB --out job", 2),
    ):
        script = f'cat net.prototxt | "$0" {command} /dev/stdin'
        done = spawn("sh", "-c", script, PROGRAM, cwd=planned)
        assert done.code == code
    assert "caffe-batch: /dev/stdin is a pipe, and can't be read a second time" in done.err
    assert tree(planned) == before


def test_without_a_home(planned: Path) -> None:
    done = spawn("env", "-u", "HOME", PROGRAM, *plan(), cwd=planned)
    assert done.code == 0
    assert (planned / "job" / "plan.json").is_file()


# Anything at all.

WORDS = ["0", "1", "-1", "7", "99999999999", "nan", '""', '"data"', '"ip"', "TEST", "{", "}", "[",
         "]", ":", "#", "\0", "é", "axis: -9", "phase: TEST", "bottom", "top", "loss_weight: 1",
         "ReLU", '"Reshape"', '"Convolution"', '"LSTM"', "include { phase: TEST }"]  # fmt: skip


def tokens(text: str) -> list[str]:
    for letter in "{}:":
        text = text.replace(letter, f" {letter} ")
    return text.split()


Change = tuple[int, str, str]


@settings(
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    changes=st.lists(
        st.tuples(
            st.integers(0, len(tokens(NET)) - 1),
            st.sampled_from(["replace", "insert", "delete"]),
            st.sampled_from(WORDS),
        ),
        min_size=1,
        max_size=4,
    ),
    command=st.sampled_from([
        ("memory", "net.prototxt"),
        ("memory", "net.prototxt", "--json", "--batch-size", 6, "--allow-unknown"),
        plan("--reserve", 0, "--effective-batch", 6, memory="10KiB"),
    ]),
)  # fmt: skip
def test_any_net_is_read_or_refused(
    folder: Path, changes: list[Change], command: tuple[object, ...]
) -> None:
    words = tokens(NET)
    for place, what, word in changes:
        kept = [] if what == "delete" else [word]
        words[place : place + (what != "insert")] = kept
    (folder / "net.prototxt").write_text(" ".join(words))
    done = call(*command)
    assert done.code in (0, 2, 3)
    assert bool(done.out) == (done.code == 0)
    assert (done.code == 0) == ("caffe-batch: " not in done.err)
    made = sorted(path.name for path in folder.iterdir())
    planned = done.code == 0 and command[0] == "plan"
    assert made == (["job", "net.prototxt"] if planned else ["net.prototxt"])
    shutil.rmtree(folder / "job", ignore_errors=True)

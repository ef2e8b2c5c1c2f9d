"""The prediction of CPU mode against the memory that real Caffe takes.

Counted by the byte, all that the prediction leaves out are arrays of at most 32 numbers: the shape
of every blob, and settings such as a kernel's size. See docs/memory-model.md.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lmdb
import pytest

from caffe_batch.memory import CaffeMemory, Part, Prediction
from caffe_batch.net import Sources, read_recipe
from caffe_batch.runtimes import Runtime
from caffe_batch.schema import caffe_pb2
from tests.memory.cpu_nets import (
    ADAM,
    NETS,
    TESTED,
    CpuNet,
    classifier,
    dense,
    dummy,
    hdf5_files,
    layer,
    normalized,
    perceptron,
    recurrent,
    twins,
    write_hdf5,
)
from tests.memory.host_memory import Counted, build_counter, count, weigh

#: Resident memory and its prediction agree by 3 %: the allocator has memory of its own, and Caffe
#: asks for some that it never writes to.
TOLERANCE = 0.03


def predict(folder: Path, **options: Any) -> Prediction:
    """The prediction for a folder's solver, as ``caffe-batch memory --mode cpu`` makes it."""
    sources = Sources((folder,), **options)
    return CaffeMemory(read_recipe(folder / "solver.prototxt"), sources, "cpu").at()


def assert_exact(counted: Counted | None, predicted: Prediction) -> None:
    assert counted is not None, "Caffe aborted"
    assert 0 <= counted.after_build - predicted.after_build_bytes <= counted.small
    assert 0 <= counted.peak - predicted.after_two_updates_bytes <= counted.small


@pytest.fixture(scope="session")
def counter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = build_counter(tmp_path_factory.mktemp("counter"))
    if library is None:
        pytest.skip("counting needs a C compiler; the tests of resident memory need none")
    return library


def siamese_lstm() -> str:
    """Two LSTM layers with the same weights."""
    shape = (7, 5, 11)
    net = dummy(("a", shape), ("b", shape), ("label", shape[:2]), ("cont", shape[:2]))
    for branch in "ab":
        shared = " ".join(f'param {{ name: "{name}" }}' for name in ("input", "bias", "hidden"))
        filler = 'weight_filler { type: "xavier" }'
        settings = f"{shared} recurrent_param {{ num_output: 13 {filler} }}"
        net += layer("LSTM", f"lstm_{branch}", f"{branch} cont", f"h_{branch}", settings)
    net += layer("Eltwise", "sum", "h_a h_b", "sum") + dense("scores", "sum", 10, "axis: 2")
    axis = "softmax_param { axis: 2 }"
    return net + layer("SoftmaxWithLoss", "loss", "scores label", "loss", axis)


def learned_bias() -> str:
    """A Parameter layer, the only one whose blob has no values when it is built."""
    net = dummy(("data", (20, 300)), ("label", (20,)))
    net += layer("Parameter", "added", "", "added", "parameter_param { shape { dim: 300 } }")
    return net + layer("Bias", "bias", "data added", "bias") + classifier("bias")


#: What the GPU's cases don't show: memory that is only there on the host, or while nets are built.
SMALL = {
    "HDF5 files": CpuNet(hdf5_files(3), {}, partial(write_hdf5, rows=(17, 5))),
    "HDF5 files in a test net": CpuNet(hdf5_files(3), TESTED, partial(write_hdf5, rows=(11,))),
    "shared": CpuNet(twins(50)),
    "shared, test net": CpuNet(twins(50), TESTED),
    "shared, late test": CpuNet(twins(50), {**TESTED, "test_initialization": "false"}),
    "LSTM, most while it is built": CpuNet(recurrent("LSTM", 60, 2, 100)),
    "LSTM, test net": CpuNet(recurrent("LSTM", 5, 2, 30), TESTED),
    "LSTM, shared": CpuNet(siamese_lstm()),
    "LSTM, shared, test net": CpuNet(siamese_lstm(), TESTED),
    "RNN, Adam": CpuNet(recurrent("RNN", 5, 7, 11), ADAM),
    "Parameter": CpuNet(learned_bias()),
    "normalisations": CpuNet(normalized(3, 16)),
}


def test_small_nets_by_the_byte(counter: Path, runtime: Runtime, tmp_path: Path) -> None:
    folders = [net.write(tmp_path / name) for name, net in SMALL.items()]
    for folder, counted in zip(folders, count(folders, runtime, counter), strict=True):
        assert_exact(counted, predict(folder))


def test_resident_memory_of_100_megabytes(runtime: Runtime, tmp_path: Path) -> None:
    nets = {"parameters": CpuNet(perceptron(1600), ADAM), "blobs": CpuNet(normalized(4, 128))}
    folders = [net.write(tmp_path / name) for name, net in nets.items()]
    for folder, found in zip(folders, weigh(folders, runtime), strict=True):
        predicted = predict(folder).after_two_updates_bytes
        assert predicted > 100e6
        assert found is not None, "Caffe aborted"
        assert found.peak == pytest.approx(predicted, rel=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*list(NETS)[:2], *list(NETS)[-1:]])
def test_resident_memory_of_large_nets(name: str, runtime: Runtime, tmp_path: Path) -> None:
    folder = NETS[name].write(tmp_path / "net")
    found = weigh([folder], runtime)[0]
    assert found is not None, "Caffe aborted"
    assert found.peak == pytest.approx(predict(folder).after_two_updates_bytes, rel=TOLERANCE)


def reference_folders(folder: Path) -> list[Path]:
    """The nets of the GPU's cases that can be trained in CPU mode, each once."""
    cases = json.loads((Path(__file__).parent.parent / "data" / "gpu_memory.json").read_text())
    # Stochastic pooling has no CPU code; VGG takes a while and is in the benchmark.
    nets = {case["name"]: case for case in cases["cases"]}
    nets = {name: nets[name] for name in nets if name not in ("pool_stochastic", "vgg16_like")}
    folders = []
    for name, case in nets.items():
        solver = {'net: "net.prototxt"', "snapshot_after_train: false", *case["solver"].split("\n")}
        path = folder / name
        path.mkdir()
        (path / "net.prototxt").write_text(case["net"])
        (path / "solver.prototxt").write_text("\n".join(solver).replace("GPU", "CPU"))
        write_records(path / "records_lmdb")
        folders.append(path)
    return folders


def write_records(path: Path) -> None:
    """The LMDB of the cases: 20 records of 3 x 19 x 23."""
    with lmdb.open(str(path), map_size=1 << 20) as env, env.begin(write=True) as transaction:
        datum = caffe_pb2.Datum(channels=3, height=19, width=23, data=bytes(3 * 19 * 23), label=1)
        for i in range(20):
            transaction.put(f"{i:08}".encode(), datum.SerializeToString())


@pytest.mark.slow
def test_reference_nets_by_the_byte(counter: Path, runtime: Runtime, tmp_path: Path) -> None:
    folders = reference_folders(tmp_path)
    assert len(folders) == 105
    for folder, counted in zip(folders, count(folders, runtime, counter), strict=True):
        assert_exact(counted, predict(folder))


def rows_of(prediction: Prediction, name: str) -> dict[Part, int]:
    return next(layer.parts for layer in prediction.layers if layer.name == name)


def test_table_shows_what_is_there_at_the_peak(tmp_path: Path) -> None:
    found = predict(CpuNet(recurrent("LSTM", 60, 2, 100)).write(tmp_path / "net"))
    assert found.peak_bytes == found.after_build_bytes == sum(found.parts.values())
    assert found.parts[Part.GRADIENTS] < 10_000  # no pass has run
    # Each step but the first has a weight matrix of its own until the net is complete.
    assert rows_of(found, "rnn")[Part.LAYER_BUFFERS] >= 59 * 4 * (400 * 100)


def test_hdf5_counts_the_largest_file(tmp_path: Path) -> None:
    net = CpuNet(hdf5_files(3), {}, partial(write_hdf5, rows=(5, 17, 9)))
    found = predict(net.write(tmp_path / "net"))
    assert rows_of(found, "data")[Part.LAYER_BUFFERS] == 4 * 17 * (3 * 64 * 64 + 1)
    assert found.unknown_layers == ()


def test_hdf5_files_that_nobody_has_read(tmp_path: Path) -> None:
    folder = CpuNet(hdf5_files(3)).write(tmp_path / "net")
    shapes: dict[str, Sequence[int]] = {"data": (3, 64, 64), "label": ()}
    assert predict(folder, input_shapes=shapes).unknown_layers == ("data",)
    sources = Sources((folder,), {"data": (3, 64, 64), "label": ()})
    model = CaffeMemory(read_recipe(folder / "solver.prototxt"), sources, "gpu")
    assert model.at().unknown_layers == ()  # the device never sees the file

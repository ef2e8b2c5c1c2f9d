"""Weights, snapshots and data are checked before anything runs or is deleted.

What is refused here is tried on real Caffe as well: it dies of it.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import lmdb
import pytest

from caffe_batch.engines.caffe.snapshots import list_snapshots
from caffe_batch.engines.caffe.starting_files import check_state, check_weights
from caffe_batch.engines.snapshots import Snapshot
from caffe_batch.errors import InputError
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.job_recipe import job_recipe
from caffe_batch.layers import BUILT_IN
from caffe_batch.net.graph import Net
from caffe_batch.net.sources import Sources
from caffe_batch.runtimes import Runtime
from caffe_batch.schema import caffe_pb2
from caffe_batch.training.options import Options
from caffe_batch.training.progress import Progress
from caffe_batch.training.supervisor import train
from tests.planned_jobs import HEIGHT, NET, WIDTH, write_job, write_lmdb

Pycaffe = Callable[..., str]

LOAD = """
import sys, caffe
net = caffe.Net(sys.argv[1], caffe.TRAIN)
net.copy_from(sys.argv[2])
"""
RESTORE = """
import sys, caffe
solver = caffe.get_solver(sys.argv[1])
solver.restore(sys.argv[2])
"""


def small_job(folder: Path, **fields: object) -> JobDirectory:
    folder.mkdir(exist_ok=True)
    return write_job(folder, max_iter=2, test_interval=0, test_iter=None, **fields)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def trained(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> JobDirectory:
    job = small_job(tmp_path_factory.mktemp("trained") / "first")
    train(job, runtime)
    return job


@pytest.fixture(scope="module")
def snapshot(trained: JobDirectory) -> Snapshot:
    (found,) = list_snapshots(trained.snapshots)
    return found


@pytest.fixture(scope="module")
def in_hdf5(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    job = small_job(tmp_path_factory.mktemp("trained") / "hdf5", snapshot_format="HDF5")
    train(job, runtime)
    (found,) = list_snapshots(job.snapshots)
    return found


@pytest.fixture(scope="module")
def net(trained: JobDirectory) -> Net:
    recipe = job_recipe(trained, trained.solver, BUILT_IN)
    return recipe.train.build(recipe.train.layers(Sources((trained.path,))))


def model_of(snapshot: Snapshot) -> caffe_pb2.NetParameter:
    return caffe_pb2.NetParameter.FromString(snapshot.weights.read_bytes())


def layer_of(model: caffe_pb2.NetParameter, name: str) -> caffe_pb2.LayerParameter:
    return next(layer for layer in model.layer if layer.name == name)


def truncated(snapshot: Snapshot) -> bytes:
    return snapshot.weights.read_bytes()[:-40]


def wider(snapshot: Snapshot) -> bytes:
    model = model_of(snapshot)
    blob = layer_of(model, "ip2").blobs[0]
    blob.shape.dim[0] += 1
    blob.data.extend([0.0] * blob.shape.dim[1])
    return model.SerializeToString()


def without_bias(snapshot: Snapshot) -> bytes:
    model = model_of(snapshot)
    del layer_of(model, "ip2").blobs[1]
    return model.SerializeToString()


def old_syntax(snapshot: Snapshot, first: int) -> bytes:
    """The weights as Caffe wrote them in 2014: ``layers``, and blobs of four axes."""
    old = caffe_pb2.NetParameter()
    for layer in model_of(snapshot).layer:
        if not layer.blobs:
            continue
        new = old.layers.add(name=layer.name, type=caffe_pb2.V1LayerParameter.INNER_PRODUCT)
        for blob in layer.blobs:
            shape = [*(first,) * (4 - len(blob.shape.dim)), *blob.shape.dim]
            added = new.blobs.add(data=blob.data)
            added.num, added.channels, added.height, added.width = shape
    return old.SerializeToString()


def other_names(snapshot: Snapshot) -> bytes:
    model = model_of(snapshot)
    for layer in model.layer:
        layer.name = f"other_{layer.name}"
    return model.SerializeToString()


def no_blobs(snapshot: Snapshot) -> bytes:
    model = model_of(snapshot)
    for layer in model.layer:
        del layer.blobs[:]
    return model.SerializeToString()


#: What a file holds, and what is reported. Caffe dies of each of them, except CAFFE_TAKES.
BAD_WEIGHTS: dict[str, tuple[Callable[[Snapshot], bytes], str]] = {
    "truncated": (truncated, "cut off or damaged"),
    "empty": (lambda snapshot: b"", "is empty"),
    "solverstate": (lambda snapshot: snapshot.state.read_bytes(), "it is a solverstate"),
    "text": (lambda snapshot: b"layer { name: 'ip1' }", "it is text"),
    "zip": (lambda snapshot: b"PK\x03\x04" + bytes(99), "it is a zip archive"),
    "wider": (wider, "parameter 0 of layer 'ip2' is 5 x 8 there and 4 x 8 in the net"),
    "without bias": (without_bias, "layer 'ip2' has 1 blobs there and 2 in the net"),
    "old syntax, other shapes": (lambda s: old_syntax(s, 2), "2 x 2 x 8 x 35 there"),
    "other names": (other_names, "no layer of the net has weights in"),
    "no blobs": (no_blobs, "holds a net without weights"),
}
CAFFE_TAKES = {"empty", "text", "other names"}


@pytest.mark.parametrize("kind", BAD_WEIGHTS)
def test_weights_that_caffe_cannot_load(
    kind: str, snapshot: Snapshot, net: Net, trained: JobDirectory, pycaffe: Pycaffe, tmp_path: Path
) -> None:
    content, message = BAD_WEIGHTS[kind]
    file = tmp_path / "x.caffemodel"
    file.write_bytes(content(snapshot))
    with pytest.raises(InputError, match=message):
        check_weights(file, [net])
    if kind in CAFFE_TAKES:
        pycaffe(LOAD, str(trained.net), str(file))
    else:
        with pytest.raises(RuntimeError, match="pycaffe ended with"):
            pycaffe(LOAD, str(trained.net), str(file))


@pytest.mark.parametrize("kind", ["binary", "old syntax", "hdf5", "another layer beside"])
def test_weights_that_caffe_loads(
    kind: str,
    snapshot: Snapshot,
    in_hdf5: Snapshot,
    net: Net,
    trained: JobDirectory,
    pycaffe: Pycaffe,
    tmp_path: Path,
) -> None:
    file = tmp_path / ("x.caffemodel.h5" if kind == "hdf5" else "x.caffemodel")
    if kind == "hdf5":
        shutil.copy(in_hdf5.weights, file)
    elif kind == "old syntax":
        file.write_bytes(old_syntax(snapshot, 1))
    else:
        model = model_of(snapshot)
        if kind == "another layer beside":
            model.layer.add(name="x", type="InnerProduct").blobs.add(data=[1.0]).shape.dim[:] = [1]
        file.write_bytes(model.SerializeToString())
    check_weights(file, [net])
    pycaffe(LOAD, str(trained.net), str(file))


@pytest.mark.parametrize(
    ("first", "second"), [("SGD", "Adam"), ("Adam", "Nesterov"), ("SGD", "AdaDelta")]
)
@pytest.mark.parametrize("form", ["BINARYPROTO", "HDF5"])
def test_the_state_of_a_solver_of_another_type(
    first: str, second: str, form: str, runtime: Runtime, pycaffe: Pycaffe, tmp_path: Path
) -> None:
    before = small_job(tmp_path / "a", type=f'"{first}"', snapshot_format=form)
    train(before, runtime)
    (snapshot,) = list_snapshots(before.snapshots)
    (tmp_path / "b").mkdir()
    job = write_job(
        tmp_path / "b", max_iter=4, type=f'"{second}"', test_interval=0, test_iter=None,
    )  # fmt: skip
    with pytest.raises(InputError, match=f"from a solver of another type.* {second} has"):
        train(job, runtime, Options(snapshot=snapshot.state))
    assert not job.record.exists()
    with pytest.raises(RuntimeError, match="pycaffe ended with -6"):
        pycaffe(RESTORE, str(job.solver), str(snapshot.state))


def test_a_snapshot_of_another_net(snapshot: Snapshot, runtime: Runtime, tmp_path: Path) -> None:
    job = write_job(tmp_path, max_iter=4, width=9)
    with pytest.raises(InputError, match="parameter 0 of layer 'ip1' is 8 x 35 there and 9 x 35"):
        train(job, runtime, Options(snapshot=snapshot.state))


def test_what_was_meant_is_said(
    snapshot: Snapshot, in_hdf5: Snapshot, runtime: Runtime, tmp_path: Path
) -> None:
    job = small_job(tmp_path / "job")
    alone = tmp_path / "a_iter_3.caffemodel"
    alone.touch()
    plain = in_hdf5.state.with_name(in_hdf5.state.name.removesuffix(".h5"))
    packed = snapshot.state.with_name(f"{snapshot.state.name}.h5")
    for options, message in (
        (Options(snapshot=snapshot.weights), f"snapshot: give {snapshot.state}"),
        (Options(snapshot=alone), 'weights=".*a_iter_3.caffemodel" starts from them'),
        (Options(snapshot=plain), f"There is {in_hdf5.state}"),
        (Options(snapshot=packed), f"There is {snapshot.state}"),
        (Options(weights=(snapshot.state,)), "snapshot continues from it"),
    ):
        with pytest.raises(InputError, match=message):
            train(job, runtime, options)
    assert not job.record.exists()


def test_damaged_files_are_reported_without_a_traceback(
    snapshot: Snapshot, in_hdf5: Snapshot, net: Net, tmp_path: Path
) -> None:
    draw = random.Random(1)
    for whole in (snapshot, in_hdf5):
        files = [tmp_path / file.name for file in (whole.state, whole.weights)]
        copy = Snapshot(whole.update, *files)
        for _ in range(150):
            for file, original in zip(files, (whole.state, whole.weights), strict=True):
                shutil.copy(original, file)
            changed = draw.choice(files)
            content = bytearray(changed.read_bytes())
            place = draw.randrange(len(content))
            content[place : place + 2] = draw.randbytes(draw.choice((1, 2, 9)))
            changed.write_bytes(content[: draw.choice((place, len(content)))])
            for file in files:
                with suppress(InputError):
                    check_weights(file, [net])
            with suppress(InputError):
                check_state(copy, net, "SGD")


def test_a_refused_restart_deletes_nothing(
    snapshot: Snapshot, runtime: Runtime, tmp_path: Path
) -> None:
    job = small_job(tmp_path / "job")
    train(job, runtime)
    bad = tmp_path / "bad.caffemodel"
    bad.write_bytes(wider(snapshot))
    before = {path: path.read_bytes() for path in job.path.rglob("*") if path.is_file()}
    for options in (
        Options(restart=True, weights=(bad,)),
        Options(restart=True, weights=(tmp_path / "no.caffemodel",)),
        Options(restart=True, snapshot=tmp_path / "a_iter_3.solverstate"),
        Options(restart=True, weights=(snapshot.weights,), snapshot=snapshot.state),
    ):
        with pytest.raises(InputError):
            train(job, runtime, options)
        assert {path: path.read_bytes() for path in before} == before


def test_data_that_caffe_dies_of_is_refused_before_the_training(
    runtime: Runtime, tmp_path: Path
) -> None:
    job = small_job(tmp_path / "job")
    with lmdb.open(str(tmp_path / "job" / "data"), map_size=1 << 24) as data:
        bad = caffe_pb2.Datum(channels=1, height=HEIGHT, width=WIDTH, label=9,
                              data=bytes(HEIGHT * WIDTH))  # fmt: skip
        with data.begin(write=True) as put:
            put.put(b"%08d" % 999, bad.SerializeToString())
    with pytest.raises(InputError, match="a label is 9, but this layer takes 0 to 3"):
        train(job, runtime)
    assert not job.record.exists()


def test_data_that_changed_is_said(runtime: Runtime, tmp_path: Path) -> None:
    net = NET.format(data=write_lmdb(tmp_path / "data"), batch_size=6, width=8)
    job = write_job(tmp_path, max_iter=4, snapshot=2, net=net)
    train(job, runtime)
    record = job.read_record()
    assert record is not None
    assert record.attempts[-1].records == {str(tmp_path / "data"): 70}
    last = list_snapshots(job.snapshots)[-1]
    for file in last.files:
        file.unlink(missing_ok=True)
    job.write_record(type(record)(**{**vars(record), "updates_done": 2}))
    with lmdb.open(str(tmp_path / "data"), map_size=1 << 24) as data, data.begin(write=True) as cut:
        for number in range(30, 70):
            cut.delete(b"%08d" % number)
    seen: list[Progress] = []
    train(job, runtime, observer=seen.append)
    (note,) = [note for note in seen[-1].notes if "has changed" in note]
    assert "has 30 records, but had 70 when it ran last" in note

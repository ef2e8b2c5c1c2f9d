"""The recipe of a template's paper, as a solver for the user's own number of records."""

from __future__ import annotations

from pathlib import Path

import lmdb
import pytest

from caffe_batch.api.recipes import RecipeFiles, with_solver
from caffe_batch.prototxt import parse_solver
from caffe_batch.schema import caffe_pb2


def solver_of(
    name: str, shape: tuple[str, ...] = (), batch: int | None = None
) -> tuple[caffe_pb2.SolverParameter, str]:
    """The solver that a template's recipe makes, and the note about it."""
    files = RecipeFiles(name, None, shape, allow_unknown=False, allow_unknown_fields=False)
    _, made = with_solver(files.recipe, files.sources, batch, template=files.template)
    assert made is not None
    return parse_solver(made.text), made.note


def write_lmdb(path: Path, records: int) -> None:
    datum = caffe_pb2.Datum(channels=1, height=28, width=28, data=bytes(784)).SerializeToString()
    with lmdb.open(str(path), map_size=2**24) as database, database.begin(write=True) as writer:
        for index in range(records):
            writer.put(b"%06d" % index, datum)


def test_without_the_data_the_epochs_are_those_of_the_paper() -> None:
    """He et al.: 600,000 updates of 256 images; here whole epochs of the same records."""
    solver, note = solver_of("resnet50", ("data=3x256x256",))
    assert (solver.base_lr, solver.gamma) == pytest.approx((0.1, 0.1))
    assert (solver.momentum, solver.weight_decay) == pytest.approx((0.9, 0.0001))
    assert solver.max_iter == 120 * 5005
    assert list(solver.stepvalue) == [30 * 5005, 60 * 5005, 90 * 5005]
    assert note.startswith("no solver was given; resnet50's is from He et al. (2015)")
    assert note.endswith("120 epochs, of 1,281,167 records, since yours can't be counted")


def test_another_effective_batch_keeps_the_epochs() -> None:
    solver, _ = solver_of("resnet50", ("data=3x256x256",), 1024)
    assert solver.max_iter == 120 * 1252
    assert list(solver.stepvalue) == [30 * 1252, 60 * 1252, 90 * 1252]


def test_a_rate_that_drops_again_and_again_has_one_stepsize() -> None:
    solver, _ = solver_of("inception_v3", ("data=3x320x320",))
    assert solver.type == "RMSProp"
    assert solver.lr_policy == "step"
    assert solver.stepsize == 2 * 40037  # of 32 records
    assert solver.delta == 1


def test_with_the_data_the_epochs_are_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """640 records, 64 an update: an epoch is 10 updates, and a test takes the whole test set."""
    write_lmdb(tmp_path / "mnist_train_lmdb", 640)
    write_lmdb(tmp_path / "mnist_test_lmdb", 150)
    monkeypatch.chdir(tmp_path)
    solver, note = solver_of("lenet")
    assert solver.max_iter == 107  # 10.67 epochs
    assert (solver.lr_policy, solver.power) == ("inv", 0.75)
    assert (solver.test_interval, list(solver.test_iter)) == (10, [2])
    assert note.endswith("examples/mnist: 10.67 epochs")

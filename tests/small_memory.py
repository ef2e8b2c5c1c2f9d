"""A recipe on real data whose batch doesn't fit: for tests of the strategies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from caffe_batch import engines
from caffe_batch.memory import MemoryModel
from caffe_batch.net import Sources, read_recipe
from caffe_batch.planning import Budget, PlanOptions
from tests import planned_jobs
from tests.planned_jobs import NET, RECORDS, write_lmdb

#: Samples per update of the recipe, and of one pass within the budget.
BATCH, SMALL = 24, 4

#: Neurons of the hidden layer: enough that cudaMalloc rounds no other batch into the budget.
WIDTH = 256

SOLVER = """\
# My recipe.
net: "net.prototxt"
base_lr: 0.08  lr_policy: "multistep"  gamma: 0.5  stepvalue: 10  momentum: 0.9
max_iter: 20
test_iter: 7  test_interval: 10
"""


def write_recipe(folder: Path, data: Path | None = None, solver: str = SOLVER) -> Path:
    """The recipe's solver, its net and its data in a folder."""
    data = data or write_lmdb(folder / "data")
    (folder / "net.prototxt").write_text(NET.format(data=data, batch_size=BATCH, width=WIDTH))
    (folder / "solver.prototxt").write_text(solver)
    return folder / "solver.prototxt"


def read_model(solver: Path) -> MemoryModel:
    """Its memory model, that of Caffe or, where a test runs on both engines, the engine's."""
    recipe = read_recipe(solver)
    engine = engines.find(planned_jobs.engine)
    return engine.memory_model(recipe, Sources(recipe.directories), "gpu")


def tight(model: MemoryModel, size: int = SMALL) -> Budget:
    """The budget that holds passes of ``size`` samples and no more, with test batches of 1."""
    tests = (1,) * len(model.recipe.tests)
    return Budget(model.with_test_batches(tests).at(size).allocated_bytes, 0)


def options(**changes: object) -> PlanOptions:
    """The recipe's batch, on its data."""
    known = PlanOptions(effective_batch=BATCH, train_records=RECORDS, test_records=(RECORDS,))
    return replace(known, **changes)  # type: ignore[arg-type]  # fields of PlanOptions

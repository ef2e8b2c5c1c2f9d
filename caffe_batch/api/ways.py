"""``strategies``: the ways to train when only a small batch fits in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from enum import Enum
from fractions import Fraction
from pathlib import Path
from typing import Any

from caffe_batch import engines
from caffe_batch.api.arguments import (
    BuildName,
    Files,
    Number,
    Shapes,
    choice,
    files,
    positive,
    several,
    shapes,
    whole,
)
from caffe_batch.api.recipes import noted
from caffe_batch.api.requests import PlanRequest, Prepared
from caffe_batch.errors import InputError, did_you_mean
from caffe_batch.jobs.strategy_files import read_strategies, strategies_file, write_strategies
from caffe_batch.layers.base import Mode
from caffe_batch.memory import Build
from caffe_batch.net.data.check import check_data
from caffe_batch.net.data.findings import DataReport
from caffe_batch.planning.budget import HOST_RESERVE_BYTES
from caffe_batch.planning.strategies import strategies as planned
from caffe_batch.planning.strategies.strategies import find_strategies
from caffe_batch.planning.strategies.strategy import Strategy
from caffe_batch.runtimes.machine import free_host_bytes
from caffe_batch.schema.caffe_pb2 import SolverParameter


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Strategies(planned.Strategies):
    """The ways to train a recipe, each with its plan or the reason why it isn't possible.

    It has ``ways``, ``setting`` and ``json()`` of
    :class:`caffe_batch.planning.strategies.strategies.Strategies`; ``strategies["small"]`` is one
    of them by its name.

    Attributes:
        prepared: The files, the memory model and the options that they were planned with.
        request: What was asked for.
        data: What the check of the data found.
    """

    prepared: Prepared
    request: PlanRequest
    data: DataReport

    @property
    def file_notes(self) -> tuple[str, ...]:
        """How the files were found, and what the check of the data says, one sentence each."""
        return (*self.prepared.notes, *self.data.sentences())

    def __getitem__(self, name: str) -> Strategy:
        known = {way.name: way for way in self.ways}
        if name not in known:
            raise KeyError(did_you_mean(name, [*known]) or f"There are {', '.join(known)}.")
        return known[name]

    def write(self, directory: str | Path) -> Path:
        """Write a job for each strategy that is possible, as DIRECTORY/NAME, and strategies.json.

        Args:
            directory: Created if it doesn't exist.

        Returns:
            The directory, for :func:`compare`; ``Job(directory / "small")`` is one of the jobs.

        Raises:
            InputError: The directory isn't empty.
            OSError: It can't be written.
        """
        where = Path(directory)
        write_strategies(self, self.prepared.solver_text, _content(self.request), where)
        return where

    def __repr__(self) -> str:
        possible = sum(way.plan is not None for way in self.ways)
        return (
            f"<Strategies for {self.setting.batch} samples an update: {possible} of "
            f"{len(self.ways)} possible>"
        )


def strategies(
    net: str | Path,
    *,
    solver: str | Path | None = None,
    input_shape: Shapes = (),
    allow_unknown: bool = False,
    allow_unknown_fields: bool = False,
    rules: Files = (),
    data: str | Path | None = None,
    fork: str | None = None,
    treat_as: str | Iterable[str] = (),
    same_shape: str | Iterable[str] = (),
    run_python_layers: bool = False,
    gpu_memory: str | int | None = None,
    mode: Mode = "gpu",
    reserve: str | int | None = None,
    gpu: int | None = None,
    engine: str = engines.DEFAULT,
    build: BuildName = "caffe",
    half: bool = False,
    effective_batch: int | None = None,
    epochs: Number | None = None,
    test_every: Number | None = None,
    recipe_batch: int | None = None,
    train_records: int | None = None,
    test_records: int | Iterable[int] = (),
) -> Strategies:
    """List the ways to train when only a small batch fits.

    They are accumulation, small batches with another rate or momentum, smaller images, a batch that
    grows, and the CPU, each with its plan, its predicted memory and the noise of its updates
    relative to the recipe's. Nothing is written.

    >>> import caffe_batch as cb
    >>> found = cb.strategies("lenet_digits", gpu_memory="2MiB", reserve=0,
    ...                       input_shape="data=1x8x8", train_records=1000)
    >>> found["small"].plan.batch_size, found["small"].noise
    (32, 8.0)

    Args:
        net: A net file, a solver file (then its nets are followed), or the name of a template.
        solver: The solver to train ``net`` with; the net that it names isn't read.
        input_shape: Sizes of records, as :func:`plan` takes them.
        allow_unknown: Accept layer types without a rule; totals are then lower bounds.
        allow_unknown_fields: Skip fields unknown to Caffe 1.0, with a Python warning for each.
        rules: Python files with rules for other layer types.
        fork: The fork of Caffe that the net is written for: ``"ssd"``, ``"rcnn"``, ``"deeplab"``,
            ``"segnet"``, ``"pspnet"``, ``"nvcaffe"`` or ``"c3d"``; None to decide by the net's
            layer types.
        data: A data set made by :func:`data`, which sets the sources, classes, means and crop of
            a template.
        treat_as: Types to be treated as others: ``"BN=BatchNorm"``, or several of these.
        same_shape: Types whose tops have the shape of their largest bottom, or of one of them:
            ``"Axpy"``, ``"Axpy=1"``, or several.
        run_python_layers: Ask Python layers for the shapes of their tops: they are built once,
            in a separate process. This runs their code.
        gpu_memory: The memory that a run may use, as :func:`plan` takes it.
        mode: Which memory that is, ``"gpu"`` or ``"cpu"``.
        reserve: The part of it to keep for the CUDA context, as :func:`plan` takes it.
        gpu: The GPU to train on later, as :func:`plan` takes it.
        engine: The engine that trains.
        build: The build of Caffe, as :func:`plan` takes it.
        half: NVCaffe in half precision.
        effective_batch: Samples per update that the recipe needs; the files' own if None.
        epochs: Train for this many epochs; the recipe's if None.
        test_every: Epochs between tests; the recipe's if None.
        recipe_batch: Samples per update that the files' schedule was written for; their own
            batch if None.
        train_records: Number of training records, if they can't be counted.
        test_records: Number of test records, if they can't be counted; one number per test net.

    Raises:
        InputError: A file can't be read, Caffe would refuse it, or no plan is possible.
        DoesNotFitError: Not even one sample fits.
    """
    request = strategies_request(
        net, solver=solver, input_shape=input_shape, allow_unknown=allow_unknown,
        allow_unknown_fields=allow_unknown_fields, rules=rules,
        fork=fork, treat_as=treat_as, same_shape=same_shape,
        run_python_layers=run_python_layers, data=data, gpu_memory=gpu_memory,
        mode=mode,
        reserve=reserve, gpu=gpu, engine=engine, build=build, half=half,
        effective_batch=effective_batch, epochs=epochs, test_every=test_every,
        recipe_batch=recipe_batch, train_records=train_records, test_records=test_records,
    )  # fmt: skip
    return find(request)


def strategies_request(
    net: str | Path,
    *,
    solver: str | Path | None = None,
    input_shape: Shapes = (),
    allow_unknown: bool = False,
    allow_unknown_fields: bool = False,
    rules: Files = (),
    data: str | Path | None = None,
    fork: str | None = None,
    treat_as: str | Iterable[str] = (),
    same_shape: str | Iterable[str] = (),
    run_python_layers: bool = False,
    gpu_memory: str | int | None = None,
    mode: Mode = "gpu",
    reserve: str | int | None = None,
    gpu: int | None = None,
    engine: str = engines.DEFAULT,
    build: BuildName = "caffe",
    half: bool = False,
    effective_batch: int | None = None,
    epochs: Number | None = None,
    test_every: Number | None = None,
    recipe_batch: int | None = None,
    train_records: int | None = None,
    test_records: int | Iterable[int] = (),
) -> PlanRequest:
    """The arguments of :func:`strategies`, checked one by one.

    Raises:
        InputError: One has a value that isn't allowed.
    """
    tests = [test_records] if isinstance(test_records, int) else test_records
    return PlanRequest(
        net=net,
        solver=solver,
        input_shape=shapes(input_shape),
        allow_unknown=allow_unknown,
        allow_unknown_fields=allow_unknown_fields,
        rules=files(rules),
        fork=fork,
        treat_as=several(treat_as),
        same_shape=several(same_shape),
        run_python_layers=run_python_layers,
        data=data,
        gpu_memory=gpu_memory,
        mode=mode,
        engine=engine,
        build=choice("build", build, Build),
        half=half,
        reserve=reserve,
        gpu=whole("gpu", gpu, least=0),
        effective_batch=effective_batch,
        epochs=positive("epochs", epochs),
        test_every=positive("test_every", test_every),
        recipe_batch=whole("recipe_batch", recipe_batch),
        train_records=whole("train_records", train_records),
        test_records=tuple(whole("test_records", each) or 0 for each in tests),
    )


def find(
    request: PlanRequest, check: Callable[[SolverParameter], None] = lambda solver: None
) -> Strategies:
    """The ways to train the recipe of a request.

    Args:
        request: The recipe and the memory.
        check: Refuses a solver.
    """
    prepared, free = request.prepare(), free_host_bytes()
    usable = None if free is None else max(free - HOST_RESERVE_BYTES, 0)
    with noted(prepared.notes):
        check(prepared.model.recipe.solver)
        found = find_strategies(prepared.model, prepared.budget, prepared.options, usable)
        checked = check_data(
            prepared.model.recipe,
            prepared.model.sources,
            allow_unknown=prepared.files.allow_unknown,
        )
        checked.raise_errors()
    facts = {field.name: getattr(found, field.name) for field in fields(found)}
    return Strategies(**facts, prepared=prepared, request=request, data=checked)


def begun(request: PlanRequest, directory: Path) -> bool:
    """Whether a directory holds the strategies of a request.

    Raises:
        InputError: It holds those of another request.
    """
    if not strategies_file(directory).exists():
        return False
    now = _content(request)
    before = _known(read_strategies(directory).request)
    other = [name for name in now if before.get(name) != now[name]]
    if other:
        raise InputError(
            f"{directory} was begun with another {other[0]}: {before.get(other[0])}, not "
            f"{now[other[0]]}",
            hint="Give another directory, or the options that it was begun with.",
        )
    return True


def _content(request: PlanRequest) -> dict[str, Any]:
    """What was asked for, as in strategies.json."""
    return {field.name: _plain(getattr(request, field.name)) for field in fields(request)}


def _plain(value: object) -> Any:
    """A value for JSON; sizes, paths and fractions as text."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (Path, Fraction)):
        return str(value)
    return json.loads(json.dumps(value, default=str))


def _known(content: Mapping[str, Any]) -> dict[str, Any]:
    """A request in strategies.json of any version, with all fields of this one."""
    given = _plain(shapes(content.get("input_shape", ())))
    hints = {"treat_as": [], "same_shape": [], "run_python_layers": False}
    return {"gpu": None, "fork": None, "data": None, **hints, **content, "input_shape": given}

"""Measures the gradient noise scale of a recipe on real Caffe, at given weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from caffe_batch import engines
from caffe_batch.device import Device
from caffe_batch.engines.base import Engine
from caffe_batch.engines.events import GradientNorms, LogEvent, Started, WorkerEvent
from caffe_batch.engines.work import NoiseRequest
from caffe_batch.errors import InputError, Option, Text, TrainingError
from caffe_batch.experiments.worker import WorkerEnd, explained, run_worker
from caffe_batch.files import not_a_file, write_text
from caffe_batch.jobs.ending import EndReason
from caffe_batch.jobs.job_files import edited_net, working_directory
from caffe_batch.memory import MemoryModel
from caffe_batch.net.graph import rule_of
from caffe_batch.net.records import count_records
from caffe_batch.planning.edits.changes import batch_changes
from caffe_batch.planning.noise import NoiseScale, Observation, estimate_noise_scale
from caffe_batch.planning.planner import check_has_loss
from caffe_batch.runtimes import Runtime
from caffe_batch.training.checks import check_layer_types

#: A note on a noise scale that was measured without trained weights.
AT_FILLERS = (
    "Measured at the weights that the fillers give; after some training the noise scale is "
    "usually much larger: give those of a snapshot."
)


@dataclass(frozen=True)
class NoiseOptions:
    """How to measure.

    The defaults are ten groups of ten micro-batches: many passes per group separate the gradient
    from its noise best, and ten groups are enough to determine the spread.

    Attributes:
        batch_size: Samples of a micro-batch, or None for the file's own.
        groups: Groups of micro-batches; their spread gives the interval.
        passes: Micro-batches of a group; at least 2.
        weights: .caffemodel files, loaded one after the other; without any, the fillers' values.
        device, threads: As in :class:`caffe_batch.training.Options`.
    """

    batch_size: int | None = None
    groups: int = 10
    passes: int = 10
    weights: tuple[Path, ...] = ()
    device: Device | None = None
    threads: int = 1


@dataclass(frozen=True)
class Measurement:
    """A noise scale, and how it was measured.

    Attributes:
        noise: The estimate.
        batch_size: Samples of a micro-batch.
        options: The options that it was measured with.
        device: Where it was measured.
        notes: What the user should know about it.
    """

    noise: NoiseScale
    batch_size: int
    options: NoiseOptions
    device: Device
    notes: tuple[str, ...]

    def json(self) -> dict[str, Any]:
        """The measurement for other programs."""
        return {
            **self.noise.json(),
            "batch_size": self.batch_size,
            "passes": self.options.passes,
            "groups": self.options.groups,
            "weights": [str(path) for path in self.options.weights],
            "device": str(self.device),
            "notes": list(self.notes),
        }


def measure_noise(
    model: MemoryModel,
    runtime: Runtime,
    options: NoiseOptions | None = None,
    observer: Callable[[int], None] = lambda group: None,
) -> Measurement:
    """Measure the noise scale on a recipe's own TRAIN data; nothing is trained or written.

    Args:
        model: The recipe, and where its data is.
        runtime: The Python to run on.
        options: How to measure.
        observer: Called with the number of each finished group.

    Raises:
        InputError: The recipe, the weights or the options don't allow a measurement.
        TrainingError: The worker ended while it measured.
    """
    options = options or NoiseOptions()
    engine = engines.find(model.engine)
    check_has_loss(model)
    check_layer_types([model.recipe.train], engine, runtime)
    _check_reads_data(model)
    for path in options.weights:
        if wrong := not_a_file(path):
            raise InputError(f"weights {path}: {wrong}", hint="Give a .caffemodel of the net.")
    size = options.batch_size or model.batch_size
    changes = batch_changes(model.recipe, model.train_layers, size)
    measured = _Collector(size, observer)
    directory = working_directory(model.recipe, model.sources).resolve()
    with TemporaryDirectory(prefix="caffe-batch-") as name:
        folder = Path(name).resolve()
        net = folder / "net.prototxt"
        write_text(net, edited_net(model.recipe.train, changes))
        end = run_worker(
            runtime,
            engine,
            engine.noise(_request(model, options, net)),
            folder,
            directory,
            nets=[net],
            rules=model.recipe.train.rules,
            weights=options.weights,
            observer=measured.note,
        )
    started = measured.started
    if started is None or end.ending.reason is not EndReason.FINISHED:
        ending = explained(end, model, directory)
        raise _failure(ending, engine, options, built=started is not None)
    notes = started.choices if options.weights else (AT_FILLERS,)
    notes += _repetition(model, options.groups * options.passes * size)
    return Measurement(
        estimate_noise_scale(measured.observations), size, options, started.device, notes
    )


def _repetition(model: MemoryModel, samples: int) -> tuple[str, ...]:
    """A note if more samples were measured than the data has."""
    records = count_records(model.recipe.train, model.sources)
    if records is None or samples <= records:
        return ()
    return (
        f"{samples:,} samples were measured, and the data has only {records:,} records: groups "
        "that share samples resemble each other, so the interval is too narrow.",
    )


def _check_reads_data(model: MemoryModel) -> None:
    for layer in model.train_layers:
        if rule_of(layer).fed_by_program:
            raise InputError(
                f"layer {layer.name!r} of type {layer.type} gets its data from a program, so there "
                "is nothing to measure with",
                hint="Give the net that reads the training data (Data, ImageData, HDF5Data, ...).",
            )


def _request(model: MemoryModel, options: NoiseOptions, net: Path) -> NoiseRequest:
    train = model.recipe.train
    return NoiseRequest(
        net=net,
        state=train.state,
        solver=model.recipe.solver,
        device=options.device,
        threads=options.threads,
        weights=options.weights,
        frozen=train.frozen_parameters(),
        groups=options.groups,
        passes=options.passes,
    )


class _Collector:
    """Collects what the worker reports: that it has started, and the norms of each group.

    Args:
        batch_size: Samples of a micro-batch.
        observer: Called with the number of each finished group.
    """

    def __init__(self, batch_size: int, observer: Callable[[int], None]) -> None:
        self._batch_size, self._observer = batch_size, observer
        self.started: Started | None = None
        self.observations: list[Observation] = []

    def note(self, event: WorkerEvent | LogEvent) -> None:
        if isinstance(event, Started):
            self.started = event
        elif isinstance(event, GradientNorms):
            norms = (event.micro_norm_squared, event.mean_norm_squared)
            self.observations.append(Observation(self._batch_size, event.passes, *norms))
            self._observer(event.update)


def _failure(
    end: WorkerEnd, engine: Engine, options: NoiseOptions, *, built: bool
) -> InputError | TrainingError:
    """The error for a worker that ended early: the files' if its checks failed, or the run's."""
    ending, title = end.ending, engine.title
    if ending.reason is EndReason.REFUSED:
        on_gpu = options.device is not None and not options.device.is_cpu
        on_cpu: Text = [Option("cpu", True), " measures on the CPU."]
        return InputError(ending.detail, hint=on_cpu if on_gpu else "Give the weights of this net.")
    lines = "".join(f"\n  {line}" for line in end.log)
    log = f"The last lines of {title}'s log:{lines}"
    if ending.reason is EndReason.CHECK_FAILED and not built:
        return InputError(
            f"{title} can't build the net, open its data or load its weights: {ending.detail}\n"
            f"{log}"
        )
    return TrainingError(
        f"{title} stopped while it measured: {ending.reason.value}: {ending.detail}\n{log}",
        hint=engine.hints.get(ending.reason),
    )

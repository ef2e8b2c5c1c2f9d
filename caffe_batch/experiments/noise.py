"""Measures the gradient noise scale of a recipe on real Caffe, at given weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from caffe_batch.engines.caffe import INSIDE
from caffe_batch.engines.caffe.ending import HINTS, last_lines
from caffe_batch.engines.caffe.events import GradientNorms, Started
from caffe_batch.errors import InputError, TrainingError
from caffe_batch.files import write_text
from caffe_batch.jobs.ending import Ending, EndReason
from caffe_batch.jobs.job_files import edited_net, working_directory
from caffe_batch.memory import CaffeMemory
from caffe_batch.net.graph import rule_of
from caffe_batch.net.records import count_records
from caffe_batch.planning.edits.changes import batch_changes
from caffe_batch.planning.noise import NoiseScale, Observation, estimate_noise_scale
from caffe_batch.planning.planner import check_has_loss
from caffe_batch.runtimes import Runtime
from caffe_batch.training import Device
from caffe_batch.training.process import THREAD_VARIABLES, WorkerProcess

#: Runs under the runtime's Python.
WORKER = INSIDE / "noise_worker.py"

#: How often Caffe's log is read, in seconds.
_TICK_S = 0.2

#: What to know of a noise scale without trained weights.
AT_FILLERS = (
    "Measured with the weights that the fillers give; after some training the noise scale is "
    "usually much larger: --weights takes a snapshot."
)

#: Layers whose data comes from the program that runs the net.


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Ten groups of ten micro-batches: many passes a group separate the gradient from its noise best,
    and ten groups are enough to tell the spread.

    Attributes:
        batch_size: Samples of a micro-batch, or None for the file's own.
        groups: Groups of micro-batches; their spread gives the interval.
        passes: Micro-batches of a group; at least 2.
        weights: .caffemodel files, loaded one after the other; none leaves the fillers' values.
        device, gpu, threads: As in :class:`caffe_batch.training.Options`.
    """

    batch_size: int | None = None
    groups: int = 10
    passes: int = 10
    weights: tuple[Path, ...] = ()
    device: Device = Device.AUTO
    gpu: int | None = None
    threads: int = 1


@dataclass(frozen=True)
class Measurement:
    """A noise scale, and how it was measured.

    Attributes:
        noise: The estimate.
        batch_size: Samples of a micro-batch.
        settings: What was asked for.
        device: ``CPU`` or ``GPU 0``.
        notes: What a person should know of it.
    """

    noise: NoiseScale
    batch_size: int
    settings: Settings
    device: str
    notes: tuple[str, ...]

    def json(self) -> dict[str, Any]:
        """The measurement for other programs."""
        return {
            **self.noise.json(),
            "batch_size": self.batch_size,
            "passes": self.settings.passes,
            "groups": self.settings.groups,
            "weights": [str(path) for path in self.settings.weights],
            "device": self.device,
            "notes": list(self.notes),
        }


def measure_noise(
    model: CaffeMemory,
    runtime: Runtime,
    settings: Settings | None = None,
    observer: Callable[[int], None] = lambda group: None,
) -> Measurement:
    """Measure the noise scale on a recipe's own TRAIN data; nothing is trained or written.

    Args:
        model: The recipe, and where its data is.
        runtime: The Python with caffe to run on.
        settings: How to measure.
        observer: Called with the number of each group that is done.

    Raises:
        InputError: The recipe, the weights or the settings are no base for a measurement.
        TrainingError: Caffe ended while it measured.
    """
    settings = settings or Settings()
    check_has_loss(model)
    _check_reads_data(model)
    for path in settings.weights:
        if not path.is_file():
            raise InputError(f"weights {path}: no such file", hint="Give a .caffemodel of the net.")
    size = settings.batch_size or model.batch_size
    changes = batch_changes(model.recipe, model.train_layers, size)
    with TemporaryDirectory(prefix="caffe-batch-") as folder:
        net, log = Path(folder, "net.prototxt"), Path(folder, "caffe.log")
        write_text(net, edited_net(model.recipe.train, changes))
        worker = WorkerProcess(
            runtime,
            _worker_settings(model, settings, net),
            log=log,
            working_directory=working_directory(model.recipe, model.sources).resolve(),
            environment=dict.fromkeys(THREAD_VARIABLES, str(settings.threads)),
            script=WORKER,
        )
        try:
            started, observations = _follow(worker, size, settings, observer)
        finally:
            worker.end()
    notes = started.choices if settings.weights else (AT_FILLERS,)
    notes += _repetition(model, settings.groups * settings.passes * size)
    return Measurement(estimate_noise_scale(observations), size, settings, started.device, notes)


def _repetition(model: CaffeMemory, samples: int) -> tuple[str, ...]:
    """A note, if the data isn't enough to measure every sample once."""
    records = count_records(model.recipe.train, model.sources)
    if records is None or samples <= records:
        return ()
    return (
        f"The {samples:,} samples measured are more than the {records:,} records of the data: "
        "groups that share samples are alike, so the interval is too narrow.",
    )


def _check_reads_data(model: CaffeMemory) -> None:
    for layer in model.train_layers:
        if rule_of(layer).fed_by_program:
            raise InputError(
                f"layer {layer.name!r} of type {layer.type} waits for a program to give it data, "
                "so there is nothing to measure with",
                hint="Give the net that reads the training data (Data, ImageData, HDF5Data, ...).",
            )


def _worker_settings(model: CaffeMemory, settings: Settings, net: Path) -> dict[str, Any]:
    solver, train = model.recipe.solver, model.recipe.train
    cpu_mode = solver.HasField("solver_mode") and solver.solver_mode == solver.CPU
    device = Device.CPU if settings.device is Device.AUTO and cpu_mode else settings.device
    return {
        "net": str(net),
        "level": train.state.level,
        "stages": list(train.state.stage),
        "weights": [str(path.resolve()) for path in settings.weights],
        "frozen": train.frozen_parameters(),
        "seed": solver.random_seed,
        "device": device.value,
        "gpu": solver.device_id if settings.gpu is None else settings.gpu,
        "groups": settings.groups,
        "passes": settings.passes,
    }


def _follow(
    worker: WorkerProcess, batch_size: int, settings: Settings, observer: Callable[[int], None]
) -> tuple[Started, list[Observation]]:
    """What the worker said of itself, and what it measured."""
    started: Started | None = None
    observations: list[Observation] = []
    running = True
    while running:
        running = worker.running()  # asked first, so that its last words are still heard
        for event in worker.listen(_TICK_S if running else 0):
            if isinstance(event, Started):
                started = event
            elif isinstance(event, GradientNorms):
                norms = (event.micro_norm_squared, event.mean_norm_squared)
                observations.append(Observation(batch_size, event.passes, *norms))
                observer(event.update)
    ending = worker.ending()
    if started is None or ending.reason is not EndReason.FINISHED:
        raise _failure(ending, worker, settings, built=started is not None)
    return started, observations


def _failure(
    ending: Ending, worker: WorkerProcess, settings: Settings, *, built: bool
) -> InputError | TrainingError:
    """What is wrong: the files, if Caffe's own check refused them, or the run."""
    if ending.reason is EndReason.REFUSED:
        on_gpu = settings.device is Device.GPU
        hint = "--cpu measures on the CPU." if on_gpu else "Give the weights of this net."
        return InputError(ending.detail, hint=hint)
    lines = "".join(f"\n  {line}" for line in last_lines(worker.log_tail))
    log = f"The last lines of Caffe's log:{lines}"
    if ending.reason is EndReason.CHECK_FAILED and not built:
        return InputError(
            f"Caffe can't build the net, open its data or load its weights: {ending.detail}\n{log}"
        )
    return TrainingError(
        f"Caffe stopped while it measured: {ending.reason.value}: {ending.detail}\n{log}",
        hint=HINTS.get(ending.reason),
    )

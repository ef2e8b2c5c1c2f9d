"""What a worker should do, and what it is started with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from caffe_batch.device import Device
from caffe_batch.engines.snapshots import Snapshot
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.planning.precision import Precision
from caffe_batch.planning.shared import Shared
from caffe_batch.schema import caffe_pb2

# Whichever BLAS an engine was built with, one of these limits its threads.
_THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")


@dataclass(frozen=True)
class Work:
    """How a worker is started: ``python SCRIPT SETTINGS`` under a runtime's Python.

    Attributes:
        script: Sends its events (:mod:`caffe_batch.engines.events`) to the file descriptor whose
            number is ``events`` in its settings.
        settings: A JSON object, without ``events``; the script's docstring describes it.
        environment: Variables on top of the runtime's own.
    """

    script: Path
    settings: Mapping[str, Any]
    environment: Mapping[str, str] = field(default_factory=dict)


class DataStart(Protocol):
    """Where the data of a training continues, as determined by its engine."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What will differ from a run without an interruption."""

    def settings(self, folder: Path) -> Mapping[str, object]:
        """The settings that pass it to the worker.

        Args:
            folder: Where files that the worker needs may be written; it is emptied first.
        """


@dataclass(frozen=True)
class TrainingRequest:
    """One stretch of a training, from a snapshot or from update 0 to the solver's last update.

    Attributes:
        job: The job directory: nets that the solver names are looked for in it first; snapshots,
            the log and the worker's own files go there.
        solver: The solver prototxt.
        device: Where to train; None leaves it to the engine: the solver's GPU if there is one.
        threads: CPU threads of the BLAS.
        resume: The snapshot to continue from, or None.
        weights: .caffemodel files for update 0, loaded one after the other.
        data: Where the data continues; None for the first record.
        record_every: Updates per loss record.
        log_bytes: The size at which the log continues in a new file.
        frozen: With the noise scale: (name of the layer, index) of each parameter whose lr_mult is
            0; None without it.
        max_loss: A loss above it counts as diverged, as nan and inf always do; or None.
        snapshot_at_tests: Whether to take a snapshot of the weights of each test.
        precision: One of the engine's precisions.
        ranks: How many processes train together, on a GPU each.
        shared: What these count together.
        patience_s: Seconds after which a rank that doesn't answer is lost; None for one rank.
    """

    job: JobDirectory
    solver: Path
    device: Device | None
    threads: int
    resume: Snapshot | None
    weights: Sequence[str]
    data: DataStart | None
    record_every: int
    log_bytes: int
    frozen: Sequence[tuple[str, int]] | None
    max_loss: float | None
    snapshot_at_tests: bool = False
    precision: Precision = Precision.FLOAT32
    ranks: int = 1
    shared: Sequence[Shared] = ()
    patience_s: float | None = None

    def settings(self) -> dict[str, object]:
        """The settings that every engine's worker has.

        ``data``, ``precision`` and those of ranks aren't in it.
        """
        return {
            "solver": str(self.solver),
            "job": str(self.job.path),
            "snapshots": str(self.job.snapshots),
            "resume": str(self.resume.state) if self.resume else None,
            "weights": list(self.weights),
            "log": str(self.job.log),
            "log_bytes": self.log_bytes,
            "record_every": self.record_every,
            "frozen": self.frozen,
            "max_loss": self.max_loss,
            "snapshot_at_tests": self.snapshot_at_tests,
            **device_settings(self.device),
        }


@dataclass(frozen=True)
class NoiseRequest:
    """Groups of micro-batches at fixed weights, whose gradients are measured.

    Attributes:
        net: The net prototxt.
        state: What its TRAIN net is built for: level and stages.
        solver: The recipe's solver: its seed, and the GPU if ``device`` is None.
        device: Where to compute; None leaves it to the engine.
        threads: CPU threads of the BLAS.
        weights: .caffemodel files, loaded one after the other.
        frozen: (name of the layer, index) of each parameter whose lr_mult is 0.
        groups, passes: Groups of micro-batches, and micro-batches of each.
    """

    net: Path
    state: caffe_pb2.NetState
    solver: caffe_pb2.SolverParameter
    device: Device | None
    threads: int
    weights: Sequence[Path]
    frozen: Sequence[tuple[str, int]]
    groups: int
    passes: int

    def settings(self) -> dict[str, object]:
        """The settings that every engine's worker has; ``device`` isn't in it."""
        return {
            "net": str(self.net),
            "level": self.state.level,
            "stages": list(self.state.stage),
            "weights": [str(path.resolve()) for path in self.weights],
            "frozen": self.frozen,
            "seed": self.solver.random_seed,
            "groups": self.groups,
            "passes": self.passes,
        }


@dataclass(frozen=True)
class ShapesRequest:
    """A net to be built once, for the shapes of its blobs.

    Attributes:
        net: The net prototxt.
        state: What it is built for: phase, level and stages.
        result: Where to write the shapes, as JSON: a list of sizes for each blob.
    """

    net: Path
    state: caffe_pb2.NetState
    result: Path


@dataclass(frozen=True)
class InferencePart:
    """A net to be run forward.

    Attributes:
        net: The net prototxt.
        state: What its TEST net is built for: level and stages.
        weights: .caffemodel files, loaded one after the other.
        feed: An .npz file with an array for each input: the samples of all passes, one after the
            other; None for a net that reads its own data.
        passes: How many passes to run.
        collect: What is kept of the blobs, as caffe/inside/inference_results.py describes it.
        result: Where that is written, as .npz.
    """

    net: Path
    state: caffe_pb2.NetState
    weights: Sequence[Path]
    feed: Path | None
    passes: int
    collect: Mapping[str, Any]
    result: Path

    def settings(self) -> dict[str, object]:
        """As the worker's settings have it."""
        return {
            "net": str(self.net),
            "level": self.state.level,
            "stages": list(self.state.stage),
            "weights": [str(path.resolve()) for path in self.weights],
            "feed": None if self.feed is None else str(self.feed),
            "passes": self.passes,
            "collect": self.collect,
            "result": str(self.result),
        }


@dataclass(frozen=True)
class InferenceRequest:
    """Nets to be run forward, one after another.

    Attributes:
        parts: The nets.
        rules: The files with rules for other layer types.
        seed: For Caffe's random numbers, or -1 to draw one.
        device: Where to compute; None for a GPU if there is one.
        threads: CPU threads of the BLAS.
    """

    parts: Sequence[InferencePart]
    rules: Sequence[Path] = ()
    seed: int = -1
    device: Device | None = None
    threads: int = 1

    def settings(self) -> dict[str, object]:
        """The settings that every engine's worker has."""
        return {
            "parts": [part.settings() for part in self.parts],
            "rules": [str(path) for path in self.rules],
            "seed": self.seed,
            **device_settings(self.device, 0),
        }


@dataclass(frozen=True)
class ExportRequest:
    """A net for inference to be written in other formats.

    Attributes:
        net, weights: The net prototxt, whose data comes from Input layers, and its .caffemodel.
        rules: The files with rules for other layer types.
        onnx, torch: The files to write; None for not.
        opset: The version of ONNX's operators.
        pixels: What the graph does to pictures, as torch/worker/export.py has it; None for nothing.
        ranges: The lowest and highest value of each input to try the files with.
        folder: A temporary folder for what was tried: fed.npz, given.npz, report.json.
    """

    net: Path
    weights: Path
    rules: Sequence[Path]
    onnx: Path | None
    torch: Path | None
    opset: int
    pixels: Mapping[str, object] | None
    ranges: Mapping[str, tuple[float, float]]
    folder: Path

    @property
    def report(self) -> Path:
        """What was written and how it agrees with the net."""
        return self.folder / "report.json"

    @property
    def fed(self) -> Path:
        """The inputs of the last trial."""
        return self.folder / "fed.npz"

    @property
    def given(self) -> Path:
        """The outputs of the last trial."""
        return self.folder / "given.npz"

    def settings(self) -> dict[str, object]:
        """The worker's settings."""
        return {
            "net": str(self.net),
            "weights": str(self.weights.resolve()),
            "rules": [str(path) for path in self.rules],
            "onnx": None if self.onnx is None else str(self.onnx),
            "torch": None if self.torch is None else str(self.torch),
            "opset": self.opset,
            "pixels": self.pixels,
            "ranges": self.ranges,
            "samples": [2, 1, 5],
            "fed": str(self.fed),
            "given": str(self.given),
            "result": str(self.report),
            **device_settings(Device.CPU),
        }


@dataclass(frozen=True)
class VariantRun:
    """One way to train in a verification.

    Attributes:
        folder: Holds gradient_solver.prototxt and solver.prototxt; its log is written there.
        iter_size: Micro-batches per update.
        disturbance: By how much its gradients are disturbed; 0 for not at all.
        base: The number of the variant that it is compared with.
        feeds: The blobs to fill in each pass, one JSON object for each.
        double: Whether it is calculated in double precision; not every engine can.
        rounding: A seed: the result of each operation is moved by as much as single precision
            rounds; 0 for not at all. The same engines can.
        ran: Whether another worker has run it already: it is only compared.
    """

    folder: Path
    iter_size: int
    disturbance: float = 0.0
    base: int = 0
    feeds: Sequence[Mapping[str, Any]] = ()
    double: bool = False
    rounding: int = 0
    ran: bool = False


@dataclass(frozen=True)
class VerificationRequest:
    """Several ways to train from the same weights with the same samples, to be compared.

    Attributes:
        variants: The ways.
        updates: Updates to train.
        average_loss: Updates that the smoothed loss is the mean of.
        floor: The share of the net's RMS by which an array's gradient is at least disturbed.
        result: Where to write what was found, as JSON.
        precision: How exactly the ways are calculated that aren't in double precision.
    """

    variants: Sequence[VariantRun]
    updates: int
    average_loss: int
    floor: float
    result: Path
    precision: Precision = Precision.FLOAT32

    def settings(self) -> dict[str, object]:
        """The settings of the worker, which runs on the CPU."""
        return {
            "variants": [
                {**asdict(variant), "folder": str(variant.folder)} for variant in self.variants
            ],
            "updates": self.updates,
            "average_loss": self.average_loss,
            "floor": self.floor,
            "result": str(self.result),
            "precision": self.precision.value,
            **device_settings(Device.CPU),
        }


def device_settings(
    device: Device | None, fallback: int | None = None
) -> dict[str, str | int | None]:
    """The settings that name a device; ``fallback`` is the GPU if the worker should choose."""
    if device is None:
        return {"device": "auto", "gpu": fallback}
    return {"device": "cpu" if device.is_cpu else "gpu", "gpu": device.gpu}


def thread_limits(threads: int) -> dict[str, str]:
    """The environment in which a BLAS takes this many threads."""
    return dict.fromkeys(_THREAD_VARIABLES, str(threads))

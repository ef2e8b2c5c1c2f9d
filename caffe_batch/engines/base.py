"""What the rest of the program may ask of whatever trains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from caffe_batch.engines.events import LogEvent, WorkerEvent
from caffe_batch.engines.snapshots import Snapshot, SnapshotFiles
from caffe_batch.engines.work import (
    DataStart,
    ExportRequest,
    InferenceRequest,
    NoiseRequest,
    ShapesRequest,
    TrainingRequest,
    VerificationRequest,
    Work,
)
from caffe_batch.errors import InputError, Option, Text
from caffe_batch.jobs.ending import Ending, EndReason
from caffe_batch.jobs.stages import TrainingStage
from caffe_batch.layers.base import Mode
from caffe_batch.memory import Build, MemoryModel
from caffe_batch.net import Net, Recipe, Sources
from caffe_batch.planning.audit.audit import audit
from caffe_batch.planning.audit.findings import Cause, Finding
from caffe_batch.planning.precision import Precision
from caffe_batch.planning.shared import Shared

#: What to try next, by the reason of an ending; for all engines.
HINTS: Mapping[EndReason, Text] = {
    EndReason.GPU_MEMORY: [
        "Plan again with a smaller ", Option("gpu_memory"), " or a larger ", Option("reserve"),
        ", or close what else uses the GPU.",
    ],
    EndReason.HOST_MEMORY: [
        "Close other programs, or plan again with a smaller ", Option("gpu_memory"), ".",
    ],
    EndReason.NOT_STARTED: "`caffe-batch doctor` says whether it can be loaded. If memory is "
    "short, close other programs, or raise what limits it (`ulimit -v`, a control group).",
    EndReason.KILLED: "Usually the kernel's out-of-memory killer: see `dmesg`. Free memory, then "
    "run it again.",
    EndReason.DIVERGED: [
        "Lower base_lr in solver.prototxt, then run it again. ",
        Option("on_divergence", "rollback:0.5"), " does that automatically.",
    ],
    EndReason.STALLED: [
        "Run it again. ", Option("stall_timeout"), " sets how long it may be silent.",
    ],
    EndReason.RANK_LOST: "The log of the machine where it ran says why. Run it again.",
    EndReason.SNAPSHOT_LOST: "Free some space there, then run it again.",
    EndReason.RECORD_LOST: "Free some space there, then run it again.",
    EndReason.PYTHON_ERROR: "If a Python layer's module isn't found: it must be on PYTHONPATH or "
    "in the directory where the plan was made.",
}  # fmt: skip


#: The reasons after which a training is simply run again.
RUN_AGAIN = frozenset(
    {
        EndReason.NOT_STARTED,
        EndReason.KILLED,
        EndReason.DIVERGED,
        EndReason.STALLED,
        EndReason.RANK_LOST,
        EndReason.SNAPSHOT_LOST,
        EndReason.RECORD_LOST,
    }
)


@dataclass(frozen=True)
class RuntimeInfo:
    """What a runtime says about itself (:func:`caffe_batch.runtimes.inspect`).

    Attributes:
        engine_version: As its module says, for example ``1.0.0``.
        module_path: The module's file, as that Python sees it.
        python_version, numpy_version: For example ``3.9.2`` and ``1.19.5``.
        gpu: Whether this build has GPU code.
        gpu_problem: The error of the first use of a GPU; None if it works or the build has no GPU
            code.
        nccl: Whether this build can train on several GPUs.
        layer_types: The layer types that it can run, sorted.
        import_s: How long importing the engine took, in seconds.
        devices: The GPUs that the engine sees, a phrase each; empty where it doesn't tell.
    """

    engine_version: str
    module_path: str
    python_version: str
    numpy_version: str
    gpu: bool
    gpu_problem: str | None
    nccl: bool
    layer_types: tuple[str, ...]
    import_s: float
    devices: tuple[str, ...] = ()


class LogReader(Protocol):
    """Reads what an engine's log gains while a worker runs."""

    @property
    def tail(self) -> Sequence[str]:
        """The last lines, oldest first; before them those around the cause, wherever that is."""

    def read(self) -> Iterator[LogEvent]:
        """The events of the lines completed since the last call."""

    def close(self) -> None:
        """Close the files."""


class MemoryCount(Protocol):
    """Counts what trainings allocate, in a process of its own.

    Attributes:
        version: The engine's.
        folder: Where what was counted may be kept.
        known: What was counted in this process, in the engine's own form.
    """

    @property
    def version(self) -> str: ...
    @property
    def folder(self) -> Path: ...
    @property
    def known(self) -> dict[str, Any]: ...

    def __call__(self, settings: Mapping[str, Any], runs: Sequence[Any]) -> list[Any]:
        """What some trainings allocate, as JSON objects: with ``problem`` where that isn't known.

        Args:
            settings: The worker's, without ``runs``, ``processes`` and ``result``.
            runs: Named tuples, whose fields the worker knows.

        Raises:
            InputError: Nothing can be counted.
        """


class Engine(ABC):
    """What trains. An instance has no state: all threads may share it.

    Attributes:
        name: As plan.json and ``--engine`` spell it.
        title: Its name in sentences.
        module: What a runtime's Python must be able to import.
        python: The oldest Python that its workers run on, for messages.
        installable: Whether ``caffe-batch runtime install`` installs a runtime for it.
        remedy: What to do where no Python can import it.
        types_hint: What to do about layer types that it lacks in a runtime.
        probe: The script that says what a runtime is (see :meth:`runtime_info`).
        precisions: How exactly it can calculate.
        judges: Whether its verification can calculate in double precision, and say what rounding
            alone does there: then it can be compared with other engines.
        exports: Whether it writes nets in other formats.
        own_types: The layer types that it has in every runtime; None if a runtime decides.
        shim: A folder whose sitecustomize mends the engine for the user's own scripts.
        snapshots: Its snapshots: which there are, which are whole, which to keep.
        most_ranks: How many processes may train together; None for any number.
        counts_memory: Whether its memory has to be counted (see :meth:`memory_count`).
        hints: What to try after an ending, by reason.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    module: ClassVar[str]
    python: ClassVar[str]
    installable: ClassVar[bool]
    remedy: ClassVar[str]
    types_hint: ClassVar[Text]
    probe: ClassVar[Path]
    shim: ClassVar[Path | None] = None
    snapshots: ClassVar[SnapshotFiles]
    precisions: ClassVar[Collection[Precision]] = (Precision.FLOAT32,)
    hints: ClassVar[Mapping[EndReason, Text]] = HINTS
    judges: ClassVar[bool] = False
    exports: ClassVar[bool] = False
    own_types: ClassVar[frozenset[str] | None] = None
    counts_memory: ClassVar[bool] = False
    most_ranks: ClassVar[int | None] = 1

    # Before a training

    @abstractmethod
    def memory_model(
        self,
        recipe: Recipe,
        sources: Sources,
        mode: Mode,
        *,
        allow_unknown: bool = False,
        build: Build = Build.CAFFE,
        gpus: int = 1,
        half: bool = False,
        count: MemoryCount | None = None,
    ) -> MemoryModel:
        """The model that predicts the memory of a training.

        Args:
            recipe: The solver and its nets.
            sources: Where data is found, and the shapes that the user gave.
            mode: ``"gpu"`` for device memory, ``"cpu"`` for host memory.
            allow_unknown: Accept layers without a rule; the totals are then lower bounds.
            build: The build of Caffe; engines other than Caffe have only ``Build.CAFFE``.
            gpus: GPUs that train together; the memory is that of each of them.
            half: Whether the training uses half precision.
            count: Counts what a training allocates, for an engine whose memory isn't known from
                the net alone; None to do without.

        Raises:
            InputError: Such a training isn't possible.
        """

    def audit(
        self,
        model: MemoryModel,
        *,
        batch_size: int,
        iter_size: int,
        gpus: int = 1,
        own_gpus: int = 1,
        summed_iter: int | None = None,
        refused: Collection[Cause] = (),
        precision: Precision = Precision.FLOAT32,
        shared: Collection[Shared] = (),
    ) -> tuple[Finding, ...]:
        """What makes a training with accumulation differ from that with the whole batch.

        What makes it differ from Caffe's, however it is split, comes first.

        Args:
            model: The recipe.
            batch_size: Samples of a micro-batch.
            iter_size: Micro-batches per update.
            gpus: GPUs that share each update.
            own_gpus: GPUs that share each update of the recipe as it is.
            summed_iter: Passes over which losses that are sums are summed; iter_size if None.
            refused: Causes that should not be compensated.
            precision: One of the engine's.
            shared: What its GPUs count together.
        """
        split = audit(
            model,
            batch_size=batch_size,
            iter_size=iter_size,
            gpus=gpus,
            own_gpus=own_gpus,
            summed_iter=summed_iter,
            refused=refused,
        )
        if gpus > 1:
            as_one = audit(
                model.on_one_gpu(),
                batch_size=batch_size * gpus,
                iter_size=iter_size,
                own_gpus=own_gpus,
                summed_iter=summed_iter,
                refused=refused,
            ) if shared else ()  # fmt: skip
            split = tuple(self.of_ranks(split, shared, as_one))
        return (*self.own_findings(model, batch_size, precision), *split)

    def of_ranks(
        self, findings: Iterable[Finding], shared: Collection[Shared], as_one: Iterable[Finding]
    ) -> Iterable[Finding]:
        """The findings about a split over several GPUs.

        Args:
            findings: Those of Caffe.
            shared: What the GPUs count together.
            as_one: Caffe's where one GPU has the samples that all have in a pass.
        """
        return findings

    def own_findings(
        self, model: MemoryModel, batch_size: int, precision: Precision
    ) -> Iterable[Finding]:
        """What the engine itself makes different from Caffe, however the batch is split."""
        return ()

    def check_net(self, net: Net) -> None:  # noqa: B027  # most run all of their types
        """Check that it runs the layers of a net as they are set.

        Whether it has their types is another matter (:meth:`layer_types`), and so is whether
        something gives the net its data.

        Raises:
            InputError: There is a layer that it doesn't run; names it and the reason.
        """

    @abstractmethod
    def runtime_info(self, facts: Mapping[str, Any]) -> RuntimeInfo | str:
        """What a runtime is, from the JSON object that :attr:`probe` printed.

        Returns:
            Or what it is that is too old to run the engine, and what is needed, as a clause.
        """

    def too_old(self, python_version: str) -> str:
        """What :meth:`runtime_info` says of a Python that is too old."""
        return f"is Python {python_version}, and {self.python} or newer is needed"

    def layer_types(self, info: RuntimeInfo) -> frozenset[str]:
        """The layer types that it can run in a runtime."""
        return frozenset(info.layer_types)

    @abstractmethod
    def check_weights(self, path: Path, nets: Sequence[Net]) -> None:
        """Check that a training can start from a weights file, without loading it.

        Args:
            path: The .caffemodel.
            nets: The train net first, then the test nets; empty if they can't be built here.

        Raises:
            InputError: It can't, or the file has nothing for the train net.
        """

    @abstractmethod
    def check_state(self, snapshot: Snapshot, net: Net, solver_type: str) -> None:
        """Check that a solver of this type can continue from a snapshot.

        Args:
            snapshot: The snapshot; both of its files exist.
            net: The train net.
            solver_type: As in the solver, for example ``"SGD"``.

        Raises:
            InputError: The files are damaged or don't belong together, or come from another net or
                a solver of another type.
        """

    # Starting a worker

    @abstractmethod
    def training(self, request: TrainingRequest) -> Work:
        """A worker that trains. Files that it needs are written to the job directory."""

    @abstractmethod
    def noise(self, request: NoiseRequest) -> Work:
        """A worker that measures gradients and sends an event for each group."""

    @abstractmethod
    def verification(self, request: VerificationRequest) -> Work:
        """A worker that compares several ways to train."""

    @abstractmethod
    def inference(self, request: InferenceRequest) -> Work:
        """A worker that runs trained nets forward, and sends an event after each pass."""

    def shapes(self, request: ShapesRequest) -> Work:
        """A worker that builds a net once and writes the shapes of its blobs.

        Raises:
            InputError: This engine has no Python layers, so there is nothing to ask.
        """
        raise InputError(
            f"{self.title} has no Python layers that could be asked for their shapes",
            hint=["Leave ", Option("run_python_layers"), " out."],
        )

    def version_here(self) -> str | None:
        """The version that this Python would import, found without importing it.

        None if it isn't there, is too old, or doesn't say.
        """
        return None

    def check_exports(self, net: Net) -> None:
        """Check that it can write a net for inference in another format.

        Raises:
            InputError: It can't, or writes no other formats.
        """
        raise InputError(f"{self.title} writes no other formats")

    def export(self, request: ExportRequest) -> Work:
        """A worker that writes a net for inference in another format, and tries what it wrote.

        Raises:
            InputError: It writes no other formats.
        """
        raise InputError(f"{self.title} writes no other formats")

    def memory_count(self, settings: Mapping[str, Any]) -> Work:
        """A worker that counts what some trainings allocate, and writes it down.

        Args:
            settings: What its memory model asks for.

        Raises:
            InputError: Nothing has to be counted: the memory follows from the net.
        """
        raise InputError(f"the memory of {self.title} follows from the net")

    @abstractmethod
    def data_start(
        self, stages: Sequence[TrainingStage], snapshot: Snapshot, sources: Sources
    ) -> DataStart:
        """Where the data of a job continues.

        Args:
            stages: The stages of the job.
            snapshot: What it continues from, of whichever engine.
            sources: Where relative paths of the nets start.

        Raises:
            InputError: A net of the job can't be read.
        """

    # While it runs, and afterwards

    @abstractmethod
    def open_log(self, log: Path) -> LogReader:
        """Follow a log from its end; it need not exist yet."""

    @abstractmethod
    def classify(self, status: int, last_word: WorkerEvent | None, log: Sequence[str]) -> Ending:
        """The reason why a worker ended.

        Args:
            status: Exit status as in :mod:`subprocess`. A shell in between turns signal n into
                128 + n; that is understood as well.
            last_word: The last event that the worker sent, or None.
            log: The last lines of its log, oldest first.
        """

    @abstractmethod
    def last_lines(self, log: Sequence[str]) -> list[str]:
        """The last informative lines of a log, oldest first."""

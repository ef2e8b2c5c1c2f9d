"""PyTorch as an engine: the same training, computed without Caffe.

Its snapshots and its log are Caffe's, so that a run may change its engine at any snapshot. torch is
imported in the worker alone (``worker/``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from caffe_batch.device import Device
from caffe_batch.engines.base import Engine, LogReader, RuntimeInfo
from caffe_batch.engines.caffe import snapshots as snapshot_files
from caffe_batch.engines.caffe.data_position import drawn_anew, samples_read, state_lost
from caffe_batch.engines.caffe.ending import last_lines
from caffe_batch.engines.caffe.log_files import LogFollower
from caffe_batch.engines.caffe.starting_files import check_state, check_weights
from caffe_batch.engines.events import WorkerEvent
from caffe_batch.engines.snapshots import Snapshot, SnapshotFiles
from caffe_batch.engines.torch.ending import HINTS, classify
from caffe_batch.engines.torch.kernels import has_kernels, no_kernels
from caffe_batch.engines.work import (
    THREAD_VARIABLES,
    DataStart,
    NoiseRequest,
    Precision,
    TrainingRequest,
    VerificationRequest,
    Work,
)
from caffe_batch.errors import InputError, Option
from caffe_batch.jobs.ending import Ending
from caffe_batch.jobs.stages import TrainingStage
from caffe_batch.layers import BUILT_IN
from caffe_batch.layers.base import Mode
from caffe_batch.memory import Build, CaffeMemory, MemoryModel
from caffe_batch.net import Net, Recipe, Sources
from caffe_batch.net.recipe import NetFile
from caffe_batch.planning.audit.audit import audit
from caffe_batch.planning.audit.findings import Cause, Finding, Verdict
from caffe_batch.schema import caffe_pb2

_WORKER = Path(__file__).parent / "worker" / "main.py"

#: Layers that nobody feeds in a training.
_UNFED = ("Input", "MemoryData")

#: Fillers whose numbers boost draws by a method of its own.
_OTHER_FILLERS = ("gaussian", "msra")


class TorchMemory(CaffeMemory):
    """Caffe's memory, which stands in for PyTorch's."""

    engine = "pytorch"
    remarks = (
        "The memory is what Caffe would take; PyTorch's differs. Where the batch turns out too "
        "large for it, train goes on with the next smaller split by itself.",
    )


@dataclass(frozen=True)
class DataPosition:
    """Where the data of a training continues, as far as the numbers of its updates and tests say.

    Attributes:
        samples: Those that each net has read, the train net's first.
        notes: What will differ from a run without an interruption.
    """

    samples: tuple[int, ...]
    notes: tuple[str, ...]

    def settings(self, folder: Path) -> dict[str, object]:
        """The settings for the worker."""
        return {"samples": self.samples}


class TorchEngine(Engine):
    """PyTorch, run by a Python that can import torch."""

    name = "pytorch"
    title = "PyTorch"
    module = "torch"
    python = "3.10"
    installable = False
    remedy = "Run `pip install 'caffe-batch[torch]'`"
    types_hint = (
        "A Caffe that has what the net needs can train it: ",
        Option("engine", "caffe"),
        " and ",
        Option("runtime", "/path/to/python"),
        ". Or take the layers out of the net.",
    )
    probe = Path(__file__).parent / "probe.py"
    snapshots: ClassVar[SnapshotFiles] = snapshot_files
    hints = HINTS
    precisions = tuple(Precision)
    own_types = frozenset({*BUILT_IN, "Python"})

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
    ) -> TorchMemory:
        if build is not Build.CAFFE:
            raise InputError(f"{build.value} is a build of Caffe, and the engine is PyTorch")
        return TorchMemory(recipe, sources, mode, allow_unknown, build, gpus, half)

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
    ) -> tuple[Finding, ...]:
        split = audit(
            model,
            batch_size=batch_size,
            iter_size=iter_size,
            gpus=gpus,
            own_gpus=own_gpus,
            summed_iter=summed_iter,
            refused=refused,
        )
        return (*_of_engine(model.recipe.train), *split)

    def check_weights(self, path: Path, nets: Sequence[Net]) -> None:
        check_weights(path, nets)

    def check_state(self, snapshot: Snapshot, net: Net, solver_type: str) -> None:
        check_state(snapshot, net, solver_type)

    def runtime_info(self, facts: Mapping[str, Any]) -> RuntimeInfo | None:
        if "torch_version" not in facts:
            return None
        version = facts["torch_version"]
        devices, problem = [], None
        for number, (name, capability) in enumerate(facts["gpus"]):
            major, minor = capability
            devices.append(f"GPU {number}: {name}, compute capability {major}.{minor}")
            if problem is None and not has_kernels((major, minor), facts["kernels"]):
                problem = no_kernels(version, f"GPU {number}", (major, minor), facts["kernels"])
        if facts["built_for_gpus"] and not devices:
            problem = "PyTorch sees no GPU"
        return RuntimeInfo(
            engine_version=version,
            module_path=facts["torch_path"],
            python_version=facts["python_version"],
            numpy_version=facts["numpy_version"],
            gpu=facts["built_for_gpus"],
            gpu_problem=problem,
            nccl=facts["nccl"],
            layer_types=tuple(sorted(self.own_types - {*_UNFED})),
            import_s=facts["import_s"],
            devices=tuple(devices),
        )

    def layer_types(self, info: RuntimeInfo) -> frozenset[str]:
        return frozenset(info.layer_types)

    def training(self, request: TrainingRequest) -> Work:
        job, resume = request.job, request.resume
        settings = {
            "solver": str(request.solver),
            "job": str(job.path),
            "snapshots": str(job.snapshots),
            "resume": str(resume.state) if resume else None,
            "weights": list(request.weights),
            "log": str(job.log),
            "log_bytes": request.log_bytes,
            "record_every": request.record_every,
            "frozen": request.frozen,
            "max_loss": request.max_loss,
            "rules": [str(path) for path in job.read_plan().rules],
            "samples": None,
            "precision": request.precision.value,
            **_device(request.device),
        }
        data = request.data.settings(job.worker_nets) if request.data else {}
        return _work("train", {**settings, **data}, request.threads)

    def noise(self, request: NoiseRequest) -> Work:
        solver = request.solver
        settings = {
            "net": str(request.net),
            "level": request.state.level,
            "stages": list(request.state.stage),
            "weights": [str(path.resolve()) for path in request.weights],
            "frozen": request.frozen,
            "seed": solver.random_seed,
            "solver_cpu": solver.HasField("solver_mode") and solver.solver_mode == solver.CPU,
            "groups": request.groups,
            "passes": request.passes,
            **_device(request.device, solver.device_id),
        }
        return _work("noise", settings, request.threads)

    def verification(self, request: VerificationRequest) -> Work:
        settings = {
            "variants": [
                {**asdict(variant), "folder": str(variant.folder)} for variant in request.variants
            ],
            "updates": request.updates,
            "average_loss": request.average_loss,
            "floor": request.floor,
            "result": str(request.result),
            **_device(Device.CPU),
        }
        return _work("verify", settings, threads=1)

    def data_start(
        self, stages: Sequence[TrainingStage], snapshot: Snapshot, sources: Sources
    ) -> DataStart:
        recipe, samples = samples_read(stages, snapshot.update)
        notes = [*state_lost(recipe.train)]
        if not snapshot.moment.is_file():
            why = "as the snapshot was taken by another engine, or without their state"
            notes += drawn_anew(recipe.train, why)
        return DataPosition(tuple(samples), tuple(notes))

    def open_log(self, log: Path) -> LogReader:
        return LogFollower(log)

    def classify(self, status: int, last_word: WorkerEvent | None, log: Sequence[str]) -> Ending:
        return classify(status, last_word, log)

    def last_lines(self, log: Sequence[str]) -> list[str]:
        return last_lines(log)


#: The one instance.
ENGINE = TorchEngine()


def _work(task: str, settings: Mapping[str, Any], threads: int) -> Work:
    environment = {
        **dict.fromkeys(THREAD_VARIABLES, str(threads)),
        # At its barriers OpenMP would otherwise spin, and be slower than Caffe beside a busy
        # neighbour.
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    return Work(_WORKER, {"task": task, "precision": "float32", **settings}, environment)


def _device(device: Device | None, fallback: int | None = None) -> dict[str, str | int | None]:
    """The settings that name a device; ``fallback`` is the GPU if the worker should choose."""
    if device is None:
        return {"device": "auto", "gpu": fallback}
    return {"device": "cpu" if device.is_cpu else "gpu", "gpu": device.gpu}


def _of_engine(file: NetFile) -> Iterator[Finding]:
    """What PyTorch itself makes different from Caffe, however the batch is split."""
    filled = [
        layer.name
        for _, layer in file.selected()
        if any(filler.type in _OTHER_FILLERS for filler in _fillers(layer))
    ]
    if filled:
        yield Finding(
            Cause.ENGINE_DRAWS, filled[0], Verdict.APPROXIMATE,
            f"The fillers {' and '.join(_OTHER_FILLERS)} draw other numbers than Caffe's, from the "
            f"same distribution{_and_others(filled)}.",
        )  # fmt: skip
    dropping = [layer.name for _, layer in file.selected() if layer.type == "Dropout"]
    if dropping and file.phase == "TRAIN":
        yield Finding(
            Cause.ENGINE_DRAWS, dropping[0], Verdict.APPROXIMATE,
            f"Dropout drops other units than Caffe's, as often{_and_others(dropping)}.",
        )  # fmt: skip


def _and_others(names: Sequence[str]) -> str:
    more = len(set(names)) - 1
    return f" (and in {more} more layers)" if more > 1 else " (and in one more)" if more else ""


def _fillers(layer: caffe_pb2.LayerParameter) -> Iterator[caffe_pb2.FillerParameter]:
    for field, message in layer.ListFields():
        if field.message_type is not None and field.name.endswith("_param"):
            for inner, value in message.ListFields() if hasattr(message, "ListFields") else ():
                if inner.message_type is caffe_pb2.FillerParameter.DESCRIPTOR:
                    yield from value if hasattr(value, "add") else [value]

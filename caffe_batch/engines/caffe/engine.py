"""Caffe 1.0 as an engine."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from caffe_batch.device import Device
from caffe_batch.engines.base import Engine, LogReader, RuntimeInfo
from caffe_batch.engines.caffe import INSIDE
from caffe_batch.engines.caffe import snapshots as snapshot_files
from caffe_batch.engines.caffe.causes import find_cause
from caffe_batch.engines.caffe.data_position import FROM_FIRST_RECORD, DataStart, data_start
from caffe_batch.engines.caffe.ending import HINTS, classify, last_lines
from caffe_batch.engines.caffe.log_files import LogFollower
from caffe_batch.engines.caffe.starting_files import check_state, check_weights
from caffe_batch.engines.events import WorkerEvent
from caffe_batch.engines.snapshots import Snapshot, SnapshotFiles
from caffe_batch.engines.work import (
    THREAD_VARIABLES,
    NoiseRequest,
    ShapesRequest,
    TrainingRequest,
    VerificationRequest,
    Work,
)
from caffe_batch.errors import Option
from caffe_batch.jobs.ending import Ending
from caffe_batch.jobs.stages import TrainingStage
from caffe_batch.layers.base import Mode
from caffe_batch.memory import Build, CaffeMemory, MemoryModel
from caffe_batch.net import Net, Recipe, Sources
from caffe_batch.planning.audit.audit import audit
from caffe_batch.planning.audit.findings import Cause, Finding
from caffe_batch.schema import caffe_pb2

#: What a Caffe built without GPU code says on any use of a GPU (device_alternate.hpp).
_CPU_ONLY = "Cannot use GPU in CPU-only Caffe"


class CaffeEngine(Engine):
    """Caffe, run by a Python that can import it."""

    name = "caffe"
    title = "Caffe"
    module = "caffe"
    python = "3.6"
    installable = True
    remedy = "Run `caffe-batch runtime install` (once; 160 MB to download)"
    types_hint = (
        "Give a Python whose Caffe has what the net needs with ",
        Option("runtime", "/path/to/python"),
        ", or take the layers out of the net.",
    )
    probe = INSIDE / "probe.py"
    snapshots: ClassVar[SnapshotFiles] = snapshot_files
    hints = HINTS

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
    ) -> CaffeMemory:
        return CaffeMemory(recipe, sources, mode, allow_unknown, build, gpus, half)

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
        return audit(
            model,
            batch_size=batch_size,
            iter_size=iter_size,
            gpus=gpus,
            own_gpus=own_gpus,
            summed_iter=summed_iter,
            refused=refused,
        )

    def check_weights(self, path: Path, nets: Sequence[Net]) -> None:
        check_weights(path, nets)

    def check_state(self, snapshot: Snapshot, net: Net, solver_type: str) -> None:
        check_state(snapshot, net, solver_type)

    def runtime_info(self, facts: Mapping[str, Any]) -> RuntimeInfo | None:
        if "caffe_version" not in facts:
            return None
        message = facts["gpu_message"]
        gpu = message is None or _CPU_ONLY not in message
        return RuntimeInfo(
            engine_version=facts["caffe_version"],
            module_path=facts["caffe_path"],
            python_version=facts["python_version"],
            numpy_version=facts["numpy_version"],
            nccl=facts["nccl"],
            layer_types=tuple(facts["layer_types"]),
            import_s=facts["import_s"],
            gpu=gpu,
            gpu_problem=_reason(message) if message and gpu else None,
        )

    def layer_types(self, info: RuntimeInfo) -> frozenset[str]:
        return frozenset(info.layer_types)

    def training(self, request: TrainingRequest) -> Work:
        job, resume = request.job, request.resume
        data = request.data.settings(job.worker_nets) if request.data else FROM_FIRST_RECORD
        settings = {
            "solver": str(request.solver),
            "worker_solver": str(job.worker_solver),
            "job": str(job.path),
            "snapshots": str(job.snapshots),
            "resume": str(resume.state) if resume else None,
            "resume_copy": str(job.worker_state),
            "weights": list(request.weights),
            "log": str(job.log),
            "log_bytes": request.log_bytes,
            "record_every": request.record_every,
            "frozen": request.frozen,
            "max_loss": request.max_loss,
        }
        return Work(
            INSIDE / "train.py",
            {**settings, **_device(request.device), **data},
            _environment(request.threads),
        )

    def noise(self, request: NoiseRequest) -> Work:
        solver, device = request.solver, request.device
        if device is None and solver.HasField("solver_mode") and solver.solver_mode == solver.CPU:
            device = Device.CPU
        settings = {
            "net": str(request.net),
            "level": request.state.level,
            "stages": list(request.state.stage),
            "weights": [str(path.resolve()) for path in request.weights],
            "frozen": request.frozen,
            "seed": solver.random_seed,
            "groups": request.groups,
            "passes": request.passes,
            **_device(device, solver.device_id),
        }
        return Work(INSIDE / "noise.py", settings, _environment(request.threads))

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
        return Work(INSIDE / "verify.py", settings, _environment(threads=1))

    def shapes(self, request: ShapesRequest) -> Work:
        state = request.state
        settings = {
            "net": str(request.net),
            "phase": caffe_pb2.Phase.Name(state.phase),
            "level": state.level,
            "stages": list(state.stage),
            "result": str(request.result),
            **_device(Device.CPU),
        }
        return Work(INSIDE / "shapes.py", settings, _environment(threads=1))

    def data_start(
        self, stages: Sequence[TrainingStage], snapshot: Snapshot, sources: Sources
    ) -> DataStart:
        return data_start(stages, snapshot.update, sources)

    def open_log(self, log: Path) -> LogReader:
        return LogFollower(log)

    def classify(self, status: int, last_word: WorkerEvent | None, log: Sequence[str]) -> Ending:
        return classify(status, last_word, log)

    def last_lines(self, log: Sequence[str]) -> list[str]:
        return last_lines(log)


#: The one instance.
ENGINE = CaffeEngine()


def _device(device: Device | None, fallback: int | None = None) -> dict[str, str | int | None]:
    """The settings that name a device; ``fallback`` is the GPU if the worker should choose."""
    if device is None:
        return {"device": "auto", "gpu": fallback}
    return {"device": "cpu" if device.is_cpu else "gpu", "gpu": device.gpu}


def _environment(threads: int) -> dict[str, str]:
    return dict.fromkeys(THREAD_VARIABLES, str(threads))


def _reason(log: str) -> str:
    """The message of glog's fatal line, or else the last line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    cause = find_cause(lines)
    return cause.message if cause else "".join(lines[-1:])

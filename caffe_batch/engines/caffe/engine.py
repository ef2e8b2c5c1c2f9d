"""Caffe 1.0 as an engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from caffe_batch.device import Device
from caffe_batch.engines.base import MemoryCount, RuntimeInfo
from caffe_batch.engines.caffe import INSIDE
from caffe_batch.engines.caffe.causes import find_cause
from caffe_batch.engines.caffe.data_position import FROM_FIRST_RECORD, DataStart, data_start
from caffe_batch.engines.caffe.ending import HINTS, classify
from caffe_batch.engines.caffe.formats import CaffeFilesEngine
from caffe_batch.engines.events import WorkerEvent
from caffe_batch.engines.snapshots import Snapshot
from caffe_batch.engines.work import (
    InferenceRequest,
    NoiseRequest,
    ShapesRequest,
    TrainingRequest,
    VerificationRequest,
    Work,
    device_settings,
    thread_limits,
)
from caffe_batch.errors import Option
from caffe_batch.jobs.ending import Ending
from caffe_batch.jobs.stages import TrainingStage
from caffe_batch.layers import BUILT_IN
from caffe_batch.layers.base import Mode
from caffe_batch.layers.forks import types_of
from caffe_batch.memory import Build, CaffeMemory
from caffe_batch.net import Recipe, Sources
from caffe_batch.schema import caffe_pb2

#: What a Caffe built without GPU code says on any use of a GPU (device_alternate.hpp).
_CPU_ONLY = "Cannot use GPU in CPU-only Caffe"

#: The types whose parameters include moving averages, in whatever Caffe the runtime has.
_AVERAGING = sorted(
    rule.type for rule in (*BUILT_IN.values(), *types_of(None)) if rule.moving_average
)


class CaffeEngine(CaffeFilesEngine):
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
    shim = INSIDE / "shim"
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
        count: MemoryCount | None = None,
    ) -> CaffeMemory:
        return CaffeMemory(recipe, sources, mode, allow_unknown, build, gpus, half)

    def runtime_info(self, facts: Mapping[str, Any]) -> RuntimeInfo | str:
        if "caffe_version" not in facts:
            return self.too_old(facts["python_version"])
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

    def training(self, request: TrainingRequest) -> Work:
        job = request.job
        settings = {
            **request.settings(),
            "worker_solver": str(job.worker_solver),
            "resume_copy": str(job.worker_state),
            "averaging_types": _AVERAGING,
        }
        data = request.data.settings(job.worker_nets) if request.data else FROM_FIRST_RECORD
        return _work("train", {**settings, **data}, request.threads)

    def noise(self, request: NoiseRequest) -> Work:
        solver, device = request.solver, request.device
        if device is None and solver.HasField("solver_mode") and solver.solver_mode == solver.CPU:
            device = Device.CPU
        settings = {**request.settings(), **device_settings(device, solver.device_id)}
        return _work("noise", settings, request.threads)

    def verification(self, request: VerificationRequest) -> Work:
        return _work("verify", request.settings(), threads=1)

    def inference(self, request: InferenceRequest) -> Work:
        return _work("inference", request.settings(), request.threads)

    def shapes(self, request: ShapesRequest) -> Work:
        state = request.state
        settings = {
            "net": str(request.net),
            "phase": caffe_pb2.Phase.Name(state.phase),
            "level": state.level,
            "stages": list(state.stage),
            "result": str(request.result),
            **device_settings(Device.CPU),
        }
        return _work("shapes", settings, threads=1)

    def data_start(
        self, stages: Sequence[TrainingStage], snapshot: Snapshot, sources: Sources
    ) -> DataStart:
        return data_start(stages, snapshot.update, sources)

    def classify(self, status: int, last_word: WorkerEvent | None, log: Sequence[str]) -> Ending:
        return classify(status, last_word, log)


#: The one instance.
ENGINE = CaffeEngine()


def _work(script: str, settings: Mapping[str, Any], threads: int) -> Work:
    return Work(INSIDE / f"{script}.py", settings, thread_limits(threads))


def _reason(log: str) -> str:
    """The message of glog's fatal line, or else the last line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    cause = find_cause(lines)
    return cause.message if cause else "".join(lines[-1:])

"""PyTorch as an engine: the same training, computed without Caffe.

Its snapshots and its log are Caffe's, so that a run may change its engine at any snapshot. torch is
imported in the worker alone (``worker/``).
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caffe_batch.engines.base import MemoryCount, RuntimeInfo
from caffe_batch.engines.caffe.data_position import samples_read, state_lost
from caffe_batch.engines.caffe.formats import CaffeFilesEngine
from caffe_batch.engines.events import WorkerEvent
from caffe_batch.engines.snapshots import Snapshot
from caffe_batch.engines.torch.causes import of_engine, of_ranks
from caffe_batch.engines.torch.ending import HINTS, classify
from caffe_batch.engines.torch.gpu_errors import unusable
from caffe_batch.engines.torch.kernels import OLDEST, has_kernels, is_older, no_kernels
from caffe_batch.engines.torch.memory.model import TorchMemory
from caffe_batch.engines.torch.refusals import OWN_TYPES, check_exports, check_settings
from caffe_batch.engines.work import (
    DataStart,
    ExportRequest,
    InferenceRequest,
    NoiseRequest,
    TrainingRequest,
    VerificationRequest,
    Work,
    device_settings,
    thread_limits,
)
from caffe_batch.errors import InputError, Option
from caffe_batch.jobs.ending import Ending
from caffe_batch.jobs.stages import TrainingStage
from caffe_batch.layers import BUILT_IN
from caffe_batch.layers.base import Mode
from caffe_batch.memory import Build, MemoryModel
from caffe_batch.net import Net, Recipe, Sources
from caffe_batch.planning.audit.findings import Finding
from caffe_batch.planning.precision import Precision
from caffe_batch.planning.shared import Shared

_WORKER = Path(__file__).parent / "worker" / "main.py"

#: Where torch says its version (torch/version.py).
_VERSION = re.compile(r"""^__version__ = ['"]([^'"]+)""", re.MULTILINE)

#: Layers that nobody feeds in a training.
_UNFED = {name for name, rule in BUILT_IN.items() if rule.fed_by_program}


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


class TorchEngine(CaffeFilesEngine):
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
    hints = HINTS
    precisions = tuple(Precision)
    judges = True
    exports = True
    own_types = OWN_TYPES
    counts_memory = True
    most_ranks = None

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
    ) -> TorchMemory:
        if build is not Build.CAFFE:
            raise InputError(f"{build.value} is a build of Caffe, and the engine is PyTorch")
        return TorchMemory(recipe, sources, mode, allow_unknown, build, gpus, half, count=count)

    def check_net(self, net: Net) -> None:
        check_settings(net)

    def own_findings(
        self, model: MemoryModel, batch_size: int, precision: Precision
    ) -> Iterable[Finding]:
        return of_engine(model, batch_size, precision)

    def of_ranks(
        self, findings: Iterable[Finding], shared: Collection[Shared], as_one: Iterable[Finding]
    ) -> Iterable[Finding]:
        return of_ranks(findings, shared, as_one)

    def runtime_info(self, facts: Mapping[str, Any]) -> RuntimeInfo | str:
        if "torch_version" not in facts:
            return self.too_old(facts["python_version"])
        version = facts["torch_version"]
        if is_older(version, OLDEST):
            return f"has torch {version}, and {OLDEST} or newer is needed"
        devices, problem = [], None
        for number, (name, capability) in enumerate(facts["gpus"]):
            major, minor = capability
            devices.append(f"GPU {number}: {name}, compute capability {major}.{minor}")
            if problem is None and not has_kernels((major, minor), facts["kernels"]):
                problem = no_kernels(version, f"GPU {number}", (major, minor), facts["kernels"])
        if facts["built_for_gpus"] and not devices:
            problem = unusable(facts["gpu_warnings"]) or "PyTorch sees no GPU"
        return RuntimeInfo(
            engine_version=version,
            module_path=facts["torch_path"],
            python_version=facts["python_version"],
            numpy_version=facts["numpy_version"],
            gpu=facts["built_for_gpus"],
            gpu_problem=problem,
            nccl=facts["nccl"],
            layer_types=tuple(sorted(self.own_types - _UNFED)),
            import_s=facts["import_s"],
            devices=tuple(devices),
        )

    def training(self, request: TrainingRequest) -> Work:
        job = request.job
        plan = job.read_plan()
        settings = {
            **request.settings(),
            "rules": [str(path) for path in plan.rules],
            "fork": plan.fork,
            "samples": None,
            "precision": request.precision.value,
            "ranks": request.ranks,
            "shared": [each.value for each in request.shared],
            "patience_s": request.patience_s,
        }
        data = request.data.settings(job.worker_nets) if request.data else {}
        return _work("train", {**settings, **data}, request.threads)

    def noise(self, request: NoiseRequest) -> Work:
        solver = request.solver
        settings = {
            **request.settings(),
            "solver_cpu": solver.HasField("solver_mode") and solver.solver_mode == solver.CPU,
            **device_settings(request.device, solver.device_id),
        }
        return _work("noise", settings, request.threads)

    def verification(self, request: VerificationRequest) -> Work:
        return _work("verify", request.settings(), threads=1)

    def inference(self, request: InferenceRequest) -> Work:
        return _work("inference", request.settings(), request.threads)

    def version_here(self) -> str | None:
        spec = importlib.util.find_spec(self.module)
        if spec is None or spec.origin is None:
            return None
        try:
            text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
        except (OSError, ValueError):
            return None
        found = _VERSION.search(text)
        return None if found is None or is_older(found[1], OLDEST) else found[1]

    def check_exports(self, net: Net) -> None:
        check_exports(net)

    def export(self, request: ExportRequest) -> Work:
        return _work("export", request.settings(), threads=1)

    def memory_count(self, settings: Mapping[str, Any]) -> Work:
        return _work("memory", settings, threads=1)

    def data_start(
        self, stages: Sequence[TrainingStage], snapshot: Snapshot, sources: Sources
    ) -> DataStart:
        recipe, samples = samples_read(stages, snapshot.update)
        return DataPosition(tuple(samples), tuple(state_lost(recipe.train)))

    def classify(self, status: int, last_word: WorkerEvent | None, log: Sequence[str]) -> Ending:
        return classify(status, last_word, log)


#: The one instance.
ENGINE = TorchEngine()


def environment(threads: int) -> dict[str, str]:
    """The variables that a worker with this many threads is started with.

    At its barriers OpenMP would otherwise spin, and be slower than Caffe beside a busy neighbour.
    """
    return {**thread_limits(threads), "OMP_WAIT_POLICY": "PASSIVE"}


def _work(task: str, settings: Mapping[str, Any], threads: int) -> Work:
    settings = {"task": task, "precision": "float32", **settings}
    return Work(_WORKER, settings, environment(threads))

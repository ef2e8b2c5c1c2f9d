"""Measures nets given as text on real Caffe, for the tests of ``verify``."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caffe_batch.engines.base import Engine
from caffe_batch.engines.work import VerificationRequest
from caffe_batch.experiments.verification import Verification
from caffe_batch.experiments.verify import Audit, verify
from caffe_batch.layers.base import Shape
from caffe_batch.layers.registry import Registry
from caffe_batch.memory import CaffeMemory
from caffe_batch.net import Sources, read_recipe
from caffe_batch.planning.audit.audit import audit
from caffe_batch.planning.audit.findings import Finding
from caffe_batch.runtimes import Runtime

SOLVER = """
base_lr: 0.05 lr_policy: "step" gamma: 0.5 stepsize: 2 momentum: 0.9 weight_decay: 0.01
max_iter: 20 average_loss: 2
"""

#: Two inputs of different sizes in each axis; the file's batch is not among those tried.
INPUT = """
layer { name: "in" type: "Input" top: "data" top: "label"
  input_param { shape { dim: 5 dim: 3 dim: 7 dim: 11 } shape { dim: 5 } } }
"""


def inner_product(bottom: str = "data", outputs: int = 4, name: str = "ip") -> str:
    """An InnerProduct layer whose top has its name."""
    return f"""
layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{name}"
  inner_product_param {{ num_output: {outputs} weight_filler {{ type: "xavier" }} }} }}
"""


LOSS = 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }'


def nothing(batch_size: int, iter_size: int) -> Sequence[Finding]:
    """An audit that sees no difference anywhere and changes nothing."""
    return ()


#: A worker's script in a process that has imported caffe; nobody listens to its events.
FORKED = """
import json, os, sys
folder, name = os.path.split(sys.argv[1])
sys.path.insert(0, folder)
script = __import__(name[: -len(".py")])
assert script.main({**json.loads(sys.argv[2]), "events": os.open(os.devnull, os.O_WRONLY)}) == 0
"""


def on_both(pycaffe: Callable[..., str]) -> Callable[..., dict[str, Any]]:
    """The same for either engine; PyTorch's worker runs in the process of the tests."""
    on_caffe = forked(pycaffe)

    def run(
        runtime: Runtime, engine: Engine, request: VerificationRequest, *rest: Any
    ) -> dict[str, Any]:
        if engine.name == "caffe":
            return on_caffe(runtime, engine, request, *rest)
        import torch

        from caffe_batch.engines.torch.worker import verify as worker
        from caffe_batch.engines.torch.worker.requests import Requests
        from caffe_batch.engines.torch.worker.speech import Events

        torch.set_num_threads(1)  # threads that wait at barriers are slow on a busy machine
        descriptor = os.open(os.devnull, os.O_WRONLY)
        settings = dict(engine.verification(request).settings)
        here = Path.cwd()
        os.chdir(rest[1])
        try:
            assert worker.main(settings, Events(descriptor), Requests()) == 0
        finally:
            os.chdir(here)
            os.close(descriptor)
            sys.modules.pop("caffe", None)  # the module that Python layers get
        found: dict[str, Any] = json.loads(request.result.read_text())
        return found

    return run


def forked(pycaffe: Callable[..., str]) -> Callable[..., dict[str, Any]]:
    """Runs the worker in a child of a process that has imported caffe: in place of two seconds.

    It takes what ``verify.run_verification`` takes.
    """

    def run(
        runtime: Runtime,
        engine: Engine,
        request: VerificationRequest,
        folder: Path,
        directory: Path,
        rules: Registry,
    ) -> dict[str, Any]:
        work = engine.verification(request)
        pycaffe(FORKED, str(work.script), json.dumps(work.settings), cwd=directory)
        found: dict[str, Any] = json.loads(request.result.read_text())
        return found

    return run


@dataclass(frozen=True)
class Bench:
    """A folder for the files of a net, and the Caffe that measures it."""

    folder: Path
    runtime: Runtime

    def model(
        self,
        net: str,
        solver: str = SOLVER,
        *,
        shapes: dict[str, Shape] | None = None,
        allow_unknown: bool = False,
    ) -> CaffeMemory:
        """The model of a net of text."""
        net_file, solver_file = self.folder / "net.prototxt", self.folder / "solver.prototxt"
        net_file.write_text(net)
        solver_file.write_text(solver)
        recipe = read_recipe(net_file, solver_file)
        return CaffeMemory(recipe, Sources(recipe.directories, shapes), "cpu", allow_unknown)

    def measure(
        self,
        net: str,
        solver: str = SOLVER,
        audited: Audit | None = None,
        *,
        batch_size: int | None = None,
        iter_size: int | None = 3,
        **options: Any,
    ) -> Verification:
        """What ``verify`` finds; the audit is the real one unless another is given."""
        model = self.model(net, solver, **options)

        def real(size: int, passes: int) -> Sequence[Finding]:
            return audit(model, batch_size=size, iter_size=passes)

        return verify(
            model, self.runtime, audited or real, batch_size=batch_size, iter_size=iter_size
        )

"""One drawn training on real Caffe: does what the audit promises come true?"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from caffe_batch.engines.base import Engine
from caffe_batch.engines.caffe import INSIDE
from caffe_batch.engines.work import VerificationRequest
from caffe_batch.errors import CaffeBatchError, TrainingError
from caffe_batch.experiments import verify as experiment
from caffe_batch.experiments.verification import (
    TOLERANCE,
    Verification,
    expected_differences,
    judge,
)
from caffe_batch.layers.registry import Registry
from caffe_batch.memory import CaffeMemory
from caffe_batch.net import Sources, read_recipe
from caffe_batch.planning.audit.audit import audit
from caffe_batch.planning.audit.findings import Finding, Scope
from caffe_batch.runtimes import Runtime
from tools.audit_search.nets import Case

SERVER = Path(__file__).resolve().parent / "server.py"

#: How far weights and made-up samples are moved, relatively, to see what rounding can do.
JOLT = 1e-6
#: How much more than a jolt's an error may be.
MARGIN = 10


class Outcome(str, Enum):
    """What became of a drawn net."""

    #: The audit says that it is the same training, and it is.
    TRUE = "true"
    #: The audit says so, and it isn't.
    FALSE = "FALSE"
    #: The audit says that it is another training: nothing is promised.
    NO_PROMISE = "no promise"
    #: caffe-batch refuses the net.
    REFUSED = "refused here"
    #: Caffe refuses the net, or dies of it.
    CAFFE = "refused by Caffe"
    #: The first update of the whole batch gives numbers that aren't finite.
    NOT_FINITE = "not finite"
    #: What differs is rounding: a jolt of 1e-6 does as much, or the terms of a sum are so many.
    ROUNDING = "rounding"


@dataclass(frozen=True)
class Judged:
    """A case, and what became of it.

    Attributes:
        said: The measurement in words, or the reason of a refusal.
        error: The largest relative error of the first gradient and loss.
        causes: What the audit found beside what is exact.
    """

    outcome: Outcome
    said: str = ""
    error: float = 0.0
    causes: tuple[str, ...] = ()


class Bench:
    """A pycaffe that forks a child for each net, and a folder for its files."""

    def __init__(self, runtime: Runtime, folder: Path, server: subprocess.Popen[str]) -> None:
        self.runtime = runtime
        self.folder = folder
        self.server = server
        self.jolt = 0

    def judge(self, case: Case) -> Judged:
        """Runs a case, if the audit promises anything of it."""
        rounding = False
        causes: tuple[str, ...] = ()
        try:
            model = self.model(case)
            findings = audit(model, batch_size=case.batch_size, iter_size=case.iter_size)
            told = [f for f in findings if f.scope is Scope.TRAINING]
            causes = tuple(dict.fromkeys(f"{f.cause.value} ({f.verdict.value})" for f in told))
            if expected_differences(findings, held=True):
                model.train_net(case.batch_size)
                return Judged(Outcome.NO_PROMISE, causes=causes)
            found = self.measure(model, case, controls=False)
            if not judge(found).held:
                self.renew()
                found = self.measure(model, case, controls=True)
                for self.jolt in (1, 2, 3):
                    jolted = self.measure(model, case, controls=False)
                    rounding = rounding or _within(found, jolted)
        except TrainingError as error:
            return Judged(Outcome.CAFFE, str(error).splitlines()[0])
        except CaffeBatchError as error:
            return Judged(Outcome.REFUSED, str(error).splitlines()[0])
        finally:
            self.jolt = 0
        verdict = judge(found)
        worst = max(found.gradient.compensated, found.first_losses.errors.compensated)
        if math.isnan(worst) or not math.isfinite(found.first_losses.whole):
            return Judged(Outcome.NOT_FINITE, verdict.sentence, 0.0, causes)
        if verdict.held and worst <= TOLERANCE:
            outcome = Outcome.TRUE
        else:
            outcome = Outcome.ROUNDING if rounding or verdict.held else Outcome.FALSE
        return Judged(outcome, verdict.sentence, worst, causes)

    def model(self, case: Case) -> CaffeMemory:
        """The recipe of a case.

        Raises:
            CaffeBatchError: The files are refused.
        """
        net_file, solver_file = self.folder / "net.prototxt", self.folder / "solver.prototxt"
        net_file.write_text(case.net_text())
        solver_file.write_text(case.solver_text())
        recipe = read_recipe(net_file, solver_file)
        return CaffeMemory(recipe, Sources(recipe.directories), "cpu", allow_unknown=False)

    def measure(self, model: CaffeMemory, case: Case, *, controls: bool) -> Verification:
        """What ``verify`` finds of a case.

        Raises:
            CaffeBatchError: The net is refused.
        """

        def audited(size: int, passes: int) -> Sequence[Finding]:
            return audit(model, batch_size=size, iter_size=passes)

        return experiment.verify(
            model,
            self.runtime,
            audited,
            batch_size=case.batch_size,
            iter_size=case.iter_size,
            controls=controls,
        )

    def run_worker(
        self,
        runtime: Runtime,
        engine: Engine,
        request: VerificationRequest,
        folder: Path,
        directory: Path,
        rules: Registry,
    ) -> dict[str, Any]:
        """In place of ``verify.run_verification``: one fork for all variants."""
        settings = engine.verification(request).settings
        variants = list(settings["variants"])
        if self.jolt:
            copied = shutil.copytree(variants[0]["folder"], folder / "jolt")
            variants[1] = {**variants[0], "folder": str(copied), "jolt": [JOLT, self.jolt]}
        given = {**settings, "variants": variants}
        status = self._request({"cwd": str(directory), "log": str(folder / "log")}, given)
        if status or not request.result.exists():
            log = (folder / "log").read_text(errors="replace").splitlines()
            told = [line for line in log if line.startswith("F") or "Error" in line]
            raise TrainingError((told or log or ["it wrote nothing"])[0])
        found: dict[str, Any] = json.loads(request.result.read_text())
        return found

    def renew(self) -> None:
        """Lets a new process do what follows, in which nothing has run before."""
        self._send({})

    def _request(self, request: Mapping[str, Any], settings: Mapping[str, Any]) -> int:
        return self._send({**request, "settings": settings})

    def _send(self, line: Mapping[str, Any]) -> int:
        requests, answers = self.server.stdin, self.server.stdout
        if requests is None or answers is None:
            raise TrainingError("no pipes to the runtime")
        requests.write(json.dumps(line) + "\n")
        requests.flush()
        return int(answers.readline() or "255")


def _within(found: Verification, jolted: Verification) -> bool:
    """Whether nothing differs by more than a jolt makes it differ.

    A loss may always differ by what the rounding of its sum can make of it.
    """

    def errors(of: Verification) -> list[float]:
        losses = (of.first_losses.errors, of.losses.errors)
        every = (of.gradient, *losses, of.weights, of.averages)
        return [each.compensated for each in every]

    losses = [found.loss_tolerance(each) for each in (found.first_losses, found.losses)]
    least = (TOLERANCE, *losses, *[found.tolerance] * 2)
    pairs = zip(errors(found), errors(jolted), least, strict=True)
    return all(error <= max(tolerated, MARGIN * jolt) for error, jolt, tolerated in pairs)


@contextmanager
def open_bench(runtime: Runtime, folder: Path) -> Iterator[Bench]:
    """A bench whose files lie in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    server = subprocess.Popen(
        runtime.command([str(SERVER), str(INSIDE / "verify.py")]),
        env={**runtime.environment(), "OPENBLAS_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=folder,
    )
    bench = Bench(runtime, folder, server)
    before = experiment.run_verification
    experiment.run_verification = bench.run_worker
    try:
        with server:
            yield bench
            if server.stdin is not None:
                server.stdin.close()
    finally:
        experiment.run_verification = before

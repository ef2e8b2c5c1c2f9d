"""The plan: which batch_size and iter_size, what they cost, and what changes for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from caffe_batch.memory.build import Build
from caffe_batch.net.assumed import Assumption
from caffe_batch.planning.audit.findings import Cause, Finding, Scope, Verdict
from caffe_batch.planning.budget import Budget
from caffe_batch.planning.edits.changes import Change
from caffe_batch.planning.precision import Precision
from caffe_batch.planning.schedule.growth import PlannedStage
from caffe_batch.planning.shared import Shared
from caffe_batch.planning.split.candidates import Candidate
from caffe_batch.sizes import format_size


@dataclass(frozen=True, slots=True)
class TestSplit:
    """The batches of one test net in the plan.

    Attributes:
        number: Which test net, in Caffe's order.
        batch_size: Samples of one batch.
        test_iter: Batches of one test.
        records: Records of the test set, or None if they can't be counted.
    """

    __test__ = False  # tells pytest that this isn't a test

    number: int
    batch_size: int
    test_iter: int
    records: int | None

    def json(self) -> dict[str, Any]:
        """As in plan.json."""
        return {
            "number": self.number,
            "batch_size": self.batch_size,
            "test_iter": self.test_iter,
            "records": self.records,
        }


@dataclass(frozen=True)
class Plan:
    """A split of the effective batch that fits, and everything that changes for it.

    Attributes:
        requested_effective_batch: The samples per update asked for.
        recipe_batch: Samples per update that the files' schedule was written for.
        chosen: The split; its effective_batch is the plan's.
        gpus: GPUs that share each update.
        budget: The memory allowed on each GPU.
        mode: ``"gpu"`` or ``"cpu"``: whose memory the prediction counts.
        engine: Name of the engine that the plan is for.
        build: The build of Caffe that the prediction is for.
        divides_batch: Whether a batch_size is for all GPUs together, as in NVCaffe.
        rounding_bytes: What cudaMalloc adds to the predicted peak.
        uncertain_bytes: How much of the predicted peak may turn out not to be taken.
        upper_bound_layers: The layers that this depends on, where it depends on the data.
        candidates: Every split that may be taken, largest batch_size first; the peaks of those that
            aren't chosen are with the smallest test batches.
        findings: What accumulation changes in this training; empty for one pass per update.
        tests: The batches of the test nets.
        changes: The fields that the plan sets in the user's files.
        remarks: What else there is to know, a sentence or two each.
        train_records: Records of the train source, or None if unknown.
        lower_bound: Whether the prediction leaves out unknown layers.
        stages: If the effective batch grows during the run, its stages: ``chosen``, ``changes``
            and the files of the plan are then those of the first, ``findings`` those of the last.
            Empty if it doesn't grow.
        half, allow_unknown: As in the memory model.
        chance_loss: The loss of a classifier that guesses; None if the net isn't one.
        assumptions: What is assumed of layers without a rule, in the files as they are.
        refused: Causes that were not to be compensated.
        precision: How exactly the engine calculates.
        shared: What its GPUs count together.
    """

    requested_effective_batch: int
    recipe_batch: int
    chosen: Candidate
    gpus: int
    budget: Budget
    mode: str
    engine: str
    build: Build
    divides_batch: bool
    rounding_bytes: int
    uncertain_bytes: int
    upper_bound_layers: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    findings: tuple[Finding, ...]
    tests: tuple[TestSplit, ...]
    changes: tuple[Change, ...]
    remarks: tuple[str, ...]
    train_records: int | None
    lower_bound: bool
    stages: tuple[PlannedStage, ...] = ()
    half: bool = False
    allow_unknown: bool = False
    assumptions: tuple[Assumption, ...] = ()
    refused: frozenset[Cause] = frozenset()
    chance_loss: float | None = None
    precision: Precision = Precision.FLOAT32
    shared: tuple[Shared, ...] = ()

    @property
    def batch_size(self) -> int:
        """As in the files: samples of one pass on each GPU, or on all of them if it is divided."""
        return self.chosen.batch_size

    @property
    def batch_size_per_gpu(self) -> int:
        """Samples of one forward/backward pass on one GPU."""
        return self.batch_size // self.gpus if self.divides_batch else self.batch_size

    @property
    def iter_size(self) -> int:
        """Passes accumulated into one update."""
        return self.chosen.iter_size

    @property
    def iter_sizes(self) -> tuple[int, ...]:
        """The iter_size of each stage; a plan without stages has one."""
        return tuple(each.stage.iter_size for each in self.stages) or (self.iter_size,)

    @property
    def effective_batch(self) -> int:
        """Samples per update."""
        return self.chosen.effective_batch

    @property
    def predicted_peak_bytes(self) -> int:
        """What Caffe will ask for on each GPU."""
        return self.chosen.predicted_peak_bytes or 0

    def summary(self) -> str:
        """The plan in one line."""
        each = f" x {self.gpus} GPUs" if self.gpus > 1 and not self.divides_batch else ""
        together = f" (over {self.gpus} GPUs)" if self.gpus > 1 and self.divides_batch else ""
        last = self.stages[-1].stage if self.stages else None
        grows = (
            f", growing to {last.effective_batch} = {self.batch_size} x {last.iter_size}"
            if last else ""
        )  # fmt: skip
        return (
            f"effective batch {self.effective_batch} = batch_size {self.batch_size}{together} x "
            f"iter_size {self.iter_size}{each}{grows}, {self._bound}"
            f"{format_size(self.predicted_peak_bytes)} of "
            f"{format_size(self.budget.usable_bytes)} usable"
        )

    @property
    def _bound(self) -> str:
        if self.build is Build.NVCAFFE:
            return "about "
        if self.lower_bound:
            return "at least "
        return "at most " if self.uncertain_bytes else ""

    def verdict(self) -> str:
        """Whether this is the recipe's training, in a sentence."""
        return verdict_of(self.findings)

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know about the figures, a sentence or two each."""
        notes = [*(each.text for each in self.assumptions), *self.remarks]
        larger = [each.predicted_peak_bytes or 0 for each in self.candidates if not each.fits]
        if any(0 < peak <= self.budget.usable_bytes for peak in larger):
            rounds = (
                "cudaMalloc rounds Caffe's requests up by" if self.engine == "caffe"
                else "PyTorch's allocator reserves, beside what is in use,"
            )  # fmt: skip
            notes.append(
                f"{rounds} {format_size(self.rounding_bytes)} in "
                "total; without that a larger batch_size would fit."
            )
        if self.stages:
            notes.append(note_of_stages(self.iter_sizes[-1]))
        if self.build is Build.CUDNN and self.uncertain_bytes:
            least = self.predicted_peak_bytes - self.uncertain_bytes
            notes.append(
                f"The peak is at least {format_size(least)}: cuDNN's workspaces depend on the "
                "algorithms it chooses, and are counted at Caffe's limit."
            )
        if self.upper_bound_layers:
            notes.append(
                f"The peak includes the most that {', '.join(self.upper_bound_layers)} can take, "
                f"{format_size(self.uncertain_bytes)}: it depends on the data."
            )
        if self.build is Build.NVCAFFE:
            notes.append(
                "For NVCaffe the peak is an estimate. Its convolutions share one workspace, which "
                "isn't counted: it takes what is free, up to half of the GPU's memory."
            )
            meaning = (
                "is for all GPUs together" if self.divides_batch else "is for each GPU"
                " (it is written in literal shapes, which NVCaffe doesn't divide)"
            )  # fmt: skip
            notes.append(f"batch_size {meaning}.")
        return tuple(notes)

    def json(self) -> dict[str, Any]:
        """The JSON of ``caffe-batch plan`` and plan.json, whose keys other programs rely on."""
        return {
            "effective_batch": self.effective_batch,
            "requested_effective_batch": self.requested_effective_batch,
            "recipe_batch": self.recipe_batch,
            "batch_size": self.batch_size,
            "iter_size": self.iter_size,
            "gpus": self.gpus,
            "batch_size_per_gpu": self.batch_size_per_gpu,
            "mode": self.mode,
            "engine": self.engine,
            "build": self.build.value,
            "precision": self.precision.value,
            **({"shared": [each.value for each in self.shared]} if self.shared else {}),
            "budget_bytes": self.budget.budget_bytes,
            "reserve_bytes": self.budget.reserve_bytes,
            "predicted_peak_bytes": self.predicted_peak_bytes,
            "predicted_peak_lower_bytes": self.predicted_peak_bytes - self.uncertain_bytes,
            "rounding_bytes": self.rounding_bytes,
            "lower_bound": self.lower_bound,
            "upper_bound_layers": list(self.upper_bound_layers),
            "notes": list(self.notes),
            "train_records": self.train_records,
            "half": self.half,
            "allow_unknown": self.allow_unknown,
            **(
                {"assumptions": [each.json() for each in self.assumptions]}
                if self.assumptions
                else {}
            ),
            "no_compensate": sorted(cause.value for cause in self.refused),
            "candidates": [
                {
                    "batch_size": candidate.batch_size,
                    "iter_size": candidate.iter_size,
                    "effective_batch": candidate.effective_batch,
                    "predicted_peak_bytes": candidate.predicted_peak_bytes,
                    "fits": candidate.fits,
                    **({"refused": candidate.refused} if candidate.refused else {}),
                }
                for candidate in self.candidates
            ],
            "chance_loss": self.chance_loss,
            "verdict": self.verdict(),
            "audit": [finding.json() for finding in self.findings],
            "tests": [test.json() for test in self.tests],
            "changes": [change.json() for change in self.changes],
            "stages": [
                {**each.stage.json(), "batch_size": self.batch_size} for each in self.stages
            ],
        }


#: From the best verdict to the worst.
_ORDER = (
    Verdict.EXACT,
    Verdict.COMPENSATED,
    Verdict.APPROXIMATE,
    Verdict.UNKNOWN,
    Verdict.DIFFERENT,
)
_SENTENCES = {
    Verdict.EXACT: "The same training as with the whole batch in one pass",
    Verdict.COMPENSATED: "The same training as with the whole batch in one pass, with the changes",
    Verdict.APPROXIMATE: "On average the same training, though not number for number",
    Verdict.UNKNOWN: "The same training, as far as can be known",
    Verdict.DIFFERENT: "Not quite the training of the whole batch in one pass",
}
#: The same of an engine other than Caffe.
_OF_ENGINE = {
    Verdict.APPROXIMATE: "Compared with Caffe, on average the same, though not number for number",
    Verdict.DIFFERENT: "Compared with Caffe, another training",
}
_SAME = (Verdict.EXACT, Verdict.COMPENSATED)


def note_of_stages(iter_size: int) -> str:
    """What to know about the audit if the batch grows up to that many passes per update."""
    return f"The audit is of the last stage, iter_size {iter_size}."


def verdict_of(findings: Sequence[Finding]) -> str:
    """Whether a split with these findings is the recipe's training, in a sentence.

    Where the engine makes it another than Caffe's, a second sentence says so.
    """
    of_split = _worst(findings, Scope.TRAINING, _SENTENCES)
    of_engine = _worst(findings, Scope.ENGINE, _OF_ENGINE)
    parts = (of_split or "One pass per update: nothing is accumulated.", of_engine)
    return " ".join(filter(None, parts))


def _worst(findings: Sequence[Finding], scope: Scope, sentences: Mapping[Verdict, str]) -> str:
    """The sentence of the worst verdict in a scope, with its causes; empty without findings."""
    inside = [each for each in findings if each.scope is scope]
    if not inside:
        return ""
    worst = max((each.verdict for each in inside), key=_ORDER.index)
    causes = sorted({each.cause.value for each in inside if each.verdict is worst})
    return f"{sentences[worst]}{'' if worst in _SAME else ': ' + ', '.join(causes)}."

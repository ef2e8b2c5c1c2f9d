"""Out of memory: the next smaller split of the same effective batch, and the files for it.

Every stage keeps its samples per update and its updates: batch_size goes down and iter_size up.
What depends on iter_size is compensated, from what the files have now: a training that is under way
stays the same, also where the plan's own compensations were refused. The test nets' batches shrink
along, at the same number of samples a test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import gcd
from pathlib import Path

from caffe_batch.errors import CaffeBatchError, DoesNotFitError
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.ending import Ending
from caffe_batch.jobs.job_recipe import (
    JobStage,
    joined,
    model_of,
    read_job_stages,
)
from caffe_batch.jobs.plan_file import PlanFile
from caffe_batch.memory.model import Prediction
from caffe_batch.memory.predict import CaffeMemory
from caffe_batch.planning.audit.audit import audit
from caffe_batch.planning.audit.findings import Finding, compensations
from caffe_batch.planning.edits.changes import Change, applied, batch_changes, iter_size_change
from caffe_batch.planning.plan import verdict_of
from caffe_batch.planning.split.candidates import divisors
from caffe_batch.planning.split.net_tests import changes_of_tests, planned_tests, read_together
from caffe_batch.sizes import format_size


@dataclass(frozen=True)
class _StageSplit:
    """One stage at a smaller batch_size."""

    iter_size: int
    changes: tuple[Change, ...]
    findings: tuple[Finding, ...]
    prediction: Prediction


def split_smaller(job: JobDirectory, plan: PlanFile, ending: Ending) -> str:
    """Rewrite a job for the next smaller split.

    Args:
        job: The directory.
        plan: Its plan.
        ending: How the split that the plan has now ran out of memory.

    Returns:
        What has changed, in a sentence.

    Raises:
        DoesNotFitError: There is no smaller split; says what this one needs.
        InputError: The files don't say enough, or can't be read.
    """
    why = ending.reason.value
    stages = read_job_stages(job, plan)
    models = [model_of(job, plan, stage.recipe) for stage in stages]
    effective = [stage.effective_batch for stage in plan.stages]
    needs = max(model.at(plan.batch_size).allocated_bytes for model in models)
    obstacle = ""
    for size in reversed(divisors(gcd(*effective))):
        if size >= plan.batch_size:
            continue
        iter_sizes = [samples // size for samples in effective]
        try:
            splits = [
                _split(model, plan.batch_size, size, count)
                for model, count in zip(models, iter_sizes, strict=True)
            ]
        except CaffeBatchError as error:  # Caffe would refuse the net at this size
            obstacle = f" that Caffe would build ({error.message})"
            continue
        _rewrite(job, plan, stages, size, splits, why)
        return (
            f"{why}: going on with batch_size {size} x iter_size {iter_sizes[0]} instead of "
            f"{plan.batch_size} x {plan.iter_size}"
        )
    raise DoesNotFitError(
        f"{why} ({ending.detail}), and batch_size {plan.batch_size} is the smallest split of the "
        f"effective batch {plan.effective_batch}{obstacle}. With it Caffe asks for "
        f"{format_size(needs)} ({needs:,} bytes), as far as can be predicted",
        missing_bytes=0,
        hint="What would fit: a machine with more than that free, smaller input images, or a "
        "smaller net (`caffe-batch memory` shows the layers that cost most). The newest snapshot "
        "stays.",
    )


def _split(
    model: CaffeMemory,
    size_before: int,
    size: int,
    iter_size: int,
) -> _StageSplit:
    tests = planned_tests(model, [None] * len(model.recipe.tests))
    share = Fraction(size, size_before)
    smaller = {
        test.number: _largest_divisor(gcd(*(each.samples for each in group)), share * test.own_size)
        for group in read_together(tests)
        for test in group
    }
    test_sizes = [size if test.shared else smaller[test.number] for test in tests]
    findings = audit(model, batch_size=size, iter_size=iter_size)
    changes = (
        *batch_changes(model.recipe, model.train_layers, size),
        *changes_of_tests(model.recipe, model, tests, test_sizes),
        *iter_size_change(model.recipe.solver, iter_size),
        *compensations(findings),
    )
    prediction = replace(model, recipe=applied(model.recipe, changes)).at()
    return _StageSplit(iter_size, changes, findings, prediction)


def _largest_divisor(number: int, bound: Fraction) -> int:
    """The largest divisor up to a bound; 1 if there is none."""
    return max((each for each in divisors(number) if each <= bound), default=1)


def _rewrite(
    job: JobDirectory,
    plan: PlanFile,
    stages: Sequence[JobStage],
    size: int,
    splits: Sequence[_StageSplit],
    why: str,
) -> None:
    texts: dict[Path, str] = {}
    for stage, split in zip(stages, splits, strict=True):
        # A test net with a file of its own belongs to all stages.
        texts = {**stage.texts(split.changes), **texts}
    prediction = max((split.prediction for split in splits), key=lambda p: p.allocated_bytes)
    first, last = splits[0], splits[-1]
    lists = [
        joined(stage.changes, split.changes) for stage, split in zip(stages, splits, strict=True)
    ]
    planned = {
        "batch_size": size,
        "iter_size": first.iter_size,
        "batch_size_per_gpu": size,
        "predicted_peak_bytes": prediction.peak_bytes,
        "predicted_peak_lower_bytes": prediction.lower_peak_bytes,
        "rounding_bytes": prediction.rounding_bytes,
        "audit": [finding.json() for finding in last.findings],
        "verdict": verdict_of(last.findings),
        "summary": (
            f"effective batch {plan.effective_batch} = batch_size {size} x iter_size "
            f"{first.iter_size}, {format_size(prediction.peak_bytes)} predicted (planned anew: "
            f"{why})"
        ),
        "stages": [{"batch_size": size, "iter_size": split.iter_size} for split in splits],
        "candidates": [
            {**each, "fits": bool(each.get("fits")) and each["batch_size"] <= size}
            for each in plan.content.get("candidates", ())
        ],
    }
    texts[job.plan] = plan.with_split(planned, lists, why).text
    job.rewrite(texts)

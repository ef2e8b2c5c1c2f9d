"""Another split of a job's effective batch: a smaller one after an out-of-memory, or the planned
one again.

Every stage keeps its samples per update and its updates: batch_size and iter_size change together.
The planner is asked for that, starting from the files as they are now: a training that is under
way stays the same even if the plan's own compensations were refused. The test nets' batches
shrink and grow too, with the same number of samples in each test. If a test ran out of memory,
its batch shrinks first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from math import gcd
from pathlib import Path
from typing import Any

from caffe_batch import engines
from caffe_batch.engines.base import MemoryCount
from caffe_batch.errors import CaffeBatchError, Call, DoesNotFitError
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.ending import Ending
from caffe_batch.jobs.job_recipe import JobStage, joined, read_job_stages
from caffe_batch.jobs.plan_file import PlanFile, PlannedSplit
from caffe_batch.memory.base import MemoryModel
from caffe_batch.net import Recipe
from caffe_batch.planning.audit.findings import Scope, Verdict
from caffe_batch.planning.budget import NO_LIMIT
from caffe_batch.planning.options import PlanOptions
from caffe_batch.planning.plan import Plan, note_of_stages
from caffe_batch.planning.planner import make_plan
from caffe_batch.planning.schedule.rescaling import ScheduleOptions
from caffe_batch.planning.split.candidates import SplitOptions
from caffe_batch.planning.split.net_tests import NetTest, group_tests, planned_tests
from caffe_batch.sizes import format_size


def split_smaller(
    job: JobDirectory, plan: PlanFile, ending: Ending, count: MemoryCount | None = None
) -> str:
    """Rewrite a job for the next smaller split.

    Args:
        job: The directory.
        plan: Its plan.
        ending: How the plan's present split ran out of memory.
        count: Counts the memory of the plan's engine, if that has to be counted.

    Returns:
        What has changed, in a sentence.

    Raises:
        DoesNotFitError: There is no smaller split; it says what this one needs.
        InputError: The files don't say enough, or can't be read.
    """
    why, size = ending.reason.value, plan.batch_size
    effective = _effective_batches(plan)
    if size is None:
        raise _not_planned(job, ending)
    stages = read_job_stages(job, plan)
    models = [_model(job, plan, stage.recipe, count) for stage in stages]
    tests = _test_batches(models[0])
    if ending.test_net is not None:
        changed = _with_smaller_test(job, plan, stages, models, tests, ending)
        if changed:
            return changed
    needs = max(model.at(size).allocated_bytes for model in models)
    largest, obstacle = size - 1, ""
    while largest:
        plans: list[Plan] = []
        try:
            for model, samples in zip(models, effective, strict=True):
                split = SplitOptions(largest_batch=largest, divides=gcd(*effective) // plan.gpus)
                if plans:  # all stages have one batch_size
                    split = SplitOptions(batch_size=plans[0].batch_size)
                plans.append(_plan_with(model, plan, samples, split, tests_follow=True))
        except CaffeBatchError as error:  # Caffe would refuse a net at this size
            obstacle = f" that can be built ({error.message})"
            largest = plans[0].batch_size - 1 if plans else 0
            continue
        _rewrite(job, plan, stages, plans, why, tests)
        return (
            f"{why}: continuing with batch_size {plans[0].batch_size} x iter_size "
            f"{plans[0].iter_size} instead of {size} x {plan.iter_size}"
            + _another_training(plan, plans[-1])
        )
    title = engines.title(plan.engine)
    raise DoesNotFitError(
        f"{why} ({ending.detail}), and batch_size {size} is the smallest split of the "
        f"effective batch {plan.effective_batch}{obstacle}. With it {title} requests "
        f"{format_size(needs)} ({needs:,} bytes), according to the prediction",
        missing_bytes=0,
        hint=[
            "Use a machine with more free memory than that, smaller input images, or a smaller "
            "net (",
            Call("`caffe-batch memory`", "caffe_batch.memory()"),
            " shows the layers that need most).",
            *([" The newest snapshot is kept."] if _has_snapshot(job, plan) else []),
        ],
    )


def planned_split(job: JobDirectory, plan: PlanFile) -> PlannedSplit | None:
    """The split that was planned, if the job has a smaller one now, or smaller test batches.

    Raises:
        InputError: The files can't be read.
    """
    planned = plan.planned_split
    if planned is None or plan.batch_size is None:
        return None
    tests = _test_batches(_model(job, plan, read_job_stages(job, plan)[0].recipe))
    smaller_test = any(tests.get(each, size) < size for each, size in planned.tests.items())
    return planned if plan.batch_size < planned.batch_size or smaller_test else None


def take_planned_split(
    job: JobDirectory, plan: PlanFile, planned: PlannedSplit, count: MemoryCount | None = None
) -> str:
    """Rewrite a job for the split that was planned, which may fit again.

    Args:
        job: The directory; its lock is held.
        plan: Its plan.
        planned: What :func:`planned_split` has returned.
        count: As for :func:`split_smaller`.

    Returns:
        What has changed, in a sentence without its full stop.

    Raises:
        InputError: The files don't say enough, or can't be read.
    """
    stages = read_job_stages(job, plan)
    models = [_model(job, plan, stage.recipe, count) for stage in stages]
    tests = _test_batches(models[0])
    split = SplitOptions(batch_size=planned.batch_size)
    plans = [
        _plan_with(model, plan, samples, split, {**tests, **planned.tests})
        for model, samples in zip(models, _effective_batches(plan), strict=True)
    ]
    _rewrite(job, plan, stages, plans, "the planned split again", tests)
    return (
        f"the planned split again, batch_size {plans[0].batch_size} x iter_size "
        f"{plans[0].iter_size} instead of {plan.batch_size} x {plan.iter_size}"
        if planned.batch_size != plan.batch_size
        else f"the planned test batches again, {_sizes(planned.tests)} instead of {_sizes(tests)}"
    )


def _with_smaller_test(
    job: JobDirectory,
    plan: PlanFile,
    stages: Sequence[JobStage],
    models: Sequence[MemoryModel],
    tests: Mapping[int, int],
    ending: Ending,
) -> str:
    """Rewrite a job for half the batch, or less, of the test net that ran out of memory.

    Returns:
        What has changed, in a sentence; empty if its batch isn't its own, or is 1.
    """
    number, size = ending.test_net, tests.get(ending.test_net or 0, 1)
    group = next(
        (group for group in group_tests(_own_tests(models[0]), exact=True)
         if number in group.numbers), None,
    )  # fmt: skip
    smaller = [each for each in group.sizes if each <= size // 2] if group else []
    if group is None or not smaller:
        return ""
    wanted = {**tests, **dict.fromkeys(group.numbers, smaller[-1])}
    split = SplitOptions(batch_size=plan.batch_size)
    plans = [
        _plan_with(model, plan, samples, split, wanted)
        for model, samples in zip(models, _effective_batches(plan), strict=True)
    ]
    _rewrite(job, plan, stages, plans, ending.reason.value, tests)
    other = " " + "".join(
        finding.explanation for finding in plans[0].findings
        if finding.scope is Scope.TEST and finding.verdict is Verdict.DIFFERENT
    )  # fmt: skip
    return (
        f"{ending.reason.value} in a test: continuing with test batches of {smaller[-1]} "
        f"instead of {size}, and as many samples in each "
        f"test{'.' + other.rstrip('.') if other.strip() else ''}"
    )


def _test_batches(model: MemoryModel) -> dict[int, int]:
    """The batch of each test net that has its own, by its number."""
    return {test.number: test.own_size for test in _own_tests(model)}


def _own_tests(model: MemoryModel) -> list[NetTest]:
    """The test nets with batches of their own."""
    number = len(model.recipe.tests)
    return [test for test in planned_tests(model, (None,) * number) if not test.shared]


def _sizes(tests: Mapping[int, int]) -> str:
    return ", ".join(map(str, tests.values()))


def _has_snapshot(job: JobDirectory, plan: PlanFile) -> bool:
    return bool(engines.find(plan.engine).snapshots.list_snapshots(job.snapshots))


def _effective_batches(plan: PlanFile) -> list[int]:
    """Samples of an update in each stage; empty for files that are trained as they are."""
    return [each.effective_batch for each in plan.stages if each.effective_batch is not None]


def _not_planned(job: JobDirectory, ending: Ending) -> DoesNotFitError:
    """The error for files that are trained as they are, and so keep their batch."""
    return DoesNotFitError(
        f"{ending.reason.value} ({ending.detail}), and files that are trained as they are keep "
        "their batch",
        missing_bytes=0,
        hint=[
            "Plan them for the memory that is available: ",
            Call(
                f"`caffe-batch plan {job.solver} --gpu-memory SIZE --out DIR`",
                f"caffe_batch.plan({str(job.solver)!r}, gpu_memory=SIZE)",
            ),
            " finds a batch_size x iter_size for it, if the net's batch is known. Or divide the "
            "batch in the files, and multiply iter_size by as much.",
        ],
    )


def _model(
    job: JobDirectory, plan: PlanFile, recipe: Recipe, count: MemoryCount | None = None
) -> MemoryModel:
    """The memory model that the plan was made with, for one of the job's recipes."""
    return engines.find(plan.engine).memory_model(
        recipe,
        plan.sources(plan.working_directory, job.path),
        plan.mode,
        allow_unknown=plan.allow_unknown,
        build=plan.build,
        gpus=plan.gpus,
        half=plan.half,
        count=count,
    )


def _plan_with(
    model: MemoryModel,
    plan: PlanFile,
    effective_batch: int,
    split: SplitOptions,
    test_sizes: Mapping[int, int] | None = None,
    *,
    tests_follow: bool = False,
) -> Plan:
    """The plan of one stage with another split or other test batches; nothing else changes."""
    options = PlanOptions(
        effective_batch=effective_batch,
        own_gpus=model.gpus,
        split=split,
        schedule=ScheduleOptions(keep=True),
        tests_follow=tests_follow,
        test_sizes=test_sizes or {},
        audit=partial(
            engines.find(model.engine).audit, precision=plan.precision, shared=plan.shared
        ),
        precision=plan.precision,
        shared=plan.shared,
    )
    return make_plan(model, NO_LIMIT, options)


def _another_training(plan: PlanFile, smaller: Plan) -> str:
    """What makes the smaller split a different training, if it didn't in the previous one."""
    known = {(each["cause"], each["layer"]) for each in plan.audit
             if each["verdict"] == Verdict.DIFFERENT.value}  # fmt: skip
    new = [
        f"{finding.cause.value}{f' of {finding.layer!r}' if finding.layer else ''}"
        for finding in smaller.findings
        if finding.scope is Scope.TRAINING
        and finding.verdict is Verdict.DIFFERENT
        and (finding.cause.value, finding.layer) not in known
    ]
    return f". From here on it is a different training: {', '.join(new)}" if new else ""


def _rewrite(
    job: JobDirectory,
    plan: PlanFile,
    stages: Sequence[JobStage],
    plans: Sequence[Plan],
    why: str,
    tests: Mapping[int, int],
) -> None:
    texts: dict[Path, str] = {}
    for stage, planned in zip(stages, plans, strict=True):
        # A test net with its own file belongs to all stages.
        texts = {**stage.texts(planned.changes), **texts}
    changes = [
        joined(stage.changes, planned.changes) for stage, planned in zip(stages, plans, strict=True)
    ]
    texts[job.plan] = plan.with_split(_content(plan, plans, why), changes, why, tests).text
    job.rewrite(texts)


def _content(plan: PlanFile, plans: Sequence[Plan], why: str) -> dict[str, Any]:
    """What plan.json says about the new split: only what follows from it."""
    contents = [each.json() for each in plans]
    first, last = contents[0], contents[-1]
    largest = max(contents, key=lambda each: each["predicted_peak_bytes"] + each["rounding_bytes"])
    size, iter_size = plans[0].batch_size, plans[0].iter_size
    of_stages = [note_of_stages(plans[-1].iter_size)] if len(plans) > 1 else []
    tests = [
        {**test, "records": known.get("records", test["records"])}
        for test, known in zip(first["tests"], _known_tests(plan, first["tests"]), strict=True)
    ]
    memory = ("predicted_peak_bytes", "predicted_peak_lower_bytes", "rounding_bytes", "lower_bound")
    return {
        **{key: first[key] for key in ("batch_size", "iter_size", "batch_size_per_gpu")},
        **{key: largest[key] for key in memory},
        **{key: last[key] for key in ("audit", "verdict")},
        "tests": tests,
        "notes": [*first["notes"], *of_stages],
        "summary": (
            f"effective batch {plan.effective_batch} = batch_size {size} x iter_size {iter_size}, "
            f"{format_size(largest['predicted_peak_bytes'])} predicted (planned again: {why})"
        ),
        "stages": [{"batch_size": each.batch_size, "iter_size": each.iter_size} for each in plans],
        "candidates": [
            {
                **each,
                "fits": each.get("predicted_peak_bytes") is not None and each["batch_size"] <= size,
            }
            for each in plan.content.get("candidates") or ()
        ],
    }


def _known_tests(plan: PlanFile, tests: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """What the plan already said about some test nets: their records were counted then."""
    known = {each["number"]: each for each in plan.tests}
    return [known.get(test["number"], {}) for test in tests]

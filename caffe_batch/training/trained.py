"""What a job has trained: a TEST net and the weights of a snapshot."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from caffe_batch.engines.base import Engine
from caffe_batch.engines.snapshots import DamagedSnapshotError, Snapshot
from caffe_batch.errors import InputError, NetError, Option
from caffe_batch.files import not_a_file
from caffe_batch.jobs.best import Metric, best_test, usual_metric
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.job_recipe import job_recipe
from caffe_batch.jobs.metrics import NetTestMetrics, read_metrics
from caffe_batch.jobs.plan_file import PlanFile
from caffe_batch.net.filtering import net_state
from caffe_batch.net.recipe import NetFile, Recipe
from caffe_batch.net.sources import Sources


@dataclass(frozen=True)
class Chosen:
    """Trained weights.

    Attributes:
        weights: The .caffemodel.
        update: Updates that they were trained for; None if that isn't known.
        score: The test that they were chosen by; None if they weren't.
        notes: Which others were skipped, and why.
    """

    weights: Path
    update: int | None
    score: NetTestMetrics | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trained:
    """A job with what is needed to run its TEST net.

    Attributes:
        job: The job.
        plan: Its plan.
        recipe: The solver and the nets of its last stage.
        test: The TEST net.
        sources: Where its data is looked up.
        directory: Where its relative paths start.
    """

    job: JobDirectory
    plan: PlanFile
    recipe: Recipe
    test: NetFile
    sources: Sources
    directory: Path


def read_trained(job: JobDirectory, number: int = 0) -> Trained:
    """A job's TEST net.

    Args:
        job: The job.
        number: The number of the test net.

    Raises:
        InputError: This isn't a job, or it has no such test net.
    """
    plan = job.read_plan()
    recipe = job_recipe(job, plan.stages[-1].solver, plan.registry())
    directory = plan.working_directory if plan.working_directory.is_dir() else job.path
    return Trained(
        job, plan, recipe, _test_net(recipe, number, job), plan.sources(directory), directory
    )


def _test_net(recipe: Recipe, number: int, job: JobDirectory) -> NetFile:
    if recipe.tests:
        if number < len(recipe.tests):
            return recipe.tests[number]
        raise InputError(
            [Option("test_net", str(number)), f": {job.path} has {len(recipe.tests)} test nets"],
            hint="They are numbered from 0.",
        )
    train = recipe.train
    test = replace(train, state=net_state("TEST", train.message))
    if not test.selected():
        raise NetError(f"{job.path}: no layer of the net belongs to the TEST phase")
    return test


def choose_weights(
    job: JobDirectory, engine: Engine, *, snapshot: Path | None = None, best: Metric | bool = False
) -> Chosen:
    """The weights to use. Nothing is renamed or recorded, even if something is damaged.

    Args:
        job: The job.
        engine: Whose snapshots they are.
        snapshot: A .caffemodel, or a .solverstate with its weights beside it; None for the
            newest one of the job that is whole.
        best: Take the snapshot with the best test instead; by this metric.

    Raises:
        InputError: There is none, or it is damaged.
    """
    if snapshot is not None and best:
        raise InputError([Option("snapshot"), " and ", Option("best", True), " exclude each other"])
    if snapshot is not None:
        return _named(snapshot, engine)
    found = sorted(engine.snapshots.list_snapshots(job.snapshots), reverse=True)
    if not found:
        raise InputError(
            f"{job.path}: there is no snapshot, so nothing has been trained yet",
            hint="`caffe-batch train` takes one at its end, and when Ctrl-C stops it.",
        )
    score = None
    if best:
        score, found = _best_first(job, found, best if isinstance(best, Metric) else None)
    notes: list[str] = []
    for each in found:
        try:
            engine.snapshots.check_contents(each.update, each.state, each.weights)
        except DamagedSnapshotError as damage:
            notes.append(f"The snapshot of update {each.update} is not whole: {damage.message}.")
        else:
            return Chosen(each.weights, each.update, score, tuple(notes))
    raise InputError(f"{job.path}: no snapshot is whole: {' '.join(notes)}")


def _best_first(
    job: JobDirectory, snapshots: list[Snapshot], metric: Metric | None
) -> tuple[NetTestMetrics, list[Snapshot]]:
    """The best test among those with a snapshot, and that snapshot."""
    lines = tuple(read_metrics(job.metrics)) if job.metrics.is_file() else ()
    tests = [line for line in lines if isinstance(line, NetTestMetrics)]
    record = job.read_record()
    kept_by = Metric.parse(record.keep_best) if record and record.keep_best else None
    metric = metric or kept_by or usual_metric(tests)
    there = {each.update: each for each in snapshots}
    best = None if metric is None else best_test(lines, metric, there)
    if best is None:
        name = "" if metric is None else f" of {str(metric)!r}"
        raise InputError(
            f"{job.path}: no snapshot was taken at a test{name}, so there is no best one",
            hint=[
                "`caffe-batch train` keeps the best one with ",
                Option("keep_best", "METRIC"),
                ".",
            ],
        )
    return best, [there[best.update]]


def _named(path: Path, engine: Engine) -> Chosen:
    """The weights of a file that the user has named."""
    if ".solverstate" in path.name:
        snapshot = engine.snapshots.named_snapshot(path)
        return Chosen(snapshot.weights, snapshot.update)
    if wrong := not_a_file(path):
        raise InputError(f"{path}: {wrong}", hint="Give a .caffemodel of the net.")
    state = path.with_name(path.name.replace(".caffemodel", ".solverstate"))
    known = {
        each.weights.name: each.update
        for each in engine.snapshots.list_snapshots(path.parent)
        if each.state == state
    }
    return Chosen(path.resolve(), known.get(path.name))

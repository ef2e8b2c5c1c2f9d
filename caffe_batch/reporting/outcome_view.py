"""The closing lines about a run that has ended."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence

from caffe_batch.engines.snapshots import Snapshot
from caffe_batch.jobs.best import Metric, best_test, usual_metric
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.metrics import NetTestMetrics, gradient_metrics, read_metrics
from caffe_batch.reporting.noise_view import training_noise
from caffe_batch.reporting.training_view import format_scores


def outcome_lines(
    job: JobDirectory,
    scores: Sequence[NetTestMetrics],
    snapshots: Sequence[Snapshot] = (),
    *,
    noise_scale: bool = False,
    finished: bool = True,
    metric: str | None = None,
) -> list[str]:
    """The last and the best test, the plan, the model, and what to do next, one line each.

    Args:
        job: The job.
        scores: Outputs of its last test.
        snapshots: Its snapshots, oldest first.
        noise_scale: Whether to add what ``--noise-scale`` has measured.
        finished: Whether all updates are done.
        metric: The output that the best test is judged by; None for the one by which the run keeps
            its best snapshot, or else the usual one.
    """
    plan = job.read_plan()
    lines = []
    if scores:
        lines.append(f"test:  {format_scores(scores)} (after update {scores[-1].update:,})")
        lines += _best(job, scores, snapshots, metric)
    if noise_scale and plan.effective_batch is not None:
        noise = training_noise(gradient_metrics(job.metrics), plan.effective_batch)
        lines += f"noise: {noise}".split("\n")
    lines += [f"plan:  {plan.summary}", f"files: {job.path}"]
    return [*lines, *_model_and_next(job, snapshots, finished=finished)]


def _best(
    job: JobDirectory,
    scores: Sequence[NetTestMetrics],
    snapshots: Sequence[Snapshot],
    metric: str | None,
) -> Iterator[str]:
    """The best test, and the snapshot that was taken at it, if one was."""
    record = job.read_record()
    kept_by = Metric.parse(metric or (record.keep_best if record else None) or "none")
    judged = usual_metric(scores) if kept_by.is_none else kept_by
    best = None if judged is None else best_test(read_metrics(job.metrics), judged)
    if best is None or best.value is None:
        return
    there = {each.update: each.weights.name for each in snapshots}
    kept = there.get(best.update)
    where = f": {kept}" if kept else "; no snapshot of it is kept"
    yield f"best:  {best.output} {best.value:.4g} (after update {best.update:,}{where})"


def _model_and_next(
    job: JobDirectory, snapshots: Sequence[Snapshot], *, finished: bool
) -> Iterator[str]:
    """The newest weights, and the commands that go on from here."""
    if snapshots:
        yield f"model: {os.path.relpath(snapshots[-1].weights, job.path)}"
    near = os.path.relpath(job.path)
    name = shlex.quote(str(job.path) if near.startswith("..") else near)
    if not finished:
        yield f"next:  `caffe-batch train {name}` continues"
    elif snapshots:
        yield (
            f"next:  `caffe-batch test {name}` tests it by class, `caffe-batch deploy {name} --out "
            "DIR` makes a net for inference"
        )

"""The closing lines about a run that has ended."""

from __future__ import annotations

from collections.abc import Sequence

from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.metrics import NetTestMetrics, gradient_metrics
from caffe_batch.reporting.noise_view import training_noise
from caffe_batch.reporting.training_view import format_scores


def outcome_lines(
    job: JobDirectory, scores: Sequence[NetTestMetrics], *, noise_scale: bool = False
) -> list[str]:
    """The last test, the plan and the files of a job, one line each.

    Args:
        job: The job.
        scores: Outputs of its last test.
        noise_scale: Whether to add what ``--noise-scale`` has measured.
    """
    plan = job.read_plan()
    lines = []
    if scores:
        lines.append(f"test:  {format_scores(scores)} (after update {scores[-1].update:,})")
    if noise_scale and plan.effective_batch is not None:
        noise = training_noise(gradient_metrics(job.metrics), plan.effective_batch)
        lines.append(f"noise: {noise}")
    return [*lines, f"plan:  {plan.summary}", f"files: {job.path}"]

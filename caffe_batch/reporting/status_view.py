"""The state of a job, in a few lines."""

from __future__ import annotations

from dataclasses import replace

from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.reporting.training_view import format_scores, memory_text, progress_line
from caffe_batch.training.following import RunState, Status


def status_lines(job: JobDirectory, status: Status) -> list[str]:
    """The state, the progress, the last test and the attempts."""
    who = f", process {status.pid}" if status.pid else ""
    running = status.state is RunState.RUNNING
    progress = status.progress if running else replace(status.progress, left_s=None)
    lines = [f"{status.state.value}{who}: {progress_line(progress)}"]
    scores = progress.scores
    if scores:
        lines.append(f"test:     {format_scores(scores)} (after update {scores[-1].update:,})")
    if progress.remark:
        lines.append(f"remark:   {progress.remark}")
    memory = memory_text(progress)
    if memory:
        lines.append(f"memory:   {memory}")
    attempt = status.attempt
    if status.record and attempt:
        end = f", the last one ended: {attempt.detail}" if attempt.ended else ""
        killed = (
            ", the last one was killed or could not record its end"
            if status.state is RunState.KILLED
            else ""
        )
        lines.append(
            f"attempts: {len(status.record.attempts)} on {status.record.host}{end}{killed}"
        )
    if status.broken_lines:
        lines.append(f"broken:   {status.broken_lines} lines of {job.metrics.name} can't be read")
    lines.append(f"files:    {job.path}")
    if status.state is RunState.KILLED:
        lines.append(f"Go on:    caffe-batch train {job.path}")
    return lines

"""The state of a job, in a few lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rich.table import Table

from caffe_batch import engines
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.reporting.console import PlainTable
from caffe_batch.reporting.training_view import (
    format_duration,
    format_number,
    format_scores,
    memory_text,
    progress_line,
)
from caffe_batch.training.following import RunState, Standing, Status


def status_table(found: Sequence[Standing]) -> Table:
    """Several jobs, one a row: the state, how far it is, the loss and the last test."""
    table = PlainTable(box=None, pad_edge=False, header_style="bold")
    for title in ("job", "state"):
        table.add_column(title, no_wrap=title == "state")
    for title in ("update", "of", "epoch", "loss", "left"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("last test")
    for each in found:
        if each.status is None:
            table.add_row(each.name, "unreadable")
            continue
        progress, state = each.status.progress, each.status.state
        left = progress.left_s if state is RunState.RUNNING else None
        table.add_row(
            each.name,
            state.value,
            f"{progress.update:,}",
            f"{progress.updates:,}",
            "-" if progress.epoch is None else f"{progress.epoch:.2f}",
            "-" if progress.loss is None else format_number(progress.loss),
            "-" if left is None else format_duration(left),
            format_scores(progress.scores) or "-",
        )
    return table


def status_json(standing: Standing) -> dict[str, Any]:
    """One of several jobs, for other programs."""
    if standing.status is None:
        problem = None if standing.problem is None else standing.problem.message
        return {"directory": standing.name, "state": None, "problem": problem}
    return {"directory": standing.name, **standing.status.json()}


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
    if attempt:
        version = f" {attempt.engine_version}" if attempt.engine_version else ""
        lines.append(f"engine:   {engines.title(attempt.engine)}{version}")
    if status.broken_lines:
        lines.append(f"broken:   {status.broken_lines} lines of {job.metrics.name} can't be read")
    lines.append(f"files:    {job.path}")
    if status.state is RunState.KILLED:
        lines.append(f"Go on:    caffe-batch train {job.path}")
    return lines

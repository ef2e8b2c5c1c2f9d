"""How a training ended: a result, or an error that says what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from caffe_batch.engines.base import RUN_AGAIN, Engine
from caffe_batch.errors import CaffeBatchError, InputError, Option, Text, TrainingError
from caffe_batch.jobs.ending import Ending, EndReason
from caffe_batch.jobs.metrics import NetTestMetrics
from caffe_batch.jobs.record import JobState

#: The endings that aren't failures.
STATES = {
    EndReason.FINISHED: JobState.FINISHED,
    EndReason.INTERRUPTED: JobState.INTERRUPTED,
}


@dataclass(frozen=True)
class Outcome:
    """How ``train`` ended; failures are raised instead.

    Attributes:
        state: FINISHED or INTERRUPTED.
        update, updates: Updates done, and to do in total.
        scores: Outputs of the last test.
        ran: False if the job had already been finished.
        notes: What else there is to say, one sentence each.
    """

    state: JobState
    update: int
    updates: int
    scores: tuple[NetTestMetrics, ...]
    ran: bool = True
    notes: tuple[str, ...] = ()


def failure(
    engine: Engine,
    ending: Ending,
    update: int,
    updates: int,
    log: Path,
    tail: Sequence[str],
    *,
    missing: Sequence[str],
    again: str,
) -> CaffeBatchError:
    """The error for an ending.

    Args:
        engine: What trained.
        ending: How the last worker ended.
        update: Updates done.
        updates: Updates to do in total.
        log: The engine's log.
        tail: Its last lines, oldest first.
        missing: Files that the net names and that don't exist.
        again: What happens if it is run again, in a sentence.
    """
    if ending.reason is EndReason.REFUSED:
        hints: Mapping[str, Text] = {
            "device": [Option("cpu", True), " trains on the CPU."],
            "weights": "Give weights of this net.",
        }
        return InputError(ending.detail, hint=hints.get(ending.refused))
    hint = engine.hints.get(ending.reason)
    if hint is not None and ending.reason in RUN_AGAIN:
        hint = [*([hint] if isinstance(hint, str) else hint), f" {again}"]
    if missing:
        hint = f"Missing: {', '.join(missing)}."
    lines = "".join(f"\n  {line}" for line in engine.last_lines(tail))
    return TrainingError(
        f"{engine.title} stopped at update {update} of {updates}: {ending.reason.value}: "
        f"{ending.detail}\nThe last lines of {log}:{lines}",
        hint=hint,
    )


def record_lost(error: OSError, before: Ending | None = None) -> Ending:
    """The ending of a run that can't write one of its files; ``before`` is how it had ended.

    Raises:
        OSError: It names no file: it comes from the terminal.
    """
    if error.filename is None:
        raise error
    if before and before.reason is EndReason.RECORD_LOST:
        return before
    detail, status = f"{error.filename}: {error.strerror}", before.status if before else 0
    if before and before.reason not in STATES:
        detail += f"; before that: {before.reason.value}: {before.detail}"
    return Ending(EndReason.RECORD_LOST, detail, status)

"""``caffe-batch train --on-end``: runs a user's command after the training."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING

import click

from caffe_batch.errors import CaffeBatchError, DoesNotFitError, TrainingError
from caffe_batch.terminal import one_line

if TYPE_CHECKING:
    from caffe_batch.api import Job

#: The reason given for an exit code if job.json has none.
_WORDS = {0: "finished", 130: "interrupted"}


class OnEnd:
    """Runs a shell command once the program has reported how a training ended.

    It runs if a training has begun or there was nothing left to train. It doesn't run if the
    training was refused, since another one may be running in the directory. What it prints goes to
    stderr. If it fails, a warning says so, and the exit code stays that of the training.

    Its environment has in addition:

    - ``CAFFE_BATCH_JOB``: the job directory, an absolute path
    - ``CAFFE_BATCH_REASON``: ``finished``, ``interrupted``, the reason of the last attempt in
      job.json (``out of GPU memory``, ``diverged``, ...), or ``failed``
    - ``CAFFE_BATCH_EXIT_CODE``: the exit code of ``train``

    Args:
        command: What ``sh -c`` gets; None if nothing is to be run.
        job: The job.
    """

    def __init__(self, command: str | None, job: Job) -> None:
        self._command, self._job = command, job
        self._begun = False
        self._last_before = self._last_attempt() if command else None

    def __call__(self, *_: object) -> None:
        """Note that the training has begun; a training calls it as an observer."""
        self._begun = True

    def __enter__(self) -> OnEnd:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Note how the training itself ended; nothing runs yet."""
        self._begun |= error is None or isinstance(error, (TrainingError, DoesNotFitError))

    def run(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Run the command, as the last thing that the program does, however it ends."""
        if self._command is None or not self._begun:
            return
        from caffe_batch import api

        code = _exit_code(error)
        environment = {
            **os.environ,
            "CAFFE_BATCH_JOB": str(self._job.path),
            "CAFFE_BATCH_REASON": self._reason(code),
            "CAFFE_BATCH_EXIT_CODE": str(code),
        }
        sys.stdout.flush()
        try:
            how = api.run_shell(self._command, environment, sys.stderr.fileno())
        except KeyboardInterrupt:
            how = "was interrupted"
        if how is not None:
            text = f"warning: the command of --on-end {how}: {self._command}"
            click.echo(one_line(text), err=True)

    def _reason(self, code: int) -> str:
        last = self._last_attempt()
        if code in _WORDS or last is None or last == self._last_before or not last[1]:
            return _WORDS.get(code, "failed")
        return last[1]

    def _last_attempt(self) -> tuple[str, str | None] | None:
        """When it was started, and why it ended."""
        try:
            record = self._job.directory.read_record()
        except (CaffeBatchError, OSError):
            return None
        if record is None or not record.attempts:
            return None
        attempt = record.attempts[-1]
        return attempt.started, attempt.ending.value if attempt.ending else None


def after_the_end(ctx: click.Context, command: str | None, job: Job) -> OnEnd:
    """The command, if there is one, to run when the program has printed everything."""
    until_the_end: ExitStack = ctx.find_root().obj
    made = OnEnd(command, job)
    until_the_end.push(made.run)
    return made


def _exit_code(error: BaseException | None) -> int:
    """The exit code of a program that this error ends."""
    if error is None:
        return 0
    if isinstance(error, KeyboardInterrupt):
        return 130
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return 1

"""The curves of a run for TensorBoard, written while the run continues.

The event file is derived from metrics.jsonl. A run that continues from a snapshot replaces
metrics.jsonl; it then gets a new event file with everything from the first update on. That file
begins with a session start at step 0, which makes TensorBoard discard what it has read from the
earlier files: each step has one value, whatever happened during the run. (The old files stay: a
TensorBoard that has one of them open would stop reading if it were deleted.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from caffe_batch.errors import InputError, Option
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.metrics import Metrics, MetricsFollower, NetTestMetrics, UpdateMetrics
from caffe_batch.training.progress import Progress

if TYPE_CHECKING:
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

#: Seconds until written events can be read.
_FLUSH_S = 5


class TensorBoardFiles:
    """Writes the event file of a run; a context manager, and an observer for ``train``.

    A step is an update. The time of an event is the start of the first attempt plus the seconds
    spent training until then, so that TensorBoard's relative time has no gaps where nothing ran.

    Args:
        job: The job whose metrics to write; the files go to its ``tensorboard`` folder.

    Raises:
        InputError: The package tensorboard is not installed.
    """

    def __init__(self, job: JobDirectory) -> None:
        try:
            import tensorboard.summary.writer.event_file_writer  # noqa: F401
        except ImportError as error:
            raise InputError(
                [Option("tensorboard"), " needs the package tensorboard"],
                hint="pip install 'caffe-batch[tensorboard]'",
            ) from error
        self._job = job
        self._metrics = MetricsFollower(job.metrics)
        self._writer: EventFileWriter | None = None
        self._began = 0.0
        self._before: UpdateMetrics | None = None

    def __enter__(self) -> TensorBoardFiles:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._write_news()
            self._close()
        self._metrics.close()

    def __call__(self, progress: Progress) -> None:
        """Write the new lines of metrics.jsonl."""
        if self._writer is None:
            self._open()
        self._write_news()

    def _open(self) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        record = self._job.read_record()
        first = record.attempts[0].started if record and record.attempts else None
        now = datetime.now().astimezone()
        self._began = (datetime.fromisoformat(first) if first else now).timestamp()
        self._before = None
        writer = EventFileWriter(str(self._job.tensorboard), flush_secs=_FLUSH_S)
        start = SessionLog(status=SessionLog.START)
        writer.add_event(Event(wall_time=self._began, step=0, session_log=start))
        self._writer = writer

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer = None

    def _write_news(self) -> None:
        replaced, lines = self._metrics.read()
        if replaced:
            self._close()
            self._open()
        self._write(lines)

    def _write(self, lines: Sequence[Metrics]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        for line in lines:
            values = [Summary.Value(tag=tag, simple_value=value) for tag, value in self._of(line)]
            if values and self._writer is not None:
                self._writer.add_event(
                    Event(
                        wall_time=self._began + line.seconds,
                        step=line.update,
                        summary=Summary(value=values),
                    )
                )

    def _of(self, line: Metrics) -> Iterator[tuple[str, float]]:
        """The scalars of one metrics line."""
        if isinstance(line, NetTestMetrics):
            yield test_tag(line), math.nan if line.value is None else line.value
        elif isinstance(line, UpdateMetrics):
            yield "train/loss", math.nan if line.loss is None else line.loss
            yield "train/learning_rate", line.learning_rate
            if line.effective_batch is not None:
                yield "train/effective_batch", line.effective_batch
            before, self._before = self._before, line
            if before is None or line.seconds <= before.seconds:
                return
            seconds = line.seconds - before.seconds
            if line.samples is None or before.samples is None:
                yield "train/updates_per_s", (line.update - before.update) / seconds
            else:
                yield "train/samples_per_s", (line.samples - before.samples) / seconds


def test_tag(line: NetTestMetrics) -> str:
    """The TensorBoard tag of a test output: net, blob, and the number of the output."""
    return f"test_{line.test_net}/{line.output}_{line.index}"

"""Worker lines and Caffe's log lines as events; the log is one that real Caffe wrote."""

from __future__ import annotations

import math
import re

import pytest

from caffe_batch.device import Device
from caffe_batch.engines.caffe.log_lines import (
    GlogLine,
    read_glog_line,
    read_log_line,
)
from caffe_batch.engines.events import (
    Built,
    Finished,
    LossRecord,
    NetTestOutput,
    NetTestStarted,
    Refused,
    SnapshotTaken,
    Started,
    Stopped,
    Updated,
    WorkerEvent,
    read_worker_line,
)
from caffe_batch.errors import TrainingError
from tests.planned_jobs import FinishedJob

PREFIX = "I0412 09:00:00.123456    77 solver.cpp:414] "


@pytest.mark.parametrize(
    ("line", "event"),
    [
        (
            '{"event": "started", "engine_version": "1.0.0", "python_version": "3.9.2", '
            '"device": "CPU", "choices": ["because"]}',
            Started("1.0.0", "3.9.2", Device.CPU, ("because",)),
        ),
        ('{"event": "built", "update": 20}', Built(20)),
        ('{"event": "built", "update": 0, "choices": ["so"]}', Built(0, ("so",))),
        (
            '{"event": "updated", "update": 7, "seconds": 2.5, "records": [[5, 0.5, 1.25]]}',
            Updated(7, 2.5, (LossRecord(5, 0.5, 1.25),)),
        ),
        (
            '{"event": "snapshot", "update": 7, "state": "a_iter_7.solverstate"}',
            SnapshotTaken(7, "a_iter_7.solverstate"),
        ),
        ('{"event": "refused", "why": "no GPU"}', Refused("no GPU")),
        ('{"event": "stopped", "update": 7}', Stopped(7)),
        ('{"event": "finished", "update": 9}', Finished(9)),
    ],
)
def test_worker_lines(line: str, event: WorkerEvent) -> None:
    assert read_worker_line(line) == event


@pytest.mark.parametrize(
    "line",
    ["", "loss = 0.5", "[]", "{}", '{"event": "dance"}', '{"event": "built"}', '{"update": 1}'],
)
def test_other_worker_lines_are_errors(line: str) -> None:
    with pytest.raises(TrainingError, match=f"isn't an event: {re.escape(repr(line))}"):
        read_worker_line(line)


def test_the_tests_in_a_real_log(finished: FinishedJob) -> None:
    events = [read_log_line(line) for line in finished.job.log.read_text().splitlines()]
    heard = [event for event in events if event is not None]
    starts = [event for event in heard if isinstance(event, NetTestStarted)]
    assert starts == [NetTestStarted(update, 0) for update in (0, 20, 40, 60)]
    outputs = [event for event in heard if isinstance(event, NetTestOutput)]
    assert [(o.index, o.name, o.is_loss) for o in outputs] == 4 * [
        (0, "accuracy", False),
        (1, "loss", True),
    ]
    assert outputs[0].value < 0.5 < outputs[-2].value <= 1
    assert outputs[1].value > 1 > outputs[-1].value > 0


@pytest.mark.parametrize(
    ("text", "event"),
    [
        ("Iteration 1500, Testing net (#2)", NetTestStarted(1500, 2)),
        ("    Test net output #3: top 5 = a = 1e-07", NetTestOutput(3, "top 5 = a", 1e-7, False)),
        (
            "    Test net output #0: loss = 2.5 (* 0.3 = 0.75 loss)",
            NetTestOutput(0, "loss", 2.5, True),
        ),
        ("    Test net output #0: loss = inf", NetTestOutput(0, "loss", math.inf, False)),
        ("    Train net output #0: loss = 2.5 (* 1 = 2.5 loss)", None),
        ("Iteration 1500, loss = 0.25", None),
        ("Iteration 1500, lr = 0.01", None),
    ],
)
def test_log_lines(text: str, event: object) -> None:
    assert read_log_line(PREFIX + text) == event
    assert read_log_line(text) is None  # a Python layer may print anything


def test_a_test_output_that_is_not_a_number() -> None:
    event = read_log_line(PREFIX + "    Test net output #0: loss = -nan (* 1 = -nan loss)")
    assert isinstance(event, NetTestOutput)
    assert math.isnan(event.value)


@pytest.mark.parametrize("date", ["0412", "20240412"])
def test_newer_glog_writes_the_year(date: str) -> None:
    line = f"I{date} 09:00:00.123456    77 solver.cpp:347] Iteration 9, Testing net (#0)"
    assert read_log_line(line) == NetTestStarted(9, 0)
    assert read_glog_line(line) == GlogLine(
        "I", f"{date} 09:00:00.123456", "77", "solver.cpp:347", "Iteration 9, Testing net (#0)"
    )


@pytest.mark.parametrize(
    "line",
    ["", "F", "Iteration 9", "X0412 09:00:00.1 7 a.cpp:1] x", "F0412 09:00:00.1 7 a.cpp] x",
     "F041 09:00:00.1 7 a.cpp:1] x"],
)  # fmt: skip
def test_lines_that_glog_did_not_write(line: str) -> None:
    assert read_glog_line(line) is None


@pytest.mark.parametrize("printed", ["50 %", "50 % ", "I: "])
def test_what_a_python_layer_printed_without_a_line_feed_stands_before_a_line(printed: str) -> None:
    written = read_glog_line(printed + PREFIX + "Iteration 9, Testing net (#0)")
    assert written == read_glog_line(PREFIX + "Iteration 9, Testing net (#0)")

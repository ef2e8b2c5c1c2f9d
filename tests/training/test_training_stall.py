"""Workers that hang: when that is recognised, and what is done about it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from caffe_batch.engines.caffe.snapshots import list_snapshots
from caffe_batch.errors import TrainingError
from caffe_batch.jobs.ending import Ending, EndReason
from caffe_batch.jobs.record import JobState
from caffe_batch.runtimes import Runtime
from caffe_batch.runtimes.interpreter import Interpreter
from caffe_batch.training import run, stall
from caffe_batch.training.options import Options
from caffe_batch.training.stall import StallWatch
from caffe_batch.training.supervisor import train
from tests.both_engines import runtime as runtime
from tests.holding import Hold
from tests.planned_jobs import NET, write_job, write_lmdb

FAKE = Path(__file__).with_name("fake_worker.py")

SLEEPY = """
import time
import caffe

class Sleepy(caffe.Layer):
    passes = 0

    def setup(self, bottom, top):
        pass

    def reshape(self, bottom, top):
        pass

    def forward(self, bottom, top):
        self.passes += 1
        if self.passes in {passes}:
            time.sleep({seconds})

    def backward(self, top, propagate_down, bottom):
        pass
"""
LAYER = """
layer { name: "sleepy" type: "Python" bottom: "label"
  python_param { module: "sleepy_layer" layer: "Sleepy" } include { phase: PHASE } }
"""


def clock(*seconds: float) -> Iterator[float]:
    return iter((0.0, *seconds))


def look(watch: StallWatch, times: int, *, spoke: bool = False) -> list[bool]:
    return [watch.look(spoke=spoke) for _ in range(times)]


def test_silence_is_measured_and_asked_about_twice() -> None:
    watch = StallWatch(5.0, clock(*range(1, 200)).__next__)
    watch.begin()
    assert look(watch, 1, spoke=True) == [False]
    assert look(watch, 5) == [False] * 5
    assert look(watch, 1) == [True]
    assert look(watch, 30) == [False] * 30  # it has time to take a snapshot
    assert look(watch, 2) == [True, True]


def test_a_machine_that_was_asleep_is_not_a_hang() -> None:
    watch = StallWatch(5.0, clock(1, 10_000, 10_001).__next__)
    watch.begin()
    assert look(watch, 3) == [False] * 3
    assert watch.silent_s == 1 + stall.MOST_COUNTED_S + 1


def test_the_default_follows_the_longest_silence() -> None:
    ticks = [1.0 * second for second in range(1, 200)]
    watch = StallWatch(None, clock(*ticks).__next__)
    assert watch.timeout_s == 600
    look(watch, 99)
    look(watch, 1, spoke=True)  # it took 100 s, to build the nets for instance
    assert watch.timeout_s == 2000


def test_building_the_nets_may_take_its_time() -> None:
    watch = StallWatch(0.5, clock(*range(1, 200)).__next__)
    assert look(watch, 100) == [False] * 100
    watch.begin()
    assert look(watch, 1) == [True]


def test_an_ending_is_judged() -> None:
    stopped = Ending(EndReason.INTERRUPTED, "stopped after update 9", 40)
    finished = Ending(EndReason.FINISHED, "all updates are done", 0)
    watch = StallWatch(0.5, clock(1, 2, 3).__next__)
    watch.begin()
    assert watch.judge(stopped) is stopped
    look(watch, 1)
    assert watch.judge(finished) is finished
    assert watch.judge(stopped) == Ending(
        EndReason.STALLED, "silent for 1 s, then asked to stop: stopped after update 9", 40
    )


def test_a_worker_that_hears_nothing_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_WORKER", "hang")
    monkeypatch.setattr(stall, "GRACE_S", 0.4)
    job = write_job(tmp_path)
    with pytest.raises(
        TrainingError, match=r"at update 3 of 60: no progress: silent for \d+ s, then asked to "
        r"stop: it did not, and was killed\nThe last lines of .*caffe\.log:\n  I am busy"
    ) as failure:  # fmt: skip
        train(job, Interpreter(sys.executable), Options(stall_timeout_s=0.7), script=FAKE)
    assert [option.name for option in failure.value.remedies] == ["stall_timeout"]
    record = job.read_record()
    assert record is not None
    assert (record.state, record.attempts[0].ending) == (JobState.FAILED, "no progress")


def sleepy_net(folder: Path, phase: str, passes: set[int], seconds: float) -> str:
    (folder / "sleepy_layer.py").write_text(SLEEPY.format(passes=passes, seconds=seconds))
    data = write_lmdb(folder / "data")
    return NET.format(data=data, batch_size=6, width=8) + LAYER.replace("PHASE", phase)


@pytest.mark.both
def test_a_snapshot_is_taken_when_it_comes_back(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = write_job(tmp_path)
    hold = Hold(job, 6)
    now = 0.0

    def clock() -> float:
        """Time passes while the worker is held, and at no other."""
        nonlocal now
        now += stall.MOST_COUNTED_S * hold.reached
        return now

    monkeypatch.setattr(run, "StallWatch", partial(StallWatch, clock=clock))
    with pytest.raises(TrainingError, match="asked to stop: stopped after update 6"):
        train(job, runtime, Options(stall_timeout_s=3 * stall.MOST_COUNTED_S))
    assert [snapshot.update for snapshot in list_snapshots(job.snapshots)] == [6]
    monkeypatch.undo()
    hold.release()
    assert train(job, runtime).update == 60
    record = job.read_record()
    assert record is not None
    assert [attempt.first_update for attempt in record.attempts] == [0, 6]


@pytest.mark.parametrize(
    ("phase", "changes"), [("TRAIN", {"iter_size": 15}), ("TEST", {"test_iter": 15})]
)
def test_slow_is_not_a_hang(
    phase: str, changes: dict[str, int], runtime: Runtime, tmp_path: Path
) -> None:
    """An update, or a test, of many passes takes longer than the timeout; no pass does."""
    net = sleepy_net(tmp_path, phase, set(range(2, 14)), 0.7)
    settings: dict[str, object] = {"max_iter": 3, **changes}
    job = write_job(tmp_path, net=net, **settings)  # type: ignore[arg-type]
    options = Options(stall_timeout_s=7.0)
    assert train(job, runtime, options).state is JobState.FINISHED

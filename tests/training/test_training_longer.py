"""A run that goes on for longer than it was planned, judged by real Caffe."""

from __future__ import annotations

import os
import re
import signal
from array import array
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from caffe_batch.engines.caffe.snapshots import list_snapshots
from caffe_batch.errors import DoesNotFitError, InputError, TrainingError
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.ending import Ending, EndReason
from caffe_batch.jobs.metrics import NetTestMetrics, UpdateMetrics, read_metrics
from caffe_batch.jobs.record import Attempt, JobState
from caffe_batch.prototxt import read_solver
from caffe_batch.runtimes import Runtime
from caffe_batch.schema import caffe_pb2
from caffe_batch.training.longer import Longer
from caffe_batch.training.options import Options
from caffe_batch.training.outcome import Outcome
from caffe_batch.training.recovery import Recovery
from caffe_batch.training.supervisor import train
from tests.both_engines import runtime as runtime
from tests.holding import Hold, WhenHeld
from tests.planned_jobs import RECORDS, attempts_of, write_job

_RATE = re.compile(r"Iteration (\d+), lr = (\S+)")


def longer(job: JobDirectory, runtime: Runtime, **more: Any) -> Outcome:
    return train(job, runtime, Options(longer=Longer(**more)))


def rates_of_caffe(job: JobDirectory) -> dict[int, float]:
    """The learning rates that Caffe itself logs, the newest for each update."""
    return {int(update): float(rate) for update, rate in _RATE.findall(job.log.read_text())}


def rates_measured(job: JobDirectory) -> dict[int, float]:
    lines = [line for line in read_metrics(job.metrics) if isinstance(line, UpdateMetrics)]
    return {line.update - 1: line.learning_rate for line in lines}


def updates_tested(job: JobDirectory) -> list[int]:
    lines = [line for line in read_metrics(job.metrics) if isinstance(line, NetTestMetrics)]
    return sorted({line.update for line in lines})


def weights(job: JobDirectory) -> list[bytes]:
    """The last weights, bit by bit."""
    net = caffe_pb2.NetParameter()
    net.ParseFromString(list_snapshots(job.snapshots)[-1].weights.read_bytes())
    return [array("f", blob.data).tobytes() for layer in net.layer for blob in layer.blobs]


def folder(tmp_path: Path, name: str) -> Path:
    made = tmp_path / name
    made.mkdir()
    return made


def test_a_finished_run_equals_one_that_was_longer_from_the_start(
    tmp_path: Path, runtime: Runtime
) -> None:
    """The test of a run in between reads records as well, and so do those after it."""
    whole = write_job(folder(tmp_path, "whole"), max_iter=40)
    train(whole, runtime)
    job = write_job(folder(tmp_path, "longer"), max_iter=20)
    assert train(job, runtime).update == 20
    outcome = longer(job, runtime, updates=20)
    assert (outcome.update, outcome.updates) == (40, 40)
    assert weights(job) == weights(whole)
    assert updates_tested(job) == updates_tested(whole) == [0, 20, 40]
    assert [score.value for score in outcome.scores] == [
        line.value
        for line in read_metrics(whole.metrics)
        if isinstance(line, NetTestMetrics) and line.update == 40
    ]


def test_it_is_a_change_of_the_plan(tmp_path: Path, runtime: Runtime) -> None:
    job = write_job(tmp_path, max_iter=20)
    train(job, runtime)
    longer(job, runtime, epochs=Fraction(2))
    more = round(2 * RECORDS / 18)
    assert read_solver(job.solver).max_iter == 20 + more
    (change,) = (each for each in job.read_plan().changes if each["field"] == "max_iter")
    assert (change["from"], change["to"]) == (20, 20 + more)
    assert change["reason"] == "trained for 2 epochs longer"


def test_poly_follows_the_longer_curve(tmp_path: Path, runtime: Runtime) -> None:
    job = write_job(
        tmp_path, max_iter=20, display=1, lr_policy='"poly"', power=2.0, gamma=None, stepsize=None
    )
    train(job, runtime)
    outcome = longer(job, runtime, in_all=40)
    assert outcome.update == 40
    caffe, own = rates_of_caffe(job), rates_measured(job)
    assert caffe[20] == pytest.approx(0.1 * (1 - 20 / 40) ** 2, rel=1e-5)
    assert caffe[39] == pytest.approx(0.1 * (1 / 40) ** 2, rel=1e-5)
    assert own == pytest.approx({update: caffe[update] for update in own}, rel=1e-5)
    (note,) = (each for each in attempts_of(job)[-1].choices if "poly" in each)
    assert "the next update has 0.025 instead of 0, the last one 6.25e-05" in note


def test_multistep_drops_where_the_solver_says(tmp_path: Path, runtime: Runtime) -> None:
    """A step beyond the old end comes true; Caffe's own counter of them is in the snapshot."""
    job = write_job(
        tmp_path, max_iter=20, display=1, lr_policy='"multistep"', stepsize=None,
        stepvalue="10 stepvalue: 30",
    )  # fmt: skip
    train(job, runtime)
    longer(job, runtime, updates=20)
    caffe, own = rates_of_caffe(job), rates_measured(job)
    assert [caffe[update] for update in (9, 10, 20, 29, 30, 39)] == pytest.approx(
        [0.1, 0.05, 0.05, 0.05, 0.025, 0.025]
    )
    assert own == pytest.approx({update: caffe[update] for update in own}, rel=1e-5)


def test_the_last_stage_of_a_growing_schedule_goes_on(tmp_path: Path, runtime: Runtime) -> None:
    job = write_job(
        tmp_path, max_iter=10, iter_size=1, test_interval=10,
        later=[{"max_iter": 20, "iter_size": 3}],
    )  # fmt: skip
    train(job, runtime)
    outcome = longer(job, runtime, updates=10)
    assert (outcome.update, read_solver(job.solver).max_iter) == (30, 10)
    last = [line for line in read_metrics(job.metrics) if isinstance(line, UpdateMetrics)][-1]
    assert (last.update, last.samples) == (30, 10 * 6 + 20 * 18)
    assert updates_tested(job)[-1] == 30


def test_the_last_update_stays_tested(tmp_path: Path, runtime: Runtime) -> None:
    """15 isn't a multiple of 10: the interval moves, as it is said, rather than the length."""
    job = write_job(tmp_path, max_iter=10, test_interval=10)
    train(job, runtime)
    longer(job, runtime, updates=5)
    assert read_solver(job.solver).test_interval == 15
    assert updates_tested(job)[-1] == 15
    (note,) = (each for each in attempts_of(job)[-1].choices if each.startswith("Tests come"))
    assert "every 15 updates instead of 10" in note


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"in_all": 20}, "a run of 20 updates: a longer one has more than the 20"),
        ({"in_all": 7}, "a run of 7 updates"),
        ({"updates": 0}, "a run of 20 updates"),
        ({"updates": 2**31}, "at most 2,147,483,647"),
    ],
)
def test_no_length_to_go_on_to(
    tmp_path: Path, runtime: Runtime, more: dict[str, int], message: str
) -> None:
    job = write_job(tmp_path, max_iter=20)
    texts = {path: path.read_bytes() for path in (job.solver, job.plan)}
    with pytest.raises(InputError, match=message):
        longer(job, runtime, **more)
    assert {path: path.read_bytes() for path in texts} == texts


def test_a_run_without_a_snapshot_is_not_begun_again(tmp_path: Path, runtime: Runtime) -> None:
    job = write_job(tmp_path, max_iter=20, snapshot_after_train="false")
    train(job, runtime)
    before = job.metrics.read_bytes()
    with pytest.raises(InputError, match="the run left no snapshot"):
        longer(job, runtime, updates=20)
    assert (job.metrics.read_bytes(), read_solver(job.solver).max_iter) == (before, 20)


def what_decides(job: JobDirectory) -> dict[str, bytes]:
    """The files that say what a run of a job does."""
    return {path.name: path.read_bytes() for path in (job.solver, job.net, job.plan)}


@pytest.mark.both
def test_what_fails_before_its_first_update_can_be_asked_for_again(
    tmp_path: Path, runtime: Runtime
) -> None:
    """The worker of the second and third run dies at once: the fourth is longer by 20, not 60."""
    job = write_job(tmp_path, max_iter=20)
    train(job, runtime)
    before = what_decides(job)
    dies = tmp_path / "dies.py"
    dies.write_text("raise SystemExit(3)\n")
    for number in (2, 3):
        with pytest.raises(TrainingError) as failure:
            train(job, runtime, Options(longer=Longer(updates=20)), script=dies)
        said = "No update was made, so the run ends at update 20 as before."
        assert said in failure.value.notes
        assert what_decides(job) == before
        record = job.read_record()
        assert record is not None
        assert len(record.attempts) == number
        assert (record.state, record.updates_done, record.updates) == (JobState.FINISHED, 20, 20)
    assert not train(job, runtime).ran
    assert longer(job, runtime, updates=20).update == 40


def test_smaller_splits_in_vain_are_undone_with_it(
    tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = write_job(tmp_path, max_iter=20)
    train(job, runtime)
    before = what_decides(job)
    tries = []

    class InVain(Recovery):
        def remedy(self, ending: Ending, attempt: Attempt) -> str | None:
            memory = replace(ending, reason=EndReason.HOST_MEMORY)
            tries.append(attempt.batch_size)
            return super().remedy(memory, attempt)

    monkeypatch.setattr("caffe_batch.training.supervisor.Recovery", InVain)
    dies = tmp_path / "dies.py"
    dies.write_text("raise SystemExit(3)\n")
    with pytest.raises(DoesNotFitError):
        train(job, runtime, Options(longer=Longer(updates=20)), script=dies)
    assert (tries[0], tries[-1]) == (6, 1)
    assert what_decides(job) == before


def test_a_run_that_fails_after_an_update_stays_longer(tmp_path: Path, runtime: Runtime) -> None:
    """It goes on without the option; with it, it is longer still."""
    job = write_job(tmp_path, max_iter=20, snapshot=5)
    train(job, runtime)
    hold = Hold(job, 10)

    def kill_worker() -> None:
        os.kill(attempts_of(job)[-1].pid, signal.SIGKILL)

    with pytest.raises(TrainingError):
        train(job, runtime, Options(longer=Longer(updates=20)), WhenHeld(hold, kill_worker))
    assert read_solver(job.solver).max_iter == 40
    assert train(job, runtime).update == 40


def test_epochs_need_the_records(tmp_path: Path, runtime: Runtime) -> None:
    job = write_job(tmp_path, max_iter=20)
    job.plan.write_text(job.plan.read_text().replace(f'"train_records": {RECORDS}, ', ""))
    with pytest.raises(InputError, match="the length of an epoch is not known") as failure:
        longer(job, runtime, epochs=Fraction(1))
    assert [each.name for each in failure.value.remedies] == ["updates"]

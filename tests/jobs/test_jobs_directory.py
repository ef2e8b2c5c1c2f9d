"""The job directory: plan facts, the record, the lock, clearing."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from caffe_batch.device import Device
from caffe_batch.engines.caffe.snapshots import list_snapshots
from caffe_batch.engines.snapshots import Snapshot
from caffe_batch.errors import InputError
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.lock import JobBusyError
from caffe_batch.jobs.record import Attempt, JobRecord, JobState
from tests.planned_jobs import write_job

ATTEMPT = Attempt(
    number=1,
    started="2024-05-01T12:00:00+00:00",
    runtime="debian-11",
    pid=77,
    threads=1,
    working_directory="/data",
    resumed_from=None,
    first_update=0,
    last_update=12,
    device=Device.CPU,
    choices=("Training on the CPU: because.",),
)

RECORD = JobRecord(
    state=JobState.INTERRUPTED,
    updates=60,
    updates_done=12,
    host="here",
    caffe_batch_version="0.1.0",
    seed=None,
    attempts=(ATTEMPT, replace(ATTEMPT, number=2, first_update=12)),
)

NET = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 } } }'


@pytest.fixture
def job(tmp_path: Path) -> JobDirectory:
    return write_job(tmp_path, net=NET)


def edit_plan(job: JobDirectory, **changes: object) -> None:
    plan = {**json.loads(job.plan.read_text()), **changes}
    kept = {key: value for key, value in plan.items() if value is not ...}
    job.plan.write_text(json.dumps(kept))


def test_plan_facts(job: JobDirectory, tmp_path: Path) -> None:
    edit_plan(job, mode="cpu")
    facts = job.read_plan()
    assert (facts.effective_batch, facts.batch_size, facts.iter_size, facts.gpus) == (18, 6, 3, 1)
    assert facts.train_records == 70
    assert facts.working_directory == tmp_path
    assert facts.cpu_mode
    assert facts.summary == "effective batch 18 = batch_size 6 x iter_size 3"


def test_plan_facts_without_the_optional_keys(job: JobDirectory) -> None:
    edit_plan(job, train_records=..., working_directory=..., summary="one line")
    facts = job.read_plan()
    assert facts.train_records is None
    assert facts.working_directory == job.path
    assert not facts.cpu_mode
    assert facts.summary == "one line"


@pytest.mark.parametrize("name", ["plan.json", "solver.prototxt", "net.prototxt"])
def test_a_missing_file_is_named(job: JobDirectory, name: str) -> None:
    (job.path / name).unlink()
    with pytest.raises(InputError, match=f"there is no {name}\nWrite the directory with"):
        job.read_plan()


def test_a_plan_without_a_key_is_not_a_plan(job: JobDirectory) -> None:
    edit_plan(job, iter_size=...)
    with pytest.raises(InputError, match=r"plan\.json: there is no iter_size\n"):
        job.read_plan()


@pytest.mark.parametrize(
    ("text", "message"), [("{", "not JSON"), ("[]", "the file should be a JSON object, found []")]
)
def test_a_plan_that_is_not_a_json_object(job: JobDirectory, text: str, message: str) -> None:
    job.plan.write_text(text)
    with pytest.raises(InputError, match=re.escape(message)):
        job.read_plan()


def test_record_round_trip(job: JobDirectory) -> None:
    assert job.read_record() is None
    job.write_record(RECORD)
    assert job.read_record() == RECORD
    assert json.loads(job.record.read_text())["state"] == "interrupted"
    assert sorted(path.name for path in job.path.glob("*job.json*")) == ["job.json"]


def test_a_record_of_an_older_version_has_one_stage(job: JobDirectory) -> None:
    job.write_record(RECORD)
    content = json.loads(job.record.read_text())
    del content["format"]
    for attempt in content["attempts"]:
        del attempt["stage"], attempt["engine"]
    job.record.write_text(json.dumps(content))
    assert job.read_record() == RECORD


def test_a_record_of_another_kind_is_an_error(job: JobDirectory) -> None:
    job.record.write_text('{"state": "sleeping", "attempts": []}')
    with pytest.raises(InputError, match=r'state should be one of .*, found "sleeping"'):
        job.read_record()


def test_a_directory_has_one_train_at_a_time(job: JobDirectory) -> None:
    with (
        job.lock(),
        pytest.raises(JobBusyError, match="another `caffe-batch train` runs here"),
        JobDirectory(job.path).lock(),
    ):
        pytest.fail("locked twice")
    with job.lock() as again:
        assert again > 2


def test_results_are_all_but_the_plan(job: JobDirectory) -> None:
    planned = sorted(path.name for path in job.path.iterdir())
    job.write_record(RECORD)
    half = job.path / ".job.json.77.tmp"
    logs = (job.log.with_name(f"caffe.log.{end}") for end in (2, "new"))
    for file in (job.metrics, job.log, *logs, half):
        file.write_text("")
    job.snapshots.mkdir()
    (job.snapshots / "tiny_iter_5.caffemodel").touch()
    job.previous.set_aside()
    job.previous.forget()
    assert sorted(path.name for path in job.path.iterdir()) == planned


def test_snapshots_need_both_files_and_are_in_order(tmp_path: Path) -> None:
    names = [
        "a_iter_9.caffemodel",
        "a_iter_9.solverstate",
        "a_iter_100.caffemodel.h5",
        "a_iter_100.solverstate.h5",
        "a_iter_20.solverstate",  # its weights are missing
        "a_iter_30.caffemodel",  # its state is missing
        "a_iter_x.solverstate",
        "a_iter_x.caffemodel",
        "b_iter_2_iter_10.caffemodel",
        "b_iter_2_iter_10.solverstate",
    ]
    for name in names:
        (tmp_path / name).touch()
    found = list_snapshots(tmp_path)
    assert [snapshot.update for snapshot in found] == [9, 10, 100]
    assert found[2] == Snapshot(
        100, tmp_path / "a_iter_100.solverstate.h5", tmp_path / "a_iter_100.caffemodel.h5"
    )


def test_a_folder_that_is_not_there_has_no_snapshots(tmp_path: Path) -> None:
    assert list_snapshots(tmp_path / "none") == []

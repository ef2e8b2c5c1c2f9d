"""A full disk, a directory that can't be written, missing data: nothing is lost."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from caffe_batch.engines.caffe.snapshots import CORRUPT, list_snapshots
from caffe_batch.errors import TrainingError
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.metrics import UpdateMetrics, read_metrics
from caffe_batch.jobs.record import JobRecord, JobState
from caffe_batch.runtimes import Runtime
from caffe_batch.training.options import Options
from caffe_batch.training.progress import Progress
from caffe_batch.training.supervisor import train
from tests.both_engines import runtime as runtime
from tests.command import call
from tests.holding import LONG, Hold, WhenHeld
from tests.planned_jobs import write_job
from tests.training.small_sources import net, write_sources

#: A hidden layer this wide makes files of 2.2 MB, two a snapshot.
WIDTH = 14_000


@contextmanager
def mounted(folder: Path, size: str) -> Iterator[None]:
    """A file system of its own in a folder; the test is skipped where none can be mounted."""
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def remount(folder: Path, options: str) -> None:
    # With type and source, as in a namespace mount doesn't take its own word for the owner.
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"remount,{options}", "tmpfs", folder], check=True
    )


def record_of(job: JobDirectory) -> JobRecord:
    record = job.read_record()
    assert record is not None
    return record


def check_complete(job: JobDirectory, without: range = range(0)) -> None:
    lines = [line for line in read_metrics(job.metrics) if isinstance(line, UpdateMetrics)]
    assert {line.update for line in lines} | {*without} == set(range(1, 61))
    assert len(lines) == len({line.update for line in lines})
    assert record_of(job).state is JobState.FINISHED


@pytest.mark.mounts
def test_no_space_for_a_snapshot(runtime: Runtime, tmp_path: Path) -> None:
    job = write_job(tmp_path, snapshot=10, width=WIDTH)
    job.snapshots.mkdir()
    file = re.escape(str(job.snapshots / "tiny_iter_30."))
    with mounted(job.snapshots, "10M"):
        with pytest.raises(
            TrainingError,
            match=rf"at update 30 of 60: snapshot not written: {file}(caffemodel|solverstate): "
            "(Check failed: .*SerializeToOstream|No space left on device\n)",
        ) as failure:
            train(job, runtime)
        assert "Free some space" in str(failure.value.hint)
        assert [each.update for each in list_snapshots(job.snapshots)] == [10, 20]
        remount(job.snapshots, "size=40M")
        assert train(job, runtime).update == 60
        assert record_of(job).attempts[-1].first_update == 20
        check_complete(job)


@pytest.mark.mounts
@pytest.mark.parametrize("snapshot_format", ["BINARYPROTO", "HDF5"])
def test_no_space_for_anything(runtime: Runtime, tmp_path: Path, snapshot_format: str) -> None:
    """The worker has none for its snapshot and its log, the supervisor none for what it records."""
    job = write_job(tmp_path, snapshot=10, width=WIDTH, snapshot_format=snapshot_format)
    volume = tmp_path / "volume"
    volume.mkdir()
    with mounted(volume, "20M"):
        moved = JobDirectory(shutil.copytree(job.path, volume / "job"))
        done = call("train", moved.path)
        assert done.code == 4
        (message,) = re.findall("^caffe-batch: .*", done.err, re.MULTILINE)
        file = rf"{re.escape(str(moved.path))}/[\w./]+"
        assert re.search(
            rf"stopped at update \d+ of 60: (record|snapshot) not written: {file}: "
            "(No space left on device|Check failed: )",
            message,
        ), message
        assert done.err.endswith(
            "Free some space there, then run it again. "
            "It continues from the newest snapshot that is whole.\n"
        )
        assert "Traceback" not in done.err
        kept = list_snapshots(moved.snapshots)  # the last of them perhaps not whole
        recorded = [0, *(each.update for each in kept if each.record.exists())]
        remount(volume, "size=60M")
        seen: list[Progress] = []
        assert train(moved, runtime, observer=seen.append).update == 60
        first = record_of(moved).attempts[-1].first_update
        assert first in [each.update for each in kept[-2:]]
        # A snapshot without a record may be newer than the last line that could be written.
        check_complete(moved, without=range(recorded[-1] + 1, first + 1))


@pytest.mark.both
def test_a_snapshot_that_was_cut_short_stops_the_run(runtime: Runtime, tmp_path: Path) -> None:
    """As a full disk cuts it whose last bytes are only missed when the file is closed."""
    job = write_job(tmp_path, snapshot=20)
    state = job.snapshots / "tiny_iter_40.solverstate"
    hold = Hold(job, 30)
    written = state, job.snapshots / f".{state.name}.tmp"  # PyTorch renames it

    def fill() -> None:
        for file in written:
            file.symlink_to("/dev/full")  # what is written there is lost

    full = WhenHeld(hold, fill)
    with pytest.raises(TrainingError, match=r"snapshot not written"):
        train(job, runtime, observer=full)
    for left in job.snapshots.glob("*tiny_iter_40.solverstate*"):
        left.unlink()
    assert train(job, runtime).update == 60
    assert record_of(job).attempts[-1].first_update == 20
    check_complete(job)


@pytest.mark.mounts
def test_a_read_only_directory(tmp_path: Path) -> None:
    job = write_job(tmp_path)
    volume = tmp_path / "volume"
    volume.mkdir()
    with mounted(volume, "5M"):
        moved = JobDirectory(shutil.copytree(job.path, volume / "job"))
        before = sorted(moved.path.rglob("*"))
        remount(volume, "ro")
        done = call("train", moved.path)
        assert done.code == 1
        assert done.err == f"caffe-batch: {moved.worker_folder}: Read-only file system\n"
        assert sorted(moved.path.rglob("*")) == before


def test_data_that_is_gone_between_two_attempts(runtime: Runtime, tmp_path: Path) -> None:
    job = write_job(tmp_path, max_iter=30)
    train(job, runtime)
    job.solver.write_text(job.solver.read_text().replace("max_iter: 30", "max_iter: 60"))
    data = tmp_path / "data"
    data.rename(tmp_path / "elsewhere")
    with pytest.raises(TrainingError, match="at update 30 of 60: failed check") as failure:
        train(job, runtime)
    assert failure.value.hint == f"Missing: {data} (layer 'data')."
    assert [each.update for each in list_snapshots(job.snapshots)] == [30]
    (tmp_path / "elsewhere").rename(data)
    assert train(job, runtime).update == 60
    assert [attempt.first_update for attempt in record_of(job).attempts] == [0, 30, 30]
    assert not list(job.snapshots.glob(f"*{CORRUPT}"))
    check_complete(job)


def test_an_image_that_is_gone_while_it_trains(runtime: Runtime, tmp_path: Path) -> None:
    sources = tmp_path / "sources"
    write_sources(sources)
    job = write_job(
        tmp_path, net=net(sources, ["images"], 6, 4), max_iter=LONG, snapshot=10,
        test_iter=3, test_interval=LONG,
    )  # fmt: skip
    image, away = sources / "an image 17.png", tmp_path / "away.png"
    remove = WhenHeld(Hold(job, 21), lambda: image.rename(away))
    with pytest.raises(TrainingError, match=r"failed check: .*Could not load .*an image 17\.png"):
        train(job, runtime, Options(keep_last=2), remove)
    there = list_snapshots(job.snapshots)[-1].update
    assert there >= 20
    away.rename(image)
    job.solver.write_text(
        job.solver.read_text().replace(f"max_iter: {LONG}", f"max_iter: {there + 9}")
    )
    assert train(job, runtime).update == there + 9
    assert record_of(job).attempts[-1].first_update == there
    lines = [line for line in read_metrics(job.metrics) if isinstance(line, UpdateMetrics)]
    assert lines[-1].update == there + 9
    assert len(lines) == len({line.update for line in lines})

"""``caffe-batch train`` when something goes wrong: exit codes and messages, on real Caffe."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from caffe_batch.engines.caffe.snapshots import list_snapshots
from tests.command import call, spawn
from tests.planned_jobs import write_job

pytestmark = pytest.mark.usefixtures("runtime")


def test_no_split_that_fits_is_exit_code_3(tmp_path: Path) -> None:
    job = write_job(tmp_path, width=60_000_000, batch_size=2, iter_size=1)  # 8.4 GB of weights
    limited = 'ulimit -v 6000000 && exec "$0" -m caffe_batch train "$1" --quiet'
    done = spawn("sh", "-c", limited, sys.executable, job.path)
    assert done.code == 3, done.err
    assert "Out of host memory: continuing with batch_size 1 x iter_size 2 instead of 2" in done.err
    assert (
        "batch_size 1 is the smallest split of the effective batch 2. With it Caffe requests"
        in (done.err)
    )
    assert "Use a machine with more free memory" in done.err
    assert "Traceback" not in done.err


def test_a_divergence_is_exit_code_4(tmp_path: Path) -> None:
    job = write_job(tmp_path, base_lr=1e30)
    done = call("train", job.path)
    assert done.code == 4
    assert "diverged: after update " in done.err
    assert "the loss is nan" in done.err
    assert "--on-divergence rollback:0.5" in done.err


def test_options_that_go_to_the_training(tmp_path: Path) -> None:
    job = write_job(tmp_path, base_lr=1e30, max_iter=30, snapshot=5)
    done = call(
        "train", job.path, "--on-divergence", "rollback:1e-31", "--keep-last", 2,
        "--keep-every", 15, "--max-loss", 1e6, "--stall-timeout", 300,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "going back to the last good snapshot with base_lr 0.1" in done.err
    assert [snapshot.update for snapshot in list_snapshots(job.snapshots)] == [5, 15, 25, 30]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--on-divergence", "rollback"),
        ("--on-divergence", "rollback:2"),
        ("--on-divergence", "rollback:0"),
        ("--on-divergence", "rollback:nan"),
        ("--on-divergence", "continue"),
        ("--keep-last", "0"),
        ("--keep-every", "-5"),
        ("--stall-timeout", "0"),
    ],
)
def test_values_that_mean_nothing(option: str, value: str, tmp_path: Path) -> None:
    done = call("train", tmp_path, option, value)
    assert done.code == 2
    assert option in done.err
    assert value in done.err

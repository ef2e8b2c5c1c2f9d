"""``train`` with the noise scale: measured during the training, which stays the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from caffe_batch.engines.events import GradientNorms, read_worker_line
from caffe_batch.errors import InputError
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.metrics import (
    GradientMetrics,
    MetricsFile,
    NetTestMetrics,
    UpdateMetrics,
    gradient_metrics,
    last_scores,
    read_metrics,
    rewind,
)
from caffe_batch.planning.noise import Observation, estimate_noise_scale
from caffe_batch.reporting.loss_plot import draw
from caffe_batch.reporting.noise_view import training_noise
from caffe_batch.runtimes import Runtime
from caffe_batch.schema import caffe_pb2
from caffe_batch.training.options import Options
from caffe_batch.training.supervisor import train
from tests.both_engines import runtime as runtime
from tests.planned_jobs import write_job

# Gradients of single micro-batches, each from diffs that were set to zero; then Caffe's update.
BY_HAND = """
import json, sys, caffe
import numpy as np
solver = caffe.get_solver(sys.argv[1])
net = solver.net
blobs = [blob for blobs in net.params.values() for blob in blobs]
norms = []
for _ in range(int(sys.argv[2])):
    gradients = []
    for _ in range(int(sys.argv[3])):
        net.clear_param_diffs()
        net.forward()
        net.backward()
        gradients.append([blob.diff.copy() for blob in blobs])
    sums = [sum(parts) for parts in zip(*gradients)]
    for blob, total in zip(blobs, sums):
        blob.diff[...] = total
    def square(parts):
        return sum(float((part.astype(np.float64) ** 2).sum()) for part in parts)
    norms.append((
        sum(map(square, gradients)) / len(gradients), square(sums) / len(gradients) ** 2
    ))
    solver.apply_update()
print(json.dumps(norms))
"""

MEASURE = Options(noise_scale=True)


@pytest.fixture
def measured(runtime: Runtime, tmp_path: Path) -> JobDirectory:
    """A job that has finished, with every update measured."""
    (tmp_path / "measured").mkdir()
    job = write_job(tmp_path / "measured", snapshot=25)
    train(job, runtime, MEASURE, script=Path(__file__).with_name("eager_worker.py"))
    return job


@pytest.mark.both
def test_the_gradients_of_the_micro_batches(
    measured: JobDirectory, pycaffe: Callable[..., str], tmp_path: Path
) -> None:
    lines = gradient_metrics(measured.metrics)
    assert [line.update for line in lines] == list(range(1, 61))
    norms = json.loads(pycaffe(BY_HAND, str(measured.solver), "60", "3", cwd=tmp_path))
    for line, (micro, mean) in zip(lines, norms, strict=True):
        assert (line.batch_size, line.passes) == (6, 3)
        assert line.micro_norm_squared == pytest.approx(micro, rel=1e-4)
        assert line.mean_norm_squared == pytest.approx(mean, rel=1e-4)
    ours = estimate_noise_scale([line.observation for line in lines])
    theirs = estimate_noise_scale([Observation(6, 3, *each) for each in norms])
    assert ours.low == pytest.approx(theirs.low, rel=1e-3)
    assert ours.trace == pytest.approx(theirs.trace, rel=1e-3)
    assert ours.gradient_norm_squared == pytest.approx(theirs.gradient_norm_squared, rel=1e-3)


def test_measuring_changes_nothing(
    measured: JobDirectory, runtime: Runtime, tmp_path: Path
) -> None:
    (tmp_path / "plain").mkdir()
    plain = write_job(tmp_path / "plain", snapshot=25)
    train(plain, runtime)
    assert not gradient_metrics(plain.metrics)
    for update in (25, 50, 60):
        assert weights(measured, update) == weights(plain, update)
    assert losses(measured) == losses(plain)
    assert last_scores(measured.metrics)[0].value == last_scores(plain.metrics)[0].value


def weights(job: JobDirectory, update: int) -> list[list[float]]:
    net = caffe_pb2.NetParameter.FromString(
        (job.snapshots / f"tiny_iter_{update}.caffemodel").read_bytes()
    )
    values = [list(blob.data) for layer in net.layer for blob in layer.blobs]
    assert len(values) == 4
    return values


def losses(job: JobDirectory) -> list[float | None]:
    return [line.loss for line in read_metrics(job.metrics) if isinstance(line, UpdateMetrics)]


def test_few_updates_are_measured_where_measuring_takes_as_long(
    caffes_runtime: Runtime, tmp_path: Path
) -> None:
    """An update of this net takes a third of a millisecond, and measuring one as much."""
    job = write_job(tmp_path, max_iter=2000)
    train(job, caffes_runtime, MEASURE)
    lines = gradient_metrics(job.metrics)
    assert lines[0].update == 1
    assert len(lines) < 400


def test_one_micro_batch_an_update_is_refused(runtime: Runtime, tmp_path: Path) -> None:
    job = write_job(tmp_path, iter_size=1)
    before = sorted(job.path.rglob("*"))
    with pytest.raises(InputError, match=r"iter_size is 1\ncaffe_batch\.noise\(NET\) measures it"):
        train(job, runtime, MEASURE)
    assert sorted(job.path.rglob("*")) == before


def test_the_event() -> None:
    line = (
        '{"event": "gradients", "update": 7, "passes": 3, "micro_norm_squared": 2.5, '
        '"mean_norm_squared": 1.5}'
    )
    assert read_worker_line(line) == GradientNorms(7, 3, 2.5, 1.5)


# The lines of metrics.jsonl


def update(number: int) -> UpdateMetrics:
    return UpdateMetrics(number, 2.0 / number, 0.01, 18 * number, None, 0.5 * number)


def gradients(number: int, seconds: float = 0.0) -> GradientMetrics:
    return GradientMetrics(number, 6, 3, 4.0, 2.0, seconds or 0.5 * number)


def score(number: int) -> NetTestMetrics:
    return NetTestMetrics(number, 0, 0, "accuracy", 0.75, False, 0.5 * number + 0.1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "metrics.jsonl"
    with MetricsFile(file) as metrics:
        for line in (gradients(1), update(1), gradients(2), score(2), update(2), gradients(3)):
            metrics.append(line)
    return file


def test_lines_are_read_as_they_were_written(path: Path) -> None:
    assert list(read_metrics(path)) == [
        gradients(1), update(1), gradients(2), score(2), update(2), gradients(3),
    ]  # fmt: skip
    assert gradient_metrics(path) == [gradients(1), gradients(2), gradients(3)]
    assert gradient_metrics(path.with_name("none")) == []
    assert list(json.loads(path.read_text().splitlines()[1])) == [
        "update", "batch_size", "passes", "micro_norm_squared", "mean_norm_squared", "seconds",
    ]  # fmt: skip


def test_going_back_drops_the_measured_updates_after_the_snapshot(path: Path) -> None:
    assert rewind(path, 2, tests_again=True).seconds == 1.0
    assert list(read_metrics(path)) == [gradients(1), update(1), gradients(2), update(2)]


def test_the_other_readers_pass_over_them(path: Path) -> None:
    assert last_scores(path) == (score(2),)
    figure = draw(list(read_metrics(path)), title="")
    assert [len(axes.get_lines()) for axes in figure.axes] == [1, 1]


# What is told at the end


def test_both_halves_of_a_training_are_reported() -> None:
    early = [GradientMetrics(n, 8, 2, 5.0, 4.5, 0.0) for n in range(1, 6)]
    late = [GradientMetrics(n, 8, 2, 5.0, 3.0, 0.0) for n in range(100, 105)]
    first, second = training_noise([*early, *late], 64).splitlines()
    # |G|^2 = 2 * 4.5 - 5 = 4 and 1, tr = 8 * 2 * 0.5 = 8 and 32.
    assert first == (
        "32 samples (95%: 32 to 32) from update 100 on; before that 2 samples (95%: 2 to 2) "
        "(10 updates measured)"
    )
    assert second.startswith("       The effective batch of 64 is above the noise scale: 128 would")


def test_too_few_updates_are_not_an_error() -> None:
    few = [gradients(n) for n in range(1, 9)]
    assert training_noise(few, 64) == (
        "unknown after 8 measured updates: a noise scale with an interval takes 5 groups of "
        "micro-batches, not 4"
    )

"""The worker on real Caffe: that it changes nothing, and reports the loss of all micro-batches."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from caffe_batch.device import Device
from caffe_batch.engines.caffe import INSIDE
from caffe_batch.errors import InputError
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.metrics import UpdateMetrics, read_metrics
from caffe_batch.runtimes import Runtime
from caffe_batch.training.options import Options
from caffe_batch.training.supervisor import train
from tests.planned_jobs import FinishedJob, write_job

# Caffe by itself, and the loss of every micro-batch as pycaffe's own forward pass returns it.
PLAIN = """
import json, sys, caffe
folder, prefix = sys.argv[1:3]
text = open(folder + "/solver.prototxt").read().replace(folder + "/snapshots/tiny", prefix)
open(prefix + ".prototxt", "w").write(text)
caffe.get_solver(prefix + ".prototxt").solve()
solver = caffe.get_solver(prefix + ".prototxt")
last = len(solver.net.layers) - 1
means = []
while solver.iter < int(sys.argv[3]):
    solver.net.clear_param_diffs()
    total = 0
    for _ in range(int(sys.argv[4])):
        total += solver.net._forward(0, last)
        solver.net._backward(last, 0)
    means.append(total / int(sys.argv[4]))
    solver.apply_update()
print(json.dumps(means))
"""

TWO_LOSSES = """
layer {
  name: "data" type: "DummyData" top: "data" top: "aim"
  dummy_data_param {
    shape { dim: 5 dim: 3 } shape { dim: 5 dim: 2 } data_filler { type: "gaussian" std: 1 }
  }
}
layer {
  name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 2 weight_filler { type: "gaussian" std: 1 } }
}
layer { name: "far" type: "EuclideanLoss" bottom: "ip" bottom: "aim" top: "far" loss_weight: 0.3 }
layer { name: "size" type: "AbsVal" bottom: "ip" top: "size" loss_weight: 0.1 }
"""


def losses(job: JobDirectory) -> list[float | None]:
    return [line.loss for line in read_metrics(job.metrics) if isinstance(line, UpdateMetrics)]


def own_losses(pycaffe: Callable[..., str], job: JobDirectory, folder: Path) -> list[float]:
    means = json.loads(pycaffe(PLAIN, str(job.path), str(folder / "plain"), "60", "3", cwd=folder))
    assert isinstance(means, list)
    return means


def test_the_same_training_as_without_a_supervisor(
    finished: FinishedJob, pycaffe: Callable[..., str], tmp_path: Path
) -> None:
    means = own_losses(pycaffe, finished.job, tmp_path)
    assert losses(finished.job) == pytest.approx(means, rel=1e-6)
    for update in (25, 50, 60):
        ours = finished.job.snapshots / f"tiny_iter_{update}.caffemodel"
        assert ours.read_bytes() == (tmp_path / f"plain_iter_{update}.caffemodel").read_bytes()


def test_weighted_losses_of_any_shape_are_summed(
    runtime: Runtime, pycaffe: Callable[..., str], tmp_path: Path
) -> None:
    job = write_job(
        tmp_path,
        net=TWO_LOSSES,
        base_lr=0.01,
        test_interval=100,  # none: a test would draw random numbers as well
        test_initialization="false",
    )
    train(job, runtime)
    assert losses(job) == pytest.approx(own_losses(pycaffe, job, tmp_path), rel=1e-5)


def test_what_caffe_displays_is_the_recorded_loss(finished: FinishedJob) -> None:
    shown = [
        float(line.rpartition(" = ")[2])
        for line in finished.job.log.read_text().splitlines()
        if "iters), loss = " in line
    ]
    recorded = losses(finished.job)
    assert shown == pytest.approx([recorded[0], recorded[20], recorded[40]], rel=1e-4)


def test_long_runs_are_recorded_as_means_of_several_updates(
    runtime: Runtime, tmp_path: Path
) -> None:
    (tmp_path / "fine").mkdir()
    (tmp_path / "coarse").mkdir()
    fine = write_job(tmp_path / "fine", max_iter=300)
    coarse = write_job(
        tmp_path / "coarse", max_iter=20_002, batch_size=1, iter_size=1, test_interval=5000
    )
    train(fine, runtime)
    train(coarse, runtime)
    assert len(losses(fine)) == 300
    lines = [line for line in read_metrics(coarse.metrics) if isinstance(line, UpdateMetrics)]
    # Every third update, those before tests, and the last.
    expected = [n for n in range(1, 20_003) if n % 3 == 0 or n % 5000 == 0 or n == 20_002]
    assert [line.update for line in lines] == expected


@pytest.mark.parametrize("hdf5", [False, True])
def test_a_moved_directory_continues(runtime: Runtime, tmp_path: Path, hdf5: bool) -> None:
    job = write_job(tmp_path, snapshot=25, snapshot_format="HDF5" if hdf5 else "BINARYPROTO")
    train(job, runtime)
    moved = JobDirectory(job.path.rename(tmp_path / "moved"))
    for file in moved.snapshots.glob("tiny_iter_60*"):
        file.unlink()
    moved.record.unlink()
    if hdf5:  # the weights' path is in the HDF5 file, which Caffe alone can write
        job.path.mkdir()
        shutil.copytree(moved.snapshots, job.snapshots)
    outcome = train(moved, runtime)
    assert outcome.update == 60
    assert {path.name.partition(".")[0] for path in moved.snapshots.iterdir()} == {
        "tiny_iter_25", "tiny_iter_50", "tiny_iter_60",
    }  # fmt: skip
    assert "Restoring previous solver status" in moved.log.read_text()


def test_other_files_of_the_directory_are_left_alone(finished: FinishedJob, tmp_path: Path) -> None:
    planned = write_job(tmp_path, snapshot=25)
    for name in ("solver", "net", "plan"):
        text = (
            getattr(planned, name).read_text().replace(str(tmp_path), str(finished.job.path.parent))
        )
        assert getattr(finished.job, name).read_text() == text


def test_a_gpu_is_refused_where_there_is_none(runtime: Runtime, tmp_path: Path) -> None:
    job = write_job(tmp_path)
    with pytest.raises(
        InputError, match=r"GPU 2 is not possible: this Caffe is built without .*\ncpu=True trains"
    ):
        train(job, runtime, Options(device=Device(2)))


def test_the_choice_of_the_cpu_is_reported(finished: FinishedJob) -> None:
    record = finished.job.read_record()
    assert record is not None
    assert record.attempts[0].device == Device.CPU
    assert record.attempts[0].choices == (
        "Training on the CPU: this Caffe is built without GPU code.",
    )
    assert finished.seen[-1].notes == record.attempts[0].choices


SCRIPTS = sorted(INSIDE.glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_it_is_written_for_python_3_6(script: Path) -> None:
    ast.parse(script.read_text(encoding="utf-8"), feature_version=(3, 6))


def test_old_pythons_and_the_runtime_compile_it(runtime: Runtime, tmp_path: Path) -> None:
    """Those that are here: a shim on the PATH may stand for one that isn't installed."""
    assert INSIDE / "train.py" in SCRIPTS
    check = (
        "import sys\n"
        "for path in sys.argv[1:]:\n"
        "    compile(open(path, encoding='utf-8').read(), path, 'exec')\n"
    )
    arguments = ["-c", check, *map(str, SCRIPTS)]
    here = [[name, *arguments] for name in ("python3.6", "python3.7", "python3.8") if starts(name)]
    for command in [*here, runtime.command(arguments)]:
        done = subprocess.run(
            command, env=runtime.environment() if command not in here else None,
            capture_output=True, text=True, cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


def starts(python: str) -> bool:
    try:
        return subprocess.run([python, "-c", ""], capture_output=True).returncode == 0
    except OSError:  # there is none, or an entry of the PATH may not be read
        return False


def test_an_entry_of_the_path_that_may_not_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that only others may enter; root may, so a file in its place as well."""
    (tmp_path / "closed").mkdir(mode=0)
    (tmp_path / "file").touch()
    monkeypatch.setenv("PATH", f"{tmp_path / 'closed'}:{tmp_path / 'file'}")
    assert not starts("python3.6")


LAYER = """
import caffe, random
assert random.random() >= 0, "the standard library's"
class Copy(caffe.Layer):
    def setup(self, bottom, top): pass
    def reshape(self, bottom, top): top[0].reshape(*bottom[0].data.shape)
    def forward(self, bottom, top): top[0].data[...] = bottom[0].data
    def backward(self, top, down, bottom): pass
"""
WITH_LAYER = """
layer { name: "copy" type: "Python" bottom: "data" top: "copy"
  python_param { module: "copying" layer: "Copy" } }
"""


def test_the_working_directory_is_looked_at_last(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever lies there by chance or by design; a Python layer's module is found there."""
    job = write_job(tmp_path)
    job.net.write_text(job.net.read_text() + WITH_LAYER)
    strays = ("random", "numpy", "json", "caffe", "google", "socket", "worker", "sitecustomize")
    for name in strays:
        ran = f"open({str(tmp_path / 'ran')!r}, 'a').write({name!r})"
        (tmp_path / f"{name}.py").write_text(f"{ran}\nraise RuntimeError({name!r})\n")
    (tmp_path / "copying.py").write_text(LAYER)
    monkeypatch.setenv("PYTHONPATH", ":")
    assert train(job, runtime).update == 60
    assert not (tmp_path / "ran").exists()

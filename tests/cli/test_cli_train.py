"""``caffe-batch train``, run as a user does, on real Caffe."""

from __future__ import annotations

import os
import pty
import resource
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from caffe_batch.engines.caffe.snapshots import list_snapshots
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.record import JobState
from caffe_batch.runtimes import Runtime
from tests.command import NAMESPACE, can_mount
from tests.holding import LONG, PATIENCE_S, Hold
from tests.planned_jobs import NET, RECORDS, write_job, write_lmdb

PROGRAM = str(Path(sys.executable).with_name("caffe-batch"))

pytestmark = pytest.mark.usefixtures("runtime")


def train(
    *args: object, cwd: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAM, "train", *map(str, args)],
        env={**os.environ, **variables},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


def test_a_planned_directory(tmp_path: Path) -> None:
    job = write_job(tmp_path)
    done = train(job.path)
    assert done.returncode == 0, done.stderr
    result, test, best, plan, files, model, then = done.stdout.splitlines()
    assert result == "Finished: 60 of 60 updates."
    assert test.startswith("test:  accuracy 1, loss 0.")
    assert test.endswith(" (after update 60)")
    assert plan == "plan:  effective batch 18 = batch_size 6 x iter_size 3"
    assert best == "best:  accuracy 1 (after update 20; no snapshot of it is kept)"
    assert files == f"files: {job.path}"
    assert model == "model: snapshots/tiny_iter_60.caffemodel"
    assert then.startswith(f"next:  `caffe-batch test {job.path}` tests it by class, ")
    lines = done.stderr.splitlines()
    assert lines[0] == "Training on the CPU: this Caffe is built without GPU code."
    assert "test after update 60: accuracy 1, loss 0." in done.stderr
    (last,) = [line for line in lines if line.startswith("update 60 of 60, loss 0.")]
    assert "learning rate 0.05, epoch 15.43" in last
    assert job.loss_plot.read_bytes().startswith(b"\x89PNG")

    again = train(job.path)
    assert again.returncode == 0
    assert again.stdout.splitlines()[0].startswith("Finished already: 60 of 60 updates; --restart")
    assert again.stdout.splitlines()[1:] == [test, best, plan, files, model, then]
    assert again.stderr == ""


def test_quiet_says_notes_and_the_result(tmp_path: Path) -> None:
    done = train(write_job(tmp_path, max_iter=20).path, "--quiet")
    assert done.stderr == "Training on the CPU: this Caffe is built without GPU code.\n"
    assert done.stdout.startswith("Finished: 20 of 20 updates.\n")


def test_without_matplotlib_a_note_says_what_to_install(tmp_path: Path) -> None:
    job = write_job(tmp_path, max_iter=5)
    hidden = tmp_path / "hidden" / "matplotlib"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ImportError('hidden')")
    done = train(job.path, PYTHONPATH=str(hidden.parent))
    assert done.returncode == 0
    assert "note: loss.png needs matplotlib: pip install 'caffe-batch[plot]'\n" in done.stderr
    assert not job.loss_plot.exists()


def test_net_and_budget_are_planned_first(tmp_path: Path) -> None:
    write_lmdb(tmp_path / "data")
    net = tmp_path / "tiny.prototxt"
    net.write_text(NET.format(data="data", batch_size=14, width=8))
    done = train(
        net.name, "--effective-batch", 14, "--gpu-memory", "1GiB", "--reserve", "0",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    job = JobDirectory(tmp_path / "tiny.job")
    assert f"files: {job.path}\n" in done.stdout
    assert "plan:  effective batch 14 = batch_size 14 x iter_size 1" in done.stdout
    assert job.read_plan().train_records == RECORDS
    assert list_snapshots(job.snapshots)


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["job", "--effective-batch", "6"], 2, "--effective-batch: {job} is planned already"),
        (["job", "--cpu", "--gpu", "0"], 2, "--cpu and --gpu exclude each other"),
        (["job", "--gpu", "1"], 2, "training on GPU 1 is not possible"),
        (["."], 2, "there is no plan.json, so this is not a job directory"),
        (["no.prototxt", "--gpu-memory", "1GiB"], 2, "no.prototxt"),
        (["job", "--runtime", "/no/python"], 5, "/no/python is not an executable file"),
    ],
)
def test_wrong_usage(args: list[str], code: int, message: str, tmp_path: Path) -> None:
    job = write_job(tmp_path)
    done = train(*args, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert message.format(job=job.path) in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_caffe_that_fails(tmp_path: Path) -> None:
    job = write_job(tmp_path)
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    done = train(job.path)
    assert done.returncode == 4
    assert "caffe-batch: Caffe stopped at update 0 of 60: failed check: Check failed" in done.stderr
    assert f"The last lines of {job.log}:\n  " in done.stderr
    assert "Creating layer data" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("how", ["disk", "limit"])
def test_a_full_disk(how: str, tmp_path: Path) -> None:
    """It fills up in the midst of a run, but for the snapshots; or only metrics.jsonl may not grow.

    The disk is in a namespace of the run's own, where a shell waits with the test for the hold.
    """
    job = write_job(tmp_path, max_iter=LONG)
    job.snapshots.mkdir()
    hold = Hold(job, 20)
    full = """
        cp -r job kept
        mount -t tmpfs -o size=1m tmpfs job && cp -r kept/. job || exit 99
        mount -t tmpfs -o size=1m tmpfs job/snapshots || exit 99
        "$0" train "$1" & id=$!
        while [ ! -e "$2.reached" ] && kill -0 $id; do sleep 0.1; done
        dd if=/dev/zero of=job/filler bs=1k status=none
        rm "$2"
        wait $id
        code=$?
        cp job/snapshots/* kept/snapshots
        exit $code
    """
    command: tuple[object, ...] = (PROGRAM, "train", job.path)
    if how == "disk":
        if not can_mount():
            pytest.skip("nobody can mount a disk here; the case with a limit runs everywhere")
        command = (*NAMESPACE, "sh", "-c", full, PROGRAM, job.path, hold.file)
    with subprocess.Popen(
        [str(part) for part in command], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as process:
        if how == "limit":
            hold.wait()
            size = job.metrics.stat().st_size
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, size))
            hold.release()
        _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 4, err
    why = "No space left on device" if how == "disk" else "File too large"
    assert "caffe-batch: Caffe stopped at update " in err
    assert f" of {LONG}: record not written: {job.metrics}: {why}\n" in err
    assert "Free some space there, then run it again. It continues from " in err
    assert "Traceback" not in err
    place = tmp_path / ("kept" if how == "disk" else "job") / "snapshots"
    assert list_snapshots(place)  # which had space


def test_two_trains_on_one_directory(tmp_path: Path) -> None:
    job = write_job(tmp_path, max_iter=LONG)
    hold = Hold(job, 20)
    with subprocess.Popen([PROGRAM, "train", job.path, "-q"], stderr=subprocess.DEVNULL) as first:
        hold.wait()
        second = train(job.path)
        first.send_signal(signal.SIGTERM)
        assert first.wait(PATIENCE_S) == 130
    assert second.returncode == 1
    assert "another `caffe-batch train` runs here" in second.stderr


def test_ctrl_c_on_a_terminal(tmp_path: Path) -> None:
    job = write_job(tmp_path, max_iter=LONG, test_interval=20)
    hold = Hold(job, 40)
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(TERM="xterm", COLUMNS="80", LINES="24")
        os.execv(PROGRAM, [PROGRAM, "train", str(job.path)])
    screen = b""
    interrupted = False
    while True:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                screen += os.read(terminal, 1 << 16)
            except OSError:  # the other side is closed
                break
        if not interrupted and hold.reached and b"samples/s" in screen:
            os.write(terminal, b"\x03")
            interrupted = True
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
    text = screen.decode()
    assert f" / {LONG:,}" in text
    assert "epoch" in text
    assert any(block in text for block in "▁▂▃▄▅▆▇█")
    assert [snapshot.update for snapshot in list_snapshots(job.snapshots)] == [40]
    assert f"Interrupted: 40 of {LONG:,} updates." in text
    record = job.read_record()
    assert record is not None
    assert record.state is JobState.INTERRUPTED


def test_a_terminal_that_goes_away_stops_nothing(tmp_path: Path) -> None:
    job = write_job(tmp_path)
    hold = Hold(job, 20)
    with subprocess.Popen(
        [PROGRAM, "train", job.path], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as process:
        assert process.stderr is not None
        hold.wait()
        process.stderr.close()
        hold.release()
        assert process.wait(PATIENCE_S) == 0
    record = job.read_record()
    assert record is not None
    assert record.state is JobState.FINISHED


def test_the_runtime_can_be_named(tmp_path: Path, runtime: Runtime) -> None:
    job = write_job(tmp_path, max_iter=5)
    done = train(job.path, "--runtime", runtime.name, "--threads", 2)
    assert done.returncode == 0, done.stderr
    record = job.read_record()
    assert record is not None
    assert record.attempts[0].runtime == runtime.name
    assert record.attempts[0].threads == 2

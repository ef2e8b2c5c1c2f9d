"""Why a worker ended: on deaths of real Caffe, and on the wording of those that need a GPU."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from caffe_batch.engines.caffe.ending import classify, last_lines
from caffe_batch.engines.events import Built, Diverged, Finished, Refused, Stopped
from caffe_batch.errors import DoesNotFitError, TrainingError
from caffe_batch.jobs.ending import Ending, EndReason
from caffe_batch.runtimes import Runtime
from caffe_batch.runtimes.interpreter import Interpreter
from caffe_batch.training.supervisor import train
from tests.planned_jobs import write_job

FATAL = "F0412 09:00:00.123456    77 common.cpp:99] "
STACK = ["*** Check failure stack trace: ***", "    @     0x7f1c2d5a50cd  google::Fail()"]


@dataclass(frozen=True)
class Limited(Runtime):
    """A runtime with little address space."""

    inner: Runtime
    limit_kib: int

    def command(self, args: Sequence[str]) -> list[str]:
        inner = self.inner.command(args)
        return ["sh", "-c", 'ulimit -v "$0" && exec "$@"', str(self.limit_kib), *inner]

    def environment(self) -> dict[str, str]:
        return self.inner.environment()


def test_a_data_source_that_is_missing(runtime: Runtime, tmp_path: Path) -> None:
    job = write_job(tmp_path)
    (tmp_path / "data").rename(tmp_path / "moved")
    with pytest.raises(
        TrainingError,
        match=r"Caffe stopped at update 0 of 60: failed check: Check failed: mdb_status == 0 "
        r"\(2 vs\. 0\) No such file or directory \(db_lmdb\.hpp:\d+\)\nThe last lines of ",
    ) as failure:
        train(job, runtime)
    shown = failure.value.message
    assert str(job.log) in shown
    assert "  F" in shown  # the log line itself
    assert "@ " not in shown  # without the stack trace
    record = job.read_record()
    assert record is not None
    assert record.attempts[-1].ending == "failed check"
    assert "No such file" in str(record.attempts[-1].detail)


def test_real_caffe_out_of_host_memory(runtime: Runtime, tmp_path: Path) -> None:
    job = write_job(tmp_path, width=60_000_000)  # 35 weights each: 8.4 GB
    limited = Limited("limited", runtime, limit_kib=6 * 2**20)
    with pytest.raises(
        DoesNotFitError, match=r"out of host memory \(.*batch_size 1 is the smallest split"
    ):
        train(job, limited)


def test_a_python_layer_whose_module_is_missing(runtime: Runtime, tmp_path: Path) -> None:
    python = 'type: "Python" python_param { module: "no_such" layer: "L" }'
    layer = f'layer {{ name: "x" top: "x" {python} }}'
    job = write_job(tmp_path, net=layer)
    with pytest.raises(
        TrainingError, match="Python error: ModuleNotFoundError: No module named 'no_such'"
    ) as failure:
        train(job, runtime)
    assert "PYTHONPATH" in str(failure.value.hint)


@pytest.mark.parametrize(
    ("behaviour", "message", "hint"),
    [
        ("killed", "at update 3 of 60: killed: killed by SIGKILL", "dmesg"),
        ("leave", "at update 3 of 60: unknown: ended early with exit status 0", None),
    ],
)
def test_fake_deaths(
    behaviour: str,
    message: str,
    hint: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FAKE_WORKER", behaviour)
    job = write_job(tmp_path)
    fake = Path(__file__).parents[2] / "training" / "fake_worker.py"
    with pytest.raises(TrainingError, match=message) as failure:
        train(job, Interpreter(sys.executable), script=fake)
    assert (hint or "None") in str(failure.value.hint)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("Check failed: error == cudaSuccess (2 vs. 0)  out of memory", EndReason.GPU_MEMORY),
        (
            "Check failed: status == CUBLAS_STATUS_SUCCESS (3 vs. 0)  CUBLAS_STATUS_ALLOC_FAILED",
            EndReason.GPU_MEMORY,
        ),
        (
            "Check failed: status == CUDNN_STATUS_SUCCESS (2 vs. 0)  CUDNN_STATUS_ALLOC_FAILED",
            EndReason.GPU_MEMORY,
        ),
        (
            "Check failed: error == cudaSuccess (77 vs. 0)  an illegal memory access",
            EndReason.CHECK_FAILED,
        ),
        ("Check failed: proto.SerializeToOstream(&output) ", EndReason.SNAPSHOT_LOST),
        (
            "Check failed: status >= 0 (-1 vs. 0) Failed to make float dataset 0",
            EndReason.SNAPSHOT_LOST,
        ),
        (
            "Check failed: file_hid >= 0 (-1 vs. 0) Couldn't open /job/a.h5 to save weights.",
            EndReason.SNAPSHOT_LOST,
        ),
        ("Check failed: *ptr host allocation of size 9 failed", EndReason.HOST_MEMORY),
        ("Unknown learning rate policy: stop", EndReason.CHECK_FAILED),
    ],
)
def test_failed_checks(line: str, reason: EndReason) -> None:
    ending = classify(-signal.SIGABRT, Built(0), ["I am fine", FATAL + line, *STACK])
    assert ending == Ending(reason, f"{line} (common.cpp:99)", -signal.SIGABRT)


def test_the_file_of_a_lost_snapshot() -> None:
    told = "I0412 09:00:00.123456    77 solver.cpp:464] Snapshotting to binary proto file /a b/n.x"
    state = told.replace("to binary proto file /a b/n.x", "solver state to HDF5 file /s.h5")
    lost = FATAL + "Check failed: proto.SerializeToOstream(&output)"
    for log, file in (([told, lost], "/a b/n.x"), ([told, state, "#000", lost], "/s.h5")):
        ending = classify(-signal.SIGABRT, Built(0), [*log, *STACK])
        assert ending.reason is EndReason.SNAPSHOT_LOST
        assert ending.detail.startswith(f"{file}: Check failed: proto.")


def test_a_real_out_of_memory_of_the_gpu_build() -> None:
    log = (Path(__file__).parents[2] / "data" / "out_of_gpu_memory.log").read_text().splitlines()
    ending = classify(-signal.SIGABRT, Built(0), log)
    failed = "Check failed: error == cudaSuccess (2 vs. 0)  out of memory (syncedmem.cpp:71)"
    assert ending == Ending(EndReason.GPU_MEMORY, failed, -signal.SIGABRT)


def test_a_failed_allocation_of_cpp() -> None:
    log = [
        "terminate called after throwing an instance of 'std::bad_alloc'",
        "  what():  std::bad_alloc",
    ]
    assert classify(-signal.SIGABRT, None, log).reason is EndReason.HOST_MEMORY


def test_signals_also_through_a_shell() -> None:
    assert classify(-signal.SIGKILL, None, []).reason is EndReason.KILLED
    assert classify(128 + signal.SIGKILL, None, []).reason is EndReason.KILLED
    assert classify(-signal.SIGSEGV, None, []).detail == "ended by SIGSEGV"
    assert classify(128 + 11, None, []).reason is EndReason.CRASHED
    assert classify(-63, None, []).detail == "ended by signal 63"


def test_the_last_word_counts_whatever_happens_after_it() -> None:
    crash = [FATAL + "Check failed: error == cudaSuccess (29 vs. 0)  driver shutting down"]
    assert classify(-signal.SIGABRT, Finished(9), crash).reason is EndReason.FINISHED
    assert classify(40, Stopped(9), []).detail == "stopped after update 9"
    assert classify(1, Refused("no GPU"), []) == Ending(EndReason.REFUSED, "no GPU", 1, "weights")


def test_a_divergence() -> None:
    assert classify(41, Diverged(9, float("nan")), []).detail == "after update 9 the loss is nan"
    assert classify(41, Diverged(9, 812.5), []).detail == "after update 9 the loss is 812.5"
    ending = classify(41, Diverged(9, None), [])
    assert ending == Ending(EndReason.DIVERGED, "after update 9 the weights are not finite", 41)


def test_last_lines_leave_the_stack_out() -> None:
    log = [f"line {number}" for number in range(20)] + ["", *STACK, "the end"]
    assert last_lines(log, count=3) == ["line 18", "line 19", "the end"]

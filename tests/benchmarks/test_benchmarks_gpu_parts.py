"""The parts of the GPU benchmark, as far as they can run without a GPU: real Caffe in CPU mode."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import demo, fit, layers, main, memory, nvml, speed
from benchmarks.gpu.bench import Bench, Part
from benchmarks.gpu.facts import libraries, missing, slug
from benchmarks.gpu.layer_cases import cases
from benchmarks.gpu.trainer import NotTrainedError, training
from caffe_batch import prototxt, runtimes
from caffe_batch.jobs.ending import EndReason
from caffe_batch.runtimes.interpreter import Interpreter
from caffe_batch.runtimes.reserve import default_reserve
from tools.count_gpu_memory.check import build_library
from tools.count_gpu_memory.nets import own_nets, write_job

RUN = Path(__file__).parents[2] / "benchmarks" / "gpu" / "run.sh"
MIB = 1024**2


@pytest.fixture(scope="module")
def bench(runtime: runtimes.Runtime) -> Bench:
    return Bench(runtime, quick=True, mode="cpu")


def test_a_worker_trains_takes_the_time_and_holds_on(bench: Bench, tmp_path: Path) -> None:
    ((_, job),) = memory.READING.jobs(tmp_path)
    with training(bench, job, turns=3, updates=2) as trained:
        os.kill(trained.pid, 0)  # it lives
        assert len(trained.seconds) == 3
        assert all(second > 0 for second in trained.seconds)
    with pytest.raises(ProcessLookupError):
        os.kill(trained.pid, 0)


def test_a_worker_that_fails_says_why(bench: Bench, tmp_path: Path) -> None:
    ((_, job),) = memory.BARE.jobs(tmp_path)
    net = job / "net.prototxt"
    net.write_text(net.read_text().replace("num_output: 5", "num_output: 7"))
    wanted = pytest.raises(NotTrainedError, match="bare-2: failed check: Check failed")
    with wanted as caught, training(bench, job):
        pytest.fail("it trained")
    assert caught.value.ending.reason is EndReason.CHECK_FAILED


def test_the_fixed_costs_nets_differ_by_one_thread(tmp_path: Path) -> None:
    nets = (memory.BARE, memory.READING)
    found = [memory.predicted(job) for net in nets for _, job in net.jobs(tmp_path)]
    assert [each.threads for each in found] == [0, 1]
    assert all(0 < each.requested_bytes < 10_000 for each in found)


def test_threads_are_those_of_all_nets(tmp_path: Path) -> None:
    nets = {net.name: net for net in own_nets()}
    found = {
        name: memory.predicted(next(nets[name].jobs(tmp_path))[1]) for name in ("digits", "mlp")
    }
    assert found["digits"].threads == 2  # TRAIN and TEST
    assert found["mlp"].threads == 0  # HDF5Data reads in the training's own thread


def test_six_nets_and_several_batch_sizes_are_measured() -> None:
    chosen = list(memory.nets(quick=False))
    assert len(chosen) >= 6
    assert sum(len(sizes) > 1 for _, sizes in chosen) >= 6
    assert all(len(sizes) == 1 for _, sizes in memory.nets(quick=True))


def test_a_row_takes_off_the_fixed_cost() -> None:
    expected = memory.Predicted(requested_bytes=900, rounding_bytes=100, threads=2)
    fixed = memory.Fixed(process_bytes=5000, thread_bytes=300)
    row = memory.row(expected, memory.Usage(6610, 6600, "process"), fixed, reserve_bytes=5710)
    assert row["difference_bytes"] == 6610 - 5000 - 600 - 1000
    assert row["difference_by_predicted"] == 0.01
    assert row["within_reserve"]
    assert not memory.row(expected, memory.Usage(6611, 0, "device"), fixed, 5710)["within_reserve"]


def test_the_peak_of_a_figure() -> None:
    values = [2]
    with nvml.peak_of(lambda: values[0]) as peak:
        values[0] = 9
        for _ in range(1000):
            if peak() == 9:
                break
            time.sleep(nvml.SAMPLE_S)
        values[0] = 1
    assert peak() == 9


def test_the_ballast_fills_a_gpu_to_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    total, budget, own = 1000 * MIB, 90 * MIB + 1, 50 * MIB
    monkeypatch.setenv("LD_PRELOAD", str(build_library(tmp_path)))
    monkeypatch.setenv("COUNT_GPU_MEMORY_LIMIT", str(total))
    taken = [own]
    with fit.ballast(Bench(Interpreter(sys.executable))) as take:

        def take_in_pieces(size: int) -> bool:
            """As where the memory is in pieces: 300 MiB is the largest."""
            fine = size <= 300 * MIB and take(size)
            taken.append(size if fine else 0)
            return fine

        left = fit.fill(take_in_pieces, lambda: total - sum(taken), budget)
        assert budget <= left < budget + fit.GRAIN_BYTES
        assert not take(total)


def test_filling_ends_where_nothing_can_be_had() -> None:
    assert fit.fill(lambda size: False, lambda: 500 * MIB, 90 * MIB) == 500 * MIB
    assert fit.fill(lambda size: pytest.fail("asked"), lambda: 50 * MIB, 90 * MIB) == 50 * MIB


def test_planned_and_larger_splits_are_tried(bench: Bench, tmp_path: Path) -> None:
    net = {net.name: net for net in own_nets()}["digits"]
    write_job(net, 256, tmp_path)
    reserve, tried = fit.try_sizes(bench, tmp_path, 256, 10 * MIB + default_reserve().bytes)
    assert reserve == default_reserve().bytes
    assert [(split.batch_size, split.iter_size) for split in tried] == [(128, 2), (256, 1)]
    assert all(split.ending is None for split in tried)  # the host has the memory
    smaller, larger = (split.expected.requested_bytes for split in tried)
    assert smaller <= 10 * MIB < larger
    for out, size in (("planned", 2), ("b256", 1)):
        solver = prototxt.parse_solver((tmp_path / out / "solver.prototxt").read_text())
        assert solver.iter_size == size


def test_a_larger_split_that_runs_needs_an_explanation() -> None:
    fixed, free, reserve = memory.Fixed(200 * MIB, 10 * MIB), 700 * MIB, 512 * MIB
    small = fit.Split(8, 4, memory.Predicted(150 * MIB, 0, 1), None)
    larger = fit.Split(16, 2, memory.Predicted(490 * MIB, 0, 1), None)
    largest = fit.Split(32, 1, memory.Predicted(491 * MIB, 0, 1), "out of memory")
    row = fit.row(700 * MIB, free, reserve, fixed, [small, larger, largest])
    assert row["passed"]
    assert row["largest_that_fits"] == 16
    assert row["explanations"] == [
        "the plan keeps 512 MiB for context and handles, and they take 210 MiB here: 0 B are left"
        " beside this batch"
    ]
    assert not fit.row(700 * MIB, free, reserve, fixed, [small, replace(largest, ending=None)])[
        "passed"
    ]
    assert fit.row(700 * MIB, free, reserve, fixed, [small, largest])["passed"]
    assert not fit.row(700 * MIB, free, reserve, fixed, [replace(small, ending="no")])["passed"]


@pytest.mark.slow
def test_the_demo_trains(bench: Bench, tmp_path: Path) -> None:
    found = demo.measure(bench, tmp_path)
    assert found["passed"]
    assert found["device"] == "CPU"
    assert (found["batch_size"], found["iter_size"]) == (64, 4)
    assert found["state"] == "finished"
    assert 0.85 <= found["accuracy"] <= 1


@pytest.mark.slow
def test_speed_times_all_splits(bench: Bench, tmp_path: Path) -> None:
    net = {net.name: net for net in own_nets()}["digits"]
    wanted = speed.Series("digits", 24, (24, 8, 3))
    job = tmp_path / "one"
    speed.write_job(net, 8, 3, job)
    allowed = memory.predicted(job).allocated_bytes
    found = speed.time_series(bench, net, wanted, allowed, tmp_path / "all")
    assert found["too_large"] == [24]
    assert [(row["batch_size"], row["iter_size"]) for row in found["splits"]] == [(8, 3), (3, 8)]
    assert all(len(row["all_s"]) == speed.ROUNDS * speed.TURNS for row in found["splits"])
    assert found["splits"][0]["by_largest"] == 1


def test_speed_reads_no_data(tmp_path: Path) -> None:
    nets = {net.name: net for net in own_nets()}
    for series in speed.SERIES:
        assert all(series.effective_batch % size == 0 for size in series.batch_sizes)
        job = tmp_path / series.net
        speed.write_job(nets[series.net], 4, 2, job)
        net = prototxt.parse_net((job / "net.prototxt").read_text())
        assert memory.predicted(job).threads == 0
        (data,) = (layer for layer in net.layer if layer.type == "DummyData")
        assert [shape.dim[0] for shape in data.dummy_data_param.shape] == [4, 4]
        assert not any(layer.type == "Accuracy" for layer in net.layer)


def test_what_is_missing_is_said(runtime: runtimes.Runtime) -> None:
    has_code = runtimes.inspect(runtime).gpu
    assert any("no GPU code in the Caffe of" in lack for lack in missing(runtime, 0)) != has_code
    assert bool(libraries(runtime)) == has_code
    assert slug("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"


def test_a_dry_run_reports_everything_and_needs_no_gpu() -> None:
    done = subprocess.run([RUN, "--dry-run"], capture_output=True, text=True, check=True)
    parts = [f"{name}:" for name in main.PARTS]
    sizes = ["resnet50, batch_size 2, 8, 16\n", "caffenet, effective batch 256, 2GiB left"]
    listed = [f"  {case.name}\n" for case in cases()]
    for text in (*parts, *sizes, *listed, "minutes in all"):
        assert text in done.stdout


def test_parts_can_be_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--dry-run", "--only", "demo", "--only", "speed", "--quick"]) == 0
    told = capsys.readouterr().out
    assert [line.split(":")[0] for line in told.splitlines() if line[0] != " "] == [
        "demo", "speed", "about 2.5 minutes in all",
    ]  # fmt: skip
    assert "resnet50" not in told


def test_without_gpu_code_the_script_ends_with_a_reason(
    runtime: runtimes.Runtime, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a CPU build, on a machine with a GPU as well."""
    done = subprocess.run(
        [RUN, "--out", tmp_path, "--runtime", runtime.name], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert f"run.sh: no GPU code in the Caffe of {runtime.name}" in done.stderr
    assert list(tmp_path.iterdir()) == []
    assert main.main(["--runtime", "/no/python", "--out", str(tmp_path)]) == 2
    assert "/no/python" in capsys.readouterr().err


def test_a_part_that_fails_is_written_down(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(bench: Bench, folder: Path) -> dict[str, Any]:
        raise OSError(f"{bench.gpu} is gone")

    part = Part("broken", "nothing", (1, 1), lambda quick: [], measure)
    result = main.run_part(part, bench)
    main.write(tmp_path / "new" / "broken.json", result)
    read = json.loads((tmp_path / "new" / "broken.json").read_text())
    assert not read["passed"]
    assert read["error"] == "OSError: 0 is gone"
    assert "OSError: 0 is gone" in capsys.readouterr().err


def test_the_layers_part_compares_all_cases(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = list(cases())[:3]
    monkeypatch.setattr(layers, "cases", lambda: iter(few))
    found = layers.measure(replace(bench, cpu_runtime=bench.runtime), tmp_path)
    assert [row["equal"] for row in found["cases"]] == [True] * 3
    assert found["compared_with"] == "a CPU build"
    assert "Convolution" in found["unknown_types"]  # which the few don't hold
    assert not found["passed"]

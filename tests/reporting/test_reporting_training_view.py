"""The live display and the plain lines of a run."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import pytest
from rich.console import Console

from caffe_batch.jobs.metrics import NetTestMetrics
from caffe_batch.reporting.training_view import (
    TrainingView,
    format_scores,
    progress_line,
    progress_view,
    sparkline,
)
from caffe_batch.training.progress import Progress


def score(output: str, value: float | None, *, net: int = 0, update: int = 500) -> NetTestMetrics:
    return NetTestMetrics(update, net, 0, output, value, output == "loss", 1.0)


PROGRESS = Progress(
    update=1234,
    updates=10_000,
    samples=1234 * 256,
    epoch=175.8012,
    samples_per_s=15321.7,
    updates_per_s=None,
    loss=0.0612345,
    losses=tuple(1 / n for n in range(1, 100)),
    learning_rate=0.005,
    stage=1,
    stages=1,
    scores=(score("accuracy", 0.98123), score("loss", 0.07)),
    elapsed_s=20.0,
    left_s=3725.4,
    notes=("Training on the CPU: so there.",),
    training=True,
)

STARTING = replace(
    PROGRESS, update=0, epoch=0.0, samples_per_s=None, loss=None, losses=(), scores=(),
    left_s=None, training=False,
)  # fmt: skip


def shown(progress: Progress, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(progress_view(progress, width))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def text_of(view_of: list[Progress], *, terminal: bool, quiet: bool = False) -> str:
    file = io.StringIO()
    console = Console(file=file, width=80, force_terminal=terminal, _environ={"TERM": "xterm"})
    with TrainingView(console, quiet=quiet) as view:
        for progress in view_of:
            view(progress)
    return file.getvalue()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], ""),
        ([3.0], "▁"),
        ([5.0, 5.0], "▁▁"),
        ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], "▁▂▃▄▅▆▇█"),
        ([1.0, math.nan, math.inf, 0.0, -math.inf], "█▁"),
        ([float(n) for n in range(64)], "▁▁▁▁▂▂▂▂▃▃▃▃▄▄▄▄▅▅▅▅▆▆▆▆▇▇▇▇████"),
    ],
)
def test_sparkline(values: list[float], expected: str) -> None:
    assert sparkline(values) == expected


@pytest.mark.parametrize("count", [1, 31, 32, 33, 100])
def test_sparkline_is_never_wider_than_asked(count: int) -> None:
    assert len(sparkline([float(n) for n in range(count)])) == min(count, 32)


def test_live_view_fits_80_columns() -> None:
    assert shown(PROGRESS) == [
        f"update 1,234 / 10,000  {'━━━━╸':38}  12%  1:02:05 left",
        f"loss 0.06123           {sparkline(PROGRESS.losses, 38)}       began at 1",
        "15,322 samples/s, learning rate 0.005, epoch 175.80",
        "test after update 500: accuracy 0.9812, loss 0.07",
    ]


@pytest.mark.parametrize(("width", "bar"), [(80, 38), (100, 58), (120, 64), (200, 64)])
def test_live_view_takes_the_width_it_has(width: int, bar: int) -> None:
    lines = shown(PROGRESS, width)
    assert lines[1].removesuffix("began at 1").rstrip().endswith(sparkline(PROGRESS.losses, bar))
    assert all(len(line) <= width for line in lines)


def test_a_first_loss_that_is_thinned_out_is_still_named() -> None:
    progress = replace(PROGRESS, losses=(2.0, 1.5) * 20, first_loss=87.33)
    assert shown(progress)[1].endswith("began at 87.33")
    assert "began at" not in shown(replace(progress, first_loss=2.0))[1]


def test_memory_in_use_beside_the_prediction() -> None:
    measured = replace(PROGRESS, used_bytes=300 * 2**20, predicted_bytes=200 * 2**20)
    assert shown(measured)[-1] == "memory 300 MiB in use, 200 MiB predicted"
    assert shown(replace(measured, predicted_bytes=None))[-1] == "memory 300 MiB in use"
    assert shown(replace(measured, used_bytes=None))[-1] == "memory 200 MiB predicted"
    assert "epoch 175.80, 300 MiB in use, 1:02:05 left" in progress_line(measured)
    reserved = replace(measured, reserve_bytes=96 * 2**20)
    assert shown(reserved)[-1] == "memory 300 MiB in use, 200 MiB predicted + 96 MiB reserve"


def test_several_ranks() -> None:
    mib = 2**20
    ranks = replace(PROGRESS, rank_bytes=(200 * mib, 300 * mib), rank_s=(0.02, 0.034))
    assert shown(ranks)[-2:] == [
        "by rank 0: 200 MiB, 1: 300 MiB",
        "rank 1 is the slowest: 34 ms an update, 1.70 x the fastest",
    ]
    assert "rank 1 is the slowest" in progress_line(ranks)
    many = replace(PROGRESS, rank_bytes=tuple(n * mib for n in range(1, 13)))
    assert shown(many)[-1].startswith("by rank 8: 9 MiB, 9: 10 MiB")
    assert shown(many)[-1].endswith("11: 12 MiB")
    assert "rank" not in "".join(shown(PROGRESS))


def test_memory_predicted_for_another_device_is_told_apart() -> None:
    """137 MiB of a process on the host aren't to be measured by 39 MiB that a GPU would hold."""
    gpu_plan = replace(PROGRESS, used_bytes=137 * 2**20, elsewhere_bytes=39 * 2**20, on_cpu=True)
    assert shown(gpu_plan)[-1] == (
        "memory 137 MiB of host memory in use; predicted for a GPU: 39 MiB"
    )
    cpu_plan = replace(gpu_plan, on_cpu=False)
    assert shown(cpu_plan)[-1] == (
        "memory 137 MiB of device memory in use; predicted for CPU mode: 39 MiB"
    )
    nothing_known = replace(gpu_plan, on_cpu=None, used_bytes=None)
    assert "memory" not in shown(nothing_known)[-1]


def test_warnings_come_first_and_once() -> None:
    file = io.StringIO()
    view = TrainingView(Console(file=file), quiet=True, warnings=("[bn1] is different",))
    with view:
        view(STARTING)
        view(PROGRESS)
    assert file.getvalue() == "warning: [bn1] is different\nTraining on the CPU: so there.\n"


def test_live_view_before_the_first_update() -> None:
    assert shown(STARTING) == ["Loading the engine and building the nets ..."]
    assert shown(replace(STARTING, training=True))[1] == "loss -"


def test_plain_line() -> None:
    assert progress_line(PROGRESS) == (
        "update 1,234 of 10,000, loss 0.06123, 15,322 samples/s, learning rate 0.005, "
        "epoch 175.80, 1:02:05 left"
    )
    bare = replace(STARTING, epoch=None)
    assert progress_line(bare) == "update 0 of 10,000, learning rate 0.005"


def test_one_stage_of_several() -> None:
    third = replace(PROGRESS, stage=3, stages=4)
    assert progress_line(third).endswith("epoch 175.80, stage 3 of 4, 1:02:05 left")
    assert shown(third)[2].endswith("epoch 175.80, stage 3 of 4")


def test_scores_of_several_nets_and_of_no_number() -> None:
    scores = [score("accuracy", 0.5), score("loss", None), score("accuracy", 0.25, net=1)]
    assert format_scores(scores) == "accuracy[0] 0.5, loss[0] not finite, accuracy[1] 0.25"


def test_plain_lines_tell_each_thing_once() -> None:
    end = replace(PROGRESS, update=10_000, left_s=0.0)
    later = replace(PROGRESS, scores=(score("accuracy", 0.99, update=1000),))
    said = text_of([STARTING, PROGRESS, PROGRESS, later, end, end], terminal=False)
    assert said.splitlines() == [
        "Training on the CPU: so there.",
        "test after update 500: accuracy 0.9812, loss 0.07",
        "test after update 1,000: accuracy 0.99",
        "test after update 500: accuracy 0.9812, loss 0.07",
        "update 10,000 of 10,000, loss 0.06123, 15,322 samples/s, learning rate 0.005, "
        "epoch 175.80",
    ]


def test_quiet_reports_only_notes() -> None:
    assert text_of([STARTING, PROGRESS], terminal=True, quiet=True) == (
        "Training on the CPU: so there.\n"
    )


def test_a_terminal_is_redrawn_in_place() -> None:
    said = text_of([STARTING, PROGRESS, PROGRESS], terminal=True)
    assert said.count("Training on the CPU") == 1
    assert "Loading the engine" in said
    assert "\x1b[1A" in said  # the cursor goes up to draw over the lines before
    assert said.rstrip().endswith("\x1b[?25h")  # and is visible again at the end


def test_a_writer_that_fails_is_left_alone() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

    with TrainingView(Console(file=Gone(), force_terminal=False)) as view:
        view(PROGRESS)
        view(PROGRESS)

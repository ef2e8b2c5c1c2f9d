"""loss.png: what the figure contains."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.lines import Line2D

from caffe_batch.errors import InputError
from caffe_batch.jobs.metrics import Metrics, MetricsFile, NetTestMetrics, UpdateMetrics
from caffe_batch.reporting.loss_plot import draw, smooth, write_loss_plot


def update(number: int, loss: float | None) -> UpdateMetrics:
    return UpdateMetrics(number, loss, 0.01, 18 * number, None, 0.5 * number)


def score(
    number: int, output: str, value: float | None, /, *, index: int = 0, net: int = 0
) -> NetTestMetrics:
    return NetTestMetrics(number, net, index, output, value, output == "loss", 0.0)


def xs(line: Line2D) -> list[float]:
    return [float(x) for x in np.asarray(line.get_xdata())]


def ys(line: Line2D) -> list[float]:
    return [float(y) for y in np.asarray(line.get_ydata())]


RUN: list[Metrics] = [
    *(update(number, 2.0 / number) for number in range(1, 301)),
    *(score(number, "accuracy", 1 - 1 / (number + 2)) for number in (0, 100, 200, 300)),
    *(score(number, "loss", 2 / (number + 2), index=1) for number in (0, 100, 200, 300)),
]


def test_losses_above_and_accuracy_below() -> None:
    above, below = draw(RUN, title="job").axes
    assert above.get_title(loc="left") == "job"
    assert [line.get_label() for line in above.lines] == [
        "training, each record", "training, mean", "test: loss",
    ]  # fmt: skip
    raw, mean, test = above.lines
    assert xs(raw) == list(range(1, 301))
    assert ys(raw) == [2.0 / number for number in range(1, 301)]
    assert len(ys(mean)) == 300
    assert xs(test) == [0, 100, 200, 300]
    assert above.get_ylabel() == "loss"
    assert above.get_yscale() == "log"  # from 2 down to 1/150
    (accuracy,) = below.lines
    assert accuracy.get_label() == "test: accuracy (last 0.9967)"
    assert (below.get_ylabel(), below.get_xlabel()) == ("accuracy", "update")


def test_a_short_run_without_tests_is_one_panel() -> None:
    (panel,) = draw([update(1, 1.0), update(2, 0.9)], title="job").axes
    assert [line.get_label() for line in panel.lines] == ["training"]
    assert panel.get_yscale() == "linear"
    assert panel.get_xlabel() == "update"


def test_values_that_are_not_finite_are_gaps() -> None:
    (panel,) = draw([update(1, 1.0), update(2, None)], title="job").axes
    assert [math.isnan(y) for y in ys(panel.lines[0])] == [False, True]
    draw([update(1, None)], title="job")


def test_each_test_output_has_its_own_curve() -> None:
    lines: list[Metrics] = [
        update(1, 1.0),
        score(1, "accuracy", 0.5),
        score(1, "accuracy", 0.25, index=1),
        score(1, "accuracy", 0.75, net=1),
    ]
    _, below = draw(lines, title="job").axes
    assert [line.get_label() for line in below.lines] == [
        "test: accuracy (last 0.5)",
        "test: accuracy (net 0, output 1) (last 0.25)",
        "test: accuracy (net 1, output 0) (last 0.75)",
    ]
    assert below.get_ylabel() == "test output"


def test_nothing_to_draw(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no update has been measured yet"):
        draw([score(0, "accuracy", 0.1)], title="job")


def test_the_file_is_a_png_and_nothing_else_is_left(tmp_path: Path) -> None:
    metrics, picture = tmp_path / "metrics.jsonl", tmp_path / "loss.png"
    with MetricsFile(metrics) as file:
        for line in RUN:
            file.append(line)
    write_loss_plot(metrics, picture, title="job")
    assert picture.read_bytes().startswith(b"\x89PNG\r\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["loss.png", "metrics.jsonl"]


def test_smoothing_skips_what_is_missing() -> None:
    assert smooth([1.0, math.nan, 3.0, 5.0], 3) == [1.0, 2.0, 4.0, 4.0]
    assert all(map(math.isnan, smooth([math.nan], 3)))
    assert smooth([], 3) == []

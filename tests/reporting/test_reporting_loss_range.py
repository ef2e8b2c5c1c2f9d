"""Which losses a picture shows: none is hidden without a word, and none presses the rest flat."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from caffe_batch.jobs.metrics import NetTestMetrics, UpdateMetrics
from caffe_batch.reporting.loss_plot import draw
from caffe_batch.reporting.loss_range import LossRange, loss_range
from caffe_batch.reporting.training_view import sparkline

FALLING = [2.5 * 0.99**number for number in range(100)]
DIVERGING = [*FALLING, *(1.5**number for number in range(20)), math.nan]


@pytest.mark.parametrize(
    ("losses", "above"),
    [
        ([87.3, *FALLING], 1),
        ([87.3, 40.0, 12.0, *FALLING], 3),
        (FALLING, 0),
        (DIVERGING, 0),
        ([2.0] * 50, 0),
        ([9.0, *[2.0] * 50], 0),  # nothing else to see
        ([87.3, 2.0, 1.0], 0),
        ([1.0], 0),
        ([*FALLING[:50], 90.0, *FALLING[50:]], 0),  # a spike later on is worth seeing
    ],
)
def test_first_values_far_above(losses: list[float], above: int) -> None:
    found = loss_range(losses)
    assert found.above == above
    finite = [loss for loss in losses if math.isfinite(loss)]
    assert [loss for loss in finite if not found.low <= loss <= found.high] == finite[:above]
    assert (found.first == finite[0]) is bool(above)
    assert bool(found.note) is bool(above)


@pytest.mark.parametrize("losses", [[], [math.nan], [math.inf, math.nan]])
def test_nothing_finite(losses: list[float]) -> None:
    assert loss_range(losses) == LossRange(0.0, 1.0) or losses == []


def test_the_sparkline_is_not_pressed_flat() -> None:
    line = sparkline([90.0, *FALLING], 101)
    assert line[:2] == "██"
    assert set(line) == set("▁▂▃▄▅▆▇█")


def updates(losses: list[float]) -> list[UpdateMetrics]:
    return [
        UpdateMetrics(update, None if math.isnan(loss) else loss, 0.1, update, None, 1.0)
        for update, loss in enumerate(losses, 1)
    ]


def test_the_plot_names_what_lies_outside() -> None:
    panel = draw(updates([87.3, *FALLING]), title="t").axes[0]
    assert [text.get_text() for text in panel.texts] == ["↑ the first value lies above, up to 87.3"]
    assert panel.get_ylim()[1] < 3
    assert panel.get_yscale() == "linear"
    assert len(draw(updates(FALLING), title="t").axes[0].texts) == 0
    assert draw(updates(DIVERGING), title="t").axes[0].get_yscale() == "log"


@pytest.mark.parametrize("count", [1, 5, 40])
def test_every_curve_is_drawn(count: int, tmp_path: Path) -> None:
    tests = [
        NetTestMetrics(update, 0, index, f"out{index}", 0.1 * index, index % 2 == 1, 1.0)
        for update in (1, 2) for index in range(2 * count)
    ]  # fmt: skip
    figure = draw([*updates([2.0, 1.0]), *tests], title="t")
    drawn, looks = set(), set()
    for panel in figure.axes:
        for line in panel.lines:
            name = re.match(r"test: (\w+)", str(line.get_label()))
            if name:
                drawn.add(name[1])
                looks.add((panel, line.get_color(), line.get_linestyle()))
    assert drawn == {f"out{index}" for index in range(2 * count)}
    assert len(looks) == 2 * min(count, 16)
    figure.savefig(tmp_path / "picture.png")


def test_a_single_value_is_a_dot() -> None:
    (line,) = draw(updates([2.0]), title="t").axes[0].lines
    assert line.get_marker() == "o"

"""compare.png: what the figure contains."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.lines import Line2D

from caffe_batch.errors import InputError
from caffe_batch.experiments.standings import Comparison, Point, SeedRun, Standing
from caffe_batch.jobs.strategy_files import StrategyFacts
from caffe_batch.reporting.compare_plot import draw, write_compare_plot
from caffe_batch.reporting.compare_view import run_line


def ys(line: Line2D) -> list[float]:
    return [float(y) for y in np.asarray(line.get_ydata())]


def xs(line: Line2D) -> list[float]:
    return [float(x) for x in np.asarray(line.get_xdata())]


def standing(
    name: str, scores: dict[int, list[float | None]], losses: list[float | None], batch: int = 4
) -> Standing:
    """A way whose seeds have these scores and all the same losses."""
    runs = tuple(
        SeedRun(
            seed, f"runs/{name}/seed-{seed}",
            tuple(Point(10 * i, 10 * batch * i, 2.0 * i * seed, score, loss)
                  for i, (score, loss) in enumerate(zip(own, losses, strict=True), 1)),
            diverged=None in losses,
        )
        for seed, own in scores.items()
    )  # fmt: skip
    return Standing(StrategyFacts(name, name, batch_size=batch, iter_size=1), runs)


GOOD = standing("good", {1: [0.5, 0.96], 3: [0.7, 0.98]}, [1.0, 0.02])
BAD = standing("bad", {1: [0.1, 0.1], 3: [0.1, 0.1]}, [9.0, None], batch=2)


def comparison(*standings: Standing, score: str | None = "accuracy") -> Comparison:
    return Comparison(score, "loss", (1, 3), 1, {}, standings)


def test_scores_and_losses_against_samples_and_seconds() -> None:
    figure = draw(comparison(GOOD, BAD))
    scores, scores_by_time, losses, losses_by_time = figure.axes
    good, bad = scores.lines
    assert ys(good) == pytest.approx([0.6, 0.97])
    assert xs(good) == [40, 80]
    assert ys(scores_by_time.lines[0]) == ys(good)
    assert xs(scores_by_time.lines[0]) == [4, 8]  # the mean of seeds 1 and 3
    assert ys(losses.lines[0]) == ys(losses_by_time.lines[0]) == [1.0, 0.02]
    assert ys(bad) == [0.1, 0.1]
    assert math.isnan(ys(losses.lines[1])[1])
    assert [axis.get_ylabel() for axis in (scores, losses)] == ["test accuracy", "test loss"]
    assert losses.get_xlabel() == "samples seen"
    assert losses_by_time.get_xlabel() == "seconds of training"
    assert losses.get_yscale() == "log"  # from 9 to 0.02
    assert scores.get_yscale() == "logit"
    low, high = scores.get_ylim()
    assert low < 0.1 < 0.98 < high < 1
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "good 4 x 1: 0.97 ± 0.014", "bad 2 x 1: 0.1 ± 0 (2 of 2 diverged)",
    ]  # fmt: skip


def test_the_band_is_one_standard_deviation() -> None:
    scores = draw(comparison(GOOD)).axes[0]
    (band,) = scores.collections
    (path,) = band.get_paths()
    vertices = np.asarray(path.vertices)
    deviation = 0.2 / math.sqrt(2)  # of 0.5 and 0.7
    first = sorted({round(float(y), 9) for x, y in vertices if x == 40})
    assert first == pytest.approx([0.6 - deviation, 0.6 + deviation])


def test_every_way_looks_its_own() -> None:
    ways = [standing(f"way{i}", {1: [0.5, 0.9]}, [1.0, 0.5]) for i in range(9)]
    lines = draw(comparison(*ways)).axes[0].lines
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 9


def test_a_net_without_a_score_has_one_row() -> None:
    figure = draw(comparison(GOOD, score=None))
    assert len(figure.axes) == 2
    assert figure.axes[0].get_ylabel() == "test loss"


def test_a_score_that_is_not_an_accuracy_has_a_plain_axis() -> None:
    large = standing("large", {1: [3.0, 17.0]}, [1.0, 0.9])
    assert draw(comparison(large)).axes[0].get_yscale() == "linear"


def test_nothing_to_draw(tmp_path: Path) -> None:
    failed = Standing(StrategyFacts("x", "x"), (SeedRun(1, "x", (), False, "out of memory"),))
    with pytest.raises(InputError, match="no training has been tested"):
        write_compare_plot(comparison(failed), tmp_path / "compare.png")
    assert list(tmp_path.iterdir()) == []


def test_the_picture(tmp_path: Path) -> None:
    write_compare_plot(comparison(GOOD, BAD), tmp_path / "compare.png")
    content = (tmp_path / "compare.png").read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = (int.from_bytes(content[at : at + 4], "big") for at in (16, 20))
    assert width > height > 300
    assert [path.name for path in tmp_path.iterdir()] == ["compare.png"]


def test_what_one_training_came_to() -> None:
    assert run_line(GOOD.runs[1]) == "score 0.98, loss 0.02, 12 s"
    assert run_line(BAD.runs[0]) == "score 0.1, 4 s, diverged"
    assert run_line(SeedRun(1, "x", (), False)) == "finished, without a test"
    assert run_line(SeedRun(1, "x", (), False, "killed")) == "failed: killed"

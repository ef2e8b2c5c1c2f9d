"""The memory table and the memory plot: every byte appears in them once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from rich.console import Console

from caffe_batch.api.recipes import with_solver
from caffe_batch.errors import InputError
from caffe_batch.memory import CaffeMemory, Prediction
from caffe_batch.net import Sources, read_recipe
from caffe_batch.rendering import render
from caffe_batch.reporting.memory_plot import draw, write_memory_plot
from caffe_batch.reporting.memory_table import memory_table

SIZES = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> CaffeMemory:
    path = tmp_path_factory.mktemp("nets") / "lenet.prototxt"
    path.write_text(render("lenet_digits", {"data": "dummy"}))
    recipe = read_recipe(path)
    recipe, _ = with_solver(recipe, Sources())
    assert recipe.tests
    return CaffeMemory(recipe, Sources())


@pytest.fixture(scope="module")
def prediction(model: CaffeMemory) -> Prediction:
    return model.at(8)


def table_lines(prediction: Prediction, **options: bool | int) -> list[str]:
    console = Console(width=160)
    with console.capture() as capture:
        console.print(memory_table(prediction, width=160, **options))  # type: ignore[arg-type]
    return capture.get().splitlines()


def sums(lines: list[str]) -> list[float]:
    """The bytes of the column `sum`, the last but one, to three digits."""
    words = [line.split()[-3:-1] for line in lines]
    return [float(number) * SIZES[unit] for number, unit in words]


@pytest.mark.parametrize(
    "options", [{}, {"top": 3}, {"by_type": True}, {"by_type": True, "top": 2}]
)
def test_the_rows_sum_to_the_total(prediction: Prediction, options: dict[str, bool | int]) -> None:
    *rows, total = sums(table_lines(prediction, **options)[1:])
    assert sum(rows) == pytest.approx(prediction.peak_bytes, rel=0.01)
    assert total == pytest.approx(prediction.peak_bytes, rel=0.01)
    if "top" in options:
        assert len(rows) == options["top"] + 1


def test_types_are_each_there_once(prediction: Prediction) -> None:
    lines = table_lines(prediction, by_type=True)[1:-1]
    kinds = [line.split()[2] for line in lines]
    assert sorted(kinds) == sorted({layer.type for layer in prediction.layers})
    assert sums(lines) == sorted(sums(lines), reverse=True)


def bar_total(panel: Axes) -> float:
    return sum(bar.get_height() for bar in panel.patches if isinstance(bar, Rectangle))


def test_the_picture_holds_every_byte(model: CaffeMemory, prediction: Prediction) -> None:
    curve = model.peaks([1, 2, 4, 8, 16])
    figure = draw(prediction, "LeNet", 8, {**curve, 32: "refused"}, 10**6)
    along, against = figure.axes
    assert bar_total(along) == prediction.peak_bytes
    peaks, chosen, budget = (np.asarray(line.get_xydata()).tolist() for line in against.lines)
    assert peaks == [[size, peak] for size, peak in curve.items()]
    assert chosen == [[8, prediction.peak_bytes]]
    assert {height for _, height in budget} == {10**6}


@pytest.mark.parametrize(("name", "head"), [("m.png", b"\x89PNG"), ("m.svg", b"<?xml")])
def test_the_ending_decides_the_format(
    model: CaffeMemory, prediction: Prediction, tmp_path: Path, name: str, head: bytes
) -> None:
    write_memory_plot(
        prediction, tmp_path / name, title="LeNet", batch_size=8, curve=model.peaks([4, 8])
    )
    assert (tmp_path / name).read_bytes().startswith(head)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_other_endings_are_refused(prediction: Prediction, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a picture ends in \.png or \.svg"):
        write_memory_plot(prediction, tmp_path / "m.gif", title="", batch_size=8, curve={8: 1})
    assert not list(tmp_path.iterdir())

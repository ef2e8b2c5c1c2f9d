"""The peak at many batch sizes: the same as asking for each, with fewer questions."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from caffe_batch.errors import ShapeError
from caffe_batch.memory import Model
from caffe_batch.memory.curve import peak_curve
from caffe_batch.net import Sources, read_recipe
from caffe_batch.planning.split import divisors
from caffe_batch.rendering import render

LINES = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), min_size=1, max_size=4)


@given(sums=st.lists(LINES, max_size=4), one=st.integers(0, 10**6), limit=st.integers(1, 400))
def test_any_sum_of_largest_lines(sums: list[list[tuple[int, int]]], one: int, limit: int) -> None:
    """A sum of maxima of lines, another value at 1, refused above a limit."""

    def at(size: int) -> int:
        if size > limit:
            raise ShapeError("too large")
        if size == 1:
            return one
        return sum(max(fixed + slope * size for fixed, slope in lines) for lines in sums)

    sizes = list(reversed(divisors(360)))
    curve = peak_curve(at, sizes)
    assert list(curve) == sizes
    for size in sizes:
        assert curve[size] == (at(size) if size <= limit else "too large")


def test_few_questions_for_a_straight_line() -> None:
    asked: list[int] = []

    def at(size: int) -> int:
        asked.append(size)
        return 7 + 3 * size

    peak_curve(at, divisors(4096))
    assert sorted(asked) == [1, 2, 64 * 2, 4096]


def test_real_nets(tmp_path: Path) -> None:
    for name in ("lenet_digits", "caffenet", "resnet50"):
        path = tmp_path / f"{name}.prototxt"
        path.write_text(render(name, {"data": "dummy"}))
        recipe = read_recipe(path)
        model = Model(recipe, Sources())
        sizes = [1, 2, 3, 4, 6, 8, 12, 24]
        expected = {size: model.at(size).peak_bytes for size in sizes}
        assert model.peaks(sizes) == expected

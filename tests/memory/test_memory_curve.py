"""The peak at many batch sizes: the same as predicting each, with fewer predictions."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from caffe_batch.errors import ShapeError
from caffe_batch.memory import CaffeMemory
from caffe_batch.memory.curve import peak_curve
from caffe_batch.memory.ledger import Terms
from caffe_batch.net import Sources, read_recipe
from caffe_batch.planning.split.candidates import divisors
from caffe_batch.rendering import render

LINES = st.tuples(st.integers(0, 10**6), st.integers(0, 10**6))


@given(
    straight=LINES,
    either=st.lists(st.tuples(LINES, LINES), max_size=4),
    one=st.integers(1, 10**6),
    limit=st.integers(1, 400),
)
def test_any_sum_of_lines_and_larger_lines(
    straight: tuple[int, int],
    either: list[tuple[tuple[int, int], tuple[int, int]]],
    one: int,
    limit: int,
) -> None:
    """Another value at 1, refused above a limit."""

    def at(size: int) -> Terms | int:
        if size > limit:
            raise ShapeError("too large")
        if size == 1:
            return one
        pairs = [(a + b * size, c + d * size) for (a, b), (c, d) in either]
        return Terms(straight[0] + straight[1] * size, tuple(pairs))

    sizes = list(reversed(divisors(360)))
    curve = peak_curve(at, sizes)
    assert list(curve) == sizes
    for size in sizes:
        if size > limit:
            assert curve[size] == "too large"
        else:
            expected = at(size)
            assert curve[size] == (expected if isinstance(expected, int) else expected.total)


@given(squares=st.integers(1, 100), slope=st.integers(0, 100))
def test_a_request_that_is_not_a_line_is_asked_for_again(squares: int, slope: int) -> None:
    sizes = divisors(720)
    curve = peak_curve(lambda size: Terms(squares * size**2 + slope * size, ()), sizes)
    assert curve == {size: squares * size**2 + slope * size for size in sizes}


def test_few_questions() -> None:
    asked: list[int] = []

    def at(size: int) -> Terms | int:
        asked.append(size)
        return Terms(7 + 3 * size, ((size, 100),))

    peak_curve(at, divisors(4096))
    assert sorted(asked) == [1, 2, 128, 4096]


def test_real_nets(tmp_path: Path) -> None:
    for name in ("lenet_digits", "caffenet", "resnet50"):
        path = tmp_path / f"{name}.prototxt"
        path.write_text(render(name, {"data": "dummy"}))
        recipe = read_recipe(path)
        model = CaffeMemory(recipe, Sources())
        sizes = [1, 2, 3, 4, 6, 8, 12, 24]
        expected = {size: model.at(size).peak_bytes for size in sizes}
        assert model.peaks(sizes) == expected


def test_the_batch_of_a_data_layer_that_is_a_loss_too(tmp_path: Path) -> None:
    """Its Split takes the loss weight over; the batch size must still arrive."""
    path = tmp_path / "net.prototxt"
    path.write_text(
        'layer { name: "data" type: "DummyData" top: "a" loss_weight: 1 '
        "dummy_data_param { shape { dim: 6 dim: 5 } } }"
        'layer { name: "ip" type: "InnerProduct" bottom: "a" top: "b" '
        "inner_product_param { num_output: 3 } }"
    )
    model = CaffeMemory(read_recipe(path), Sources())
    assert model.train_net(2).blob_shapes == {
        "a": (2, 5), "a_data_0_split_0": (2, 5), "a_data_0_split_1": (2, 5), "b": (2, 3),
    }  # fmt: skip

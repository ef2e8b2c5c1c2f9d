"""metrics.jsonl: writing, reading, and going back to a snapshot."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from caffe_batch import __version__
from caffe_batch.jobs.json_files import NewerFormatError
from caffe_batch.jobs.metrics import (
    Kept,
    Metrics,
    MetricsFile,
    MetricsFollower,
    NetTestMetrics,
    UpdateMetrics,
    check_metrics_format,
    damaged_lines,
    finite,
    last_scores,
    read_line,
    read_metrics,
    rewind,
)


def update(number: int) -> UpdateMetrics:
    return UpdateMetrics(number, 2.0 / number, 0.01, 18 * number, None, 0.5 * number, 18)


def after(number: int, index: int = 0, net: int = 0) -> NetTestMetrics:
    return NetTestMetrics(number, net, index, "accuracy", 0.75, False, 0.5 * number + 0.1)


LINES: list[Metrics] = [update(1), after(2), update(2), update(3), after(4), update(4)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "metrics.jsonl"
    with MetricsFile(file) as metrics:
        for line in LINES:
            metrics.append(line)
    return file


def test_round_trip(path: Path) -> None:
    assert list(read_metrics(path)) == LINES


def test_keys_that_other_programs_read(path: Path) -> None:
    head, first, second = (json.loads(line) for line in path.read_text().splitlines()[:3])
    assert head == {"format": 2, "caffe_batch_version": __version__}
    assert list(first) == [
        "update", "loss", "learning_rate", "samples", "epoch", "seconds", "effective_batch",
    ]  # fmt: skip
    assert list(second) == [
        "update", "test_net", "index", "output", "value", "is_loss", "seconds",
    ]  # fmt: skip


def test_lines_of_an_older_version_have_no_effective_batch(path: Path) -> None:
    path.write_text(path.read_text().replace(', "effective_batch": 18', ""))
    assert next(read_metrics(path)) == replace(update(1), effective_batch=None)


def test_lines_are_visible_once_flushed(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    with MetricsFile(file) as metrics:
        metrics.append(update(1))
        metrics.flush()
        assert list(read_metrics(file)) == [update(1)]


def test_a_line_cut_short_by_a_crash_is_left_out(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])
    assert list(read_metrics(path)) == LINES[:-1]


def test_numbers_have_the_precision_of_a_float() -> None:
    assert finite(0.1 + 0.2) == 0.3
    assert finite(math.inf) is finite(-math.inf) is finite(math.nan) is None


@pytest.mark.parametrize(
    ("snapshot", "again", "kept", "told"),
    [
        (0, True, [], Kept()),
        (2, True, [update(1), update(2)], Kept(2, 1.0)),  # the test after update 2 will be repeated
        (2, False, [update(1), after(2), update(2)], Kept(2, 1.1)),
        (3, False, [update(1), after(2), update(2), update(3)], Kept(3, 1.5)),
        (9, False, LINES, Kept(4, 2.1)),
    ],
)
def test_rewind(path: Path, snapshot: int, again: bool, kept: list[Metrics], told: Kept) -> None:
    assert rewind(path, snapshot, tests_again=again) == told
    assert list(read_metrics(path)) == kept
    assert [file.name for file in path.parent.iterdir()] == ["metrics.jsonl"]


def test_broken_lines_are_passed_over_and_told(path: Path) -> None:
    first, *others = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([first, b'{"update": 2, "lo\n', b"\xff\x00\n", b"[]\n", *others]))
    assert list(read_metrics(path)) == LINES
    found = rewind(path, 9, tests_again=False)
    assert found == Kept(4, 2.1, damaged=3)
    assert found.notes(0, 4) == [
        "3 lines of metrics.jsonl can't be understood: set aside in metrics.jsonl.damaged."
    ]
    assert damaged_lines(path).read_bytes() == b'{"update": 2, "lo\n\xff\x00\n[]\n'
    assert "updates 5 to 7" in found.notes(0, 7)[1]
    assert rewind(path, 9, tests_again=False) == Kept(4, 2.1)


def test_a_rewind_that_a_kill_cut_short_is_made_anew(path: Path) -> None:
    with MetricsFile(path.with_name("metrics.jsonl.new")) as half:
        half.append(update(1))
    assert rewind(path, 9, tests_again=False) == Kept(4, 2.1)
    assert list(read_metrics(path)) == LINES


def test_rewind_without_a_file(tmp_path: Path) -> None:
    assert rewind(tmp_path / "none", 5, tests_again=True) == Kept()
    assert not list(tmp_path.iterdir())


def test_last_scores_are_those_of_each_output(path: Path) -> None:
    with MetricsFile(path) as metrics:
        metrics.append(after(6, index=1))
        metrics.append(after(6, net=1))
        metrics.append(after(6))
    assert last_scores(path) == (after(6), after(6, index=1), after(6, net=1))
    assert last_scores(path.with_name("none")) == ()


def test_large_outputs_of_older_versions_are_summarised(tmp_path: Path) -> None:
    """A line for each element; those of up to 32 stay as they are, and so does the file."""
    large = [replace(after(2, index), output="fc", value=float(index)) for index in range(1000)]
    large[7] = replace(large[7], value=None)
    few = [replace(after(2, 1000 + index), output="ip2") for index in range(32)]
    path = tmp_path / "metrics.jsonl"
    with MetricsFile(path) as metrics:
        last = replace(large[0], update=4)
        lines: list[Metrics] = [update(1), *large, *few, update(2), last, update(3)]
        for line in lines:
            metrics.append(line)
    summary = replace(large[0], value=None, count=1000, least=0.0, most=999.0)
    expected = [update(1), summary, *few, update(2), last, update(3)]
    assert list(read_metrics(path)) == expected
    with closing(MetricsFollower(path)) as follower:
        assert follower.read() == (False, expected)
    assert last_scores(path)[0] == last
    rewind(path, 2, tests_again=False)
    assert len(path.read_text().splitlines()) == 1 + 1 + 1000 + 32 + 1


def test_a_file_of_the_first_format_stays_one(path: Path) -> None:
    """A file says its format in its first line or not at all."""
    lines = path.read_text().splitlines(keepends=True)[1:]
    path.write_text("".join(lines))
    rewind(path, 2, tests_again=False)
    with MetricsFile(path) as metrics:
        metrics.append(update(3))
    assert path.read_text().splitlines(keepends=True) == [*lines[:3], lines[3]]
    rewind(path, 0, tests_again=True)
    with MetricsFile(path) as metrics:
        metrics.append(update(1))
    assert list(read_metrics(path)) == [update(1)]
    assert path.read_text().startswith('{"format": 2, ')


def test_lines_with_keys_of_others_stay_byte_for_byte(path: Path) -> None:
    first, *lines = path.read_bytes().splitlines(keepends=True)
    strange = [line.replace(b'{"update"', b'{ "x":[1 ],"update"') for line in lines]
    path.write_bytes(b"".join([first, *strange]))
    assert list(read_metrics(path)) == LINES
    assert rewind(path, 9, tests_again=False) == Kept(4, 2.1)
    assert path.read_bytes() == b"".join([first, *strange])
    assert not damaged_lines(path).exists()


def test_damaged_lines_add_up(path: Path) -> None:
    for part in (b"a", b"b"):
        path.write_bytes(path.read_bytes() + part)
        assert rewind(path, 9, tests_again=False) == Kept(4, 2.1, damaged=1)
    assert damaged_lines(path).read_bytes() == b"a\nb\n"
    assert rewind(path, 9, tests_again=False).notes(0, 4) == []
    assert Kept(4, 2.1, damaged=1).notes(0, 4) == [
        "1 line of metrics.jsonl can't be understood: set aside in metrics.jsonl.damaged."
    ]


def test_a_newer_file_stays_as_it_is(path: Path) -> None:
    text = path.read_bytes().replace(b'"format": 2', b'"format": 3')
    path.write_bytes(text)
    with closing(MetricsFollower(path)) as follower:
        reads: list[Callable[[], object]] = [
            lambda: list(read_metrics(path)),
            lambda: rewind(path, 2, tests_again=False),
            lambda: check_metrics_format(path),
            follower.read,
        ]
        for read in reads:
            with pytest.raises(NewerFormatError, match=r"has format 3 of caffe-batch .* up to 2"):
                read()
    assert path.read_bytes() == text


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("update", "1"), ("update", -1), ("loss", "low"), ("loss", True), ("learning_rate", None),
        ("samples", 1.5), ("epoch", []), ("seconds", -1), ("seconds", 1e300),
        ("effective_batch", 0), ("seconds", "NaN"),
    ],
)  # fmt: skip
def test_a_line_with_a_wrong_field_is_damaged(path: Path, field: str, value: object) -> None:
    content = json.loads(path.read_text().splitlines()[1])
    with pytest.raises(ValueError, match=f"{field} should be"):
        read_line(path, json.dumps({**content, field: value}).encode())


def test_a_rate_without_bounds(path: Path) -> None:
    """Infinity as 0.1.0 wrote it, which is no JSON, and as it is written now."""
    endless = replace(update(5), learning_rate=math.inf)
    with MetricsFile(path) as metrics:
        metrics.append(endless)
    line = path.read_bytes().splitlines()[-1]
    assert json.loads(line, parse_constant=pytest.fail)["learning_rate"] == "inf"
    assert read_line(path, line) == endless
    assert read_line(path, line.replace(b'"inf"', b"Infinity")) == endless

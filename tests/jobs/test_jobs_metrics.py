"""metrics.jsonl: writing, reading, and going back to a snapshot."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from caffe_batch import __version__
from caffe_batch.jobs.metrics import (
    Kept,
    Metrics,
    MetricsFile,
    NetTestMetrics,
    UpdateMetrics,
    damaged_lines,
    finite,
    last_scores,
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

"""strategies.json and compare.json: formats, foreign keys, and wrong fields."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from caffe_batch import __version__
from caffe_batch.errors import InputError
from caffe_batch.jobs.compare_file import compare_file, read_comparison, write_comparison
from caffe_batch.jobs.strategy_files import read_strategies, strategies_file

WAY: dict[str, Any] = {
    "name": "small", "title": "Small batches", "possible": True, "why_not": None, "batch_size": 4,
    "iter_size": 1, "learning_rate": 0.01, "momentum": 0.9, "noise_relative": None, "x": [1],
}  # fmt: skip
CONTENT: dict[str, Any] = {
    "recipe": {"effective_batch": 12},
    "strategies": [WAY, {**WAY, "name": "grow", "possible": False, "why_not": "so it is"}],
    "request": {"gpu_memory": "1GiB", "engine": "cudnn"},
    "caffe_batch_version": "0.1.0",
}


def write(folder: Path, content: object) -> None:
    strategies_file(folder).write_text(json.dumps(content))


def test_the_first_format(tmp_path: Path) -> None:
    write(tmp_path, CONTENT)
    found = read_strategies(tmp_path)
    small, grow = found.ways
    assert (small.name, small.batch_size, small.learning_rate) == ("small", 4, 0.01)
    assert (small.possible, small.why_not, small.noise_relative) == (True, "", None)
    assert small.content == WAY
    assert (grow.possible, grow.why_not) == (False, "so it is")
    assert found.request == {
        "gpu_memory": "1GiB", "engine": "caffe", "build": "cudnn", "input_shape": [],
    }  # fmt: skip


def test_the_present_format(tmp_path: Path) -> None:
    write(tmp_path, {**CONTENT, "format": 2})
    assert read_strategies(tmp_path).request == CONTENT["request"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": 1}, "recipe should be a JSON object, found 1"),
        ({"strategies": {}}, "strategies should be a list, found {}"),
        ({"strategies": [{**WAY, "possible": 1}]}, "strategies[0].possible should be true or"),
        ({"strategies": [{**WAY, "learning_rate": "x"}]}, "strategies[0].learning_rate should be"),
        ({"request": []}, "request should be a JSON object, found []"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    write(tmp_path, {**CONTENT, **change})
    with pytest.raises(InputError, match=re.escape(message)):
        read_strategies(tmp_path)


def test_a_comparison_keeps_what_others_added(tmp_path: Path) -> None:
    assert read_comparison(tmp_path) == {}
    write_comparison(tmp_path, {}, {"score": "accuracy", "seeds": [1]})
    content = json.loads(compare_file(tmp_path).read_text())
    assert content == {
        "format": 2, "caffe_batch_version": __version__, "score": "accuracy", "seeds": [1],
    }  # fmt: skip
    compare_file(tmp_path).write_text(json.dumps({**content, "remark": "mine"}))
    write_comparison(tmp_path, read_comparison(tmp_path), {"score": "accuracy", "seeds": [1, 2]})
    content = json.loads(compare_file(tmp_path).read_text())
    assert (content["remark"], content["seeds"]) == ("mine", [1, 2])


def test_a_comparison_of_the_first_format(tmp_path: Path) -> None:
    compare_file(tmp_path).write_text('{"score": null}')
    assert read_comparison(tmp_path) == {"score": None}

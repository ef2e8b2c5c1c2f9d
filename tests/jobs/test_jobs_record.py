"""job.json: both formats, foreign keys, and wrong fields."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from caffe_batch.errors import InputError
from caffe_batch.jobs.record import JobState, read_record, write_record

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "0.1.0"


def golden(name: str = "growing") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((GOLDEN / name / "job.json").read_text())
    return content


def written(folder: Path, content: object) -> Path:
    path = folder / "job.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("name", ["finished", "interrupted", "growing", "resplit"])
def test_the_first_format(name: str, tmp_path: Path) -> None:
    content = golden(name)
    record = read_record(GOLDEN / name / "job.json")
    assert record.state is JobState(content["state"])
    assert [each.stage for each in record.attempts] == [a["phase"] for a in content["attempts"]]
    assert {each.engine for each in record.attempts} == {"caffe"}
    assert record.more == {}
    path = tmp_path / "job.json"
    write_record(path, record)
    new = json.loads(path.read_text())
    assert new.pop("format") == 2
    assert new.pop("keep_best") is None
    for attempt in new["attempts"]:
        attempt["phase"] = attempt.pop("stage")
        assert attempt.pop("engine") == "caffe"
        assert attempt.pop("precision") == "float32"
        assert attempt.pop("engine_version") == attempt["caffe_version"] == "1.0.0"
        assert attempt.pop("records") is None
    assert new == content
    assert read_record(path) == record


def test_keys_of_others_stay(tmp_path: Path) -> None:
    content = golden()
    content["x"] = [1, {"y": None}]
    content["attempts"][1]["x"] = "z"
    record = read_record(written(tmp_path, content))
    write_record(tmp_path / "job.json", record)
    new = json.loads((tmp_path / "job.json").read_text())
    assert new["x"] == [1, {"y": None}]
    assert [attempt.get("x") for attempt in new["attempts"]] == [None, "z"]


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (["state"], "asleep", "state should be one of running, finished, interrupted, failed"),
        (["state"], None, "state should be text, found null"),
        (["updates"], "1", 'updates should be an integer, found "1"'),
        (["updates_done"], -1, "updates_done should be an integer from 0 on, found -1"),
        (["host"], 1, "host should be text, found 1"),
        (["caffe_batch_version"], [], "caffe_batch_version should be text, found []"),
        (["seed"], 0.5, "seed should be an integer, found 0.5"),
        (["weights"], "x", 'weights should be a list, found "x"'),
        (["initial_state"], 1, "initial_state should be text, found 1"),
        (["attempts"], {}, "attempts should be a list, found {}"),
        (["attempts", 1], 7, "attempts[1] should be a JSON object, found 7"),
        (["attempts", 1, "number"], 0, "attempts[1].number should be an integer from 1 on"),
        (["attempts", 1, "started"], "now", "attempts[1].started should be a time in ISO 8601"),
        (["attempts", 1, "ended"], 5, "attempts[1].ended should be text, found 5"),
        (["attempts", 1, "pid"], None, "attempts[1].pid should be an integer, found null"),
        (["attempts", 1, "first_update"], "0", "attempts[1].first_update should be an integer"),
        (["attempts", 1, "last_update"], 10**30, "attempts[1].last_update should be an integer"),
        (["attempts", 1, "choices"], [1], "attempts[1].choices[0] should be text, found 1"),
        (["attempts", 1, "phase"], "2", "attempts[1].phase should be an integer"),
        (["attempts", 1, "detail"], "\ud800", "attempts[1].detail should be text without lone"),
    ],
)
def test_a_wrong_field_is_named(
    place: list[str | int], value: object, message: str, tmp_path: Path
) -> None:
    content: Any = golden()
    inner = content
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    with pytest.raises(InputError, match=re.escape(message)) as refused:
        read_record(written(tmp_path, content))
    assert refused.value.hint is not None
    assert "--restart" not in refused.value.hint
    assert "continues from the newest snapshot" in refused.value.hint


@pytest.mark.parametrize("name", ["number", "started", "runtime", "pid", "first_update"])
def test_a_missing_field_is_named(name: str, tmp_path: Path) -> None:
    content = golden()
    del content["attempts"][0][name]
    with pytest.raises(InputError, match=rf"there is no {name} in attempts\[0\]"):
        read_record(written(tmp_path, content))

"""plan.json: both formats, changes that keep unknown keys, and wrong fields."""

from __future__ import annotations

import json
import math
import random
import re
from pathlib import Path
from typing import Any

import pytest

from caffe_batch import __version__
from caffe_batch.errors import InputError
from caffe_batch.jobs.json_files import NewerFormatError
from caffe_batch.jobs.plan_file import PLAN_FORMAT, PlanFile
from caffe_batch.memory.build import Build
from caffe_batch.planning.edits.changes import Change
from tests.jobs.damage import mutated

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "0.1.0"


def golden(name: str = "growing") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((GOLDEN / name / "plan.json").read_text())
    return content


def with_unknown_keys() -> PlanFile:
    """The growing job with a key of another program wherever there may be one."""
    content = golden()
    for each in (content, *content["phases"], *content["audit"], *content["candidates"]):
        each["x"] = {"of": "others"}
    for stage in content["phases"]:
        for change in stage["changes"]:
            change["x"] = 1
    return PlanFile.of(GOLDEN / "growing" / "plan.json", content)


@pytest.mark.parametrize("name", ["finished", "interrupted", "growing", "resplit"])
def test_the_first_format(name: str) -> None:
    path, content = GOLDEN / name / "plan.json", golden(name)
    plan = PlanFile.read(path)
    for key in ("effective_batch", "batch_size", "iter_size", "gpus", "summary", "mode"):
        assert getattr(plan, key) == content[key], key
    for key in ("train_records", "budget_bytes", "predicted_peak_bytes", "verdict"):
        assert getattr(plan, key) == content[key], key
    assert (plan.engine, plan.build, plan.exact) == ("caffe", Build.CAFFE, True)
    assert list(plan.notes) == content["notes"]
    listed = content["phases"] or [{"solver": "solver.prototxt", "net": "net.prototxt"}]
    assert [stage.solver for stage in plan.stages] == [path.parent / s["solver"] for s in listed]
    assert [stage.net for stage in plan.stages] == [path.parent / s["net"] for s in listed]
    assert [c.json() for c in plan.stage_changes()[0]] == content["changes"]


def test_what_is_written_is_of_the_present_format() -> None:
    plan = PlanFile.read(GOLDEN / "growing" / "plan.json")
    content = json.loads(plan.text)
    assert (content["format"], content["engine"], content["build"]) == (2, "caffe", "caffe")
    assert content["stages"] == golden()["phases"]
    assert "phases" not in content
    assert PlanFile.of(plan.path, content) == plan
    assert PlanFile.of(plan.path, content).text == plan.text


def test_unknown_keys_come_through_every_change() -> None:
    plan = with_unknown_keys()
    rate = Change("solver", ("base_lr",), 0.1, 0.05, "why")
    changes = [(*own, rate) for own in plan.stage_changes()]
    planned = {"batch_size": 2, "iter_size": 2, "stages": [{"iter_size": 2 * n} for n in (1, 2, 3)]}
    for changed in (
        plan.with_changes(changes),
        plan.with_change(rate),
        plan.with_split(planned, changes, "out of memory"),
        plan.moved(Path("/elsewhere"), {}),
    ):
        content = json.loads(changed.text)
        for each in (content, *content["stages"], *content["audit"], *content["candidates"]):
            assert each["x"] == {"of": "others"}
        for stage in content["stages"]:
            known = [change for change in stage["changes"] if change["field"] != "base_lr"]
            assert [change["x"] for change in known] == [1] * len(known)
            assert len(known) >= 9
        assert content["changes"] == content["stages"][0]["changes"]


def test_another_split() -> None:
    plan = PlanFile.read(GOLDEN / "growing" / "plan.json")
    planned = {"batch_size": 2, "iter_size": 2, "predicted_peak_bytes": 7, "notes": ["new"]}
    stages = [{"batch_size": 2, "iter_size": count} for count in (2, 4, 8)]
    new = plan.with_split({**planned, "stages": stages}, plan.stage_changes(), "out of memory")
    assert (new.batch_size, new.iter_size, new.predicted_peak_bytes) == (2, 2, 7)
    assert new.notes == ("new",)
    assert [stage["iter_size"] for stage in new.content["stages"]] == [2, 4, 8]
    assert new.stages == plan.stages
    assert new.content["resplits"] == [
        {
            "from": [4, 1],
            "to": [2, 2],
            "predicted_bytes": plan.predicted_peak_bytes,
            "reason": "out of memory",
        }
    ]
    again = new.with_split({"batch_size": 1, "iter_size": 4}, new.stage_changes(), "again")
    assert [each["to"] for each in again.content["resplits"]] == [[2, 2], [1, 4]]


def test_a_change_takes_the_place_of_one_of_its_field() -> None:
    plan = PlanFile.read(GOLDEN / "finished" / "plan.json")
    first = plan.with_change(Change("solver", ("random_seed",), 1, 5, "why"))
    second = first.with_change(Change("solver", ("random_seed",), 5, 6, "why"))
    (change,) = (c for c in second.changes if c["field"] == "random_seed")
    assert (change["from"], change["to"]) == (1, 6)
    assert len(second.changes) == len(first.changes) == len(plan.changes) + 1


def test_a_directory_that_moves() -> None:
    plan = PlanFile.of(Path("/golden/growing/plan.json"), golden())
    new = plan.moved(Path("/new"), {"net": "/new/net.prototxt"})
    assert new.path == Path("/new/plan.json")
    assert new.stages[1].solver == Path("/new/solver.phase2.prototxt")
    assert "/golden/growing/" not in new.text.replace(str(plan.working_directory), "")
    assert new.working_directory == plan.working_directory


def test_numbers_that_json_does_not_have(tmp_path: Path) -> None:
    """They are kept as text where nobody needs them, and named where somebody does."""
    path = tmp_path / "plan.json"
    content = json.dumps({**golden("finished"), "x": 0})
    path.write_text(content.replace('"x": 0', '"x": [NaN, 1e999, -Infinity]'))
    assert json.loads(PlanFile.read(path).text)["x"] == ["NaN", "1e999", "-Infinity"]
    path.write_text(re.sub('"gpus": 1', '"gpus": 1e999', content))
    with pytest.raises(InputError, match="gpus should be an integer, found 1e999\n"):
        PlanFile.read(path)
    change = Change("solver", ("clip_gradients",), math.inf, 5.0, "why")
    text = PlanFile.of(path, golden("finished")).with_changes([[change]]).text
    assert json.loads(text, parse_constant=pytest.fail)["changes"][0]["from"] == "inf"


def test_a_newer_format_is_refused() -> None:
    content = {"format": PLAN_FORMAT + 1, "caffe_batch_version": "9.8.7", "what": "it has"}
    with pytest.raises(NewerFormatError) as refused:
        PlanFile.of(Path("plan.json"), content)
    assert refused.value.message == (
        f"plan.json has format 3 of caffe-batch 9.8.7, and caffe-batch {__version__} reads "
        "formats up to 2"
    )


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"effective_batch": "4"}, 'effective_batch should be an integer, found "4"'),
    ({"effective_batch": True}, "effective_batch should be an integer, found true"),
    ({"batch_size": 0}, "batch_size should be an integer from 1 on, found 0"),
    ({"iter_size": 1.5}, "iter_size should be an integer, found 1.5"),
    ({"gpus": None}, "gpus should be an integer, found null"),
    ({"gpus": 2**63}, f"gpus should be an integer from 1 on, found {2**63}"),
    ({"mode": "tpu"}, 'mode should be one of gpu, cpu, found "tpu"'),
    ({"engine": "x"}, 'build should be one of caffe, cudnn, nvcaffe, found "x"'),
    ({"train_records": []}, "train_records should be an integer, found []"),
    ({"working_directory": 3}, "working_directory should be text, found 3"),
    ({"summary": "\ud800"}, r'summary should be text without lone surrogates, found "\ud800"'),
    ({"notes": "none"}, 'notes should be a list, found "none"'),
    ({"notes": [1]}, "notes[0] should be text, found 1"),
    ({"phases": 1}, "stages should be a list, found 1"),
    ({"phases": [None]}, "stages[0] should be a JSON object, found null"),
    ({"phases": [{}]}, "there is no solver in stages[0]"),
    ({"predicted_peak_bytes": -1}, "predicted_peak_bytes should be an integer from 0 on"),
    ({"lower_bound": 0}, "lower_bound should be true or false, found 0"),
    ({"candidates": [{"batch_size": []}]}, "candidates[0].batch_size should be an integer"),
    ({"input_shapes": {"data": [1, "2"]}}, 'input_shapes.data[1] should be an integer, found "2"'),
    ({"audit": [[]]}, "audit[0] should be a JSON object, found []"),
    ({"audit": [{"verdict": 1}]}, "audit[0].verdict should be text, found 1"),
    ({"changes": [{"file": 1}]}, "changes[0].file should be text, found 1"),
    ({"format": "2"}, 'format should be an integer, found "2"'),
    ({"format": 0}, "format should be an integer from 1 on, found 0"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_a_wrong_field_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as refused:
        PlanFile.of(Path("plan.json"), {**golden(), **changes})
    assert refused.value.message.startswith("plan.json: ")
    assert "Traceback" not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": 1}, "path should be a list, found 1"),
        ({"path": [None]}, "path[0] should be text, found null"),
        ({"layer_name": None}, "layer_name should be text, found null"),
        ({"layer_index": "a"}, 'layer_index should be an integer, found "a"'),
    ],
)
def test_a_wrong_change_is_named(change: dict[str, Any], message: str) -> None:
    content = golden("finished")
    content["changes"][0].update(change)
    plan = PlanFile.of(Path("plan.json"), content)
    with pytest.raises(InputError, match=re.escape(message)):
        plan.stage_changes()


def test_no_damage_makes_another_error() -> None:
    """What is read can be changed and written, and what can't be read is refused as such."""
    draw, changed = random.Random(20261127), 0
    rate = Change("solver", ("base_lr",), 0.1, 0.05, "why")
    planned = {"batch_size": 2, "iter_size": 2, "stages": [{"iter_size": 2 * n} for n in (1, 2, 3)]}
    for _ in range(300):
        content = golden(draw.choice(["finished", "growing", "resplit"]))
        mutated(content, draw)
        try:
            plan = PlanFile.of(GOLDEN / "plan.json", content)
            changes = plan.stage_changes()
        except InputError:
            continue
        plans = (
            plan.with_changes(changes),
            plan.with_change(rate),
            plan.with_split(planned, changes, "out of memory"),
            plan.moved(Path("/elsewhere"), {}),
        )
        for each in plans:
            assert PlanFile.of(each.path, json.loads(each.text)) == each
        changed += 1
    assert changed > 100

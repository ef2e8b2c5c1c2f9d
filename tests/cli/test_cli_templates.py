"""``caffe-batch templates list``: the user's own templates beside those of the package."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest

from caffe_batch.reporting.console import PlainConsole
from caffe_batch.reporting.templates_view import templates_view
from tests.command import call

MINE = """{#-
Mine.

recipe: nobody
  epochs = 2
  records = 10
  base_lr = 0.1

variables:
  data: dummy | lmdb = lmdb  where from
-#}
name: "mine"
layer { name: "data" type: "DummyData" top: "data" top: "label"
        dummy_data_param { shape { dim: 4 dim: 3 } shape { dim: 4 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
        inner_product_param { num_output: 5 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


def test_a_template_of_ones_own_has_a_row(tmp_path: Path) -> None:
    """Its parameters, its memory and its recipe, beside the package's."""
    (tmp_path / "mine.prototxt.j2").write_text(MINE)
    done = call("templates", "list", "--templates", tmp_path, "--json")
    assert done.code == 0, done.err
    rows = {row["name"]: row for row in json.loads(done.out)}
    assert rows.keys() > {"mine", "resnet50"}
    row = rows["mine"]
    assert (row["summary"], row["parameters"]) == ("Mine.", 3 * 5 + 5)
    assert (row["recipe"], row["epochs"]) == ("nobody", 2)
    assert 0 < row["memory_bytes"]["1"] < row["memory_bytes"]["32"]
    text = StringIO()
    PlainConsole(file=text, width=100).print(templates_view([row, rows["solver"]]))
    head, first, second, *_ = text.getvalue().splitlines()
    assert " ".join(head.split()) == "template parameters batch 1 batch 32 what it is for"
    assert first.split()[:2] == ["mine", "20"]
    assert first.rstrip().endswith("Mine.")
    assert second.split()[:2] == ["solver", "Solver:"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("  base_lr: 0.1", "this line of its recipe is no setting: 'base_lr: 0.1'"),
        ("  stepvalue_epochs = soon", "its recipe needs numbers for epochs and records"),
    ],
)
def test_a_mistake_in_the_recipe_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "mine.prototxt.j2").write_text(MINE.replace("  base_lr = 0.1", line))
    done = call("templates", "list", "--templates", tmp_path)
    assert done.code == 2
    assert f"template mine.prototxt.j2: {message}" in done.err


def test_a_missing_folder(tmp_path: Path) -> None:
    done = call("templates", "list", "--templates", tmp_path / "missing")
    assert done.code == 2
    assert "there is no such folder" in done.err

"""The error for a budget that is too small: sizes written into the net are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffe_batch.errors import DoesNotFitError
from caffe_batch.memory import CaffeMemory
from caffe_batch.net import Sources, read_recipe
from caffe_batch.planning import Budget, make_plan

NET = """
layer {{ name: "in" type: "Input" top: "data" top: "label"
  input_param {{ shape {{ dim: 24 dim: 6 }} shape {{ dim: 24 }} }} }}
{layers}
layer {{ name: "ip" type: "InnerProduct" bottom: "{bottom}" top: "ip"
  inner_product_param {{ num_output: 4 }} }}
layer {{ name: "end" type: "Reduction" bottom: "ip" top: "end" loss_weight: 1 }}
"""
SLICE = """
layer { name: "cut" type: "Slice" bottom: "data" top: "one" top: "other"
  slice_param { slice_dim: 0 slice_point: 12 } }
layer { name: "away" type: "Silence" bottom: "other" }
"""
RESHAPE = """
layer { name: "turn" type: "Reshape" bottom: "data" top: "one"
  reshape_param { shape { dim: 12 dim: -1 } } }
"""


def refusal(folder: Path, layers: str, bottom: str) -> DoesNotFitError:
    net = NET.format(layers=layers, bottom=bottom)
    (folder / "net.prototxt").write_text(net)
    recipe = read_recipe(folder / "net.prototxt")
    with pytest.raises(DoesNotFitError) as error:
        make_plan(CaffeMemory(recipe, Sources(())), Budget(100, 0))
    return error.value


def test_a_slice_point_that_no_smaller_batch_has(tmp_path: Path) -> None:
    """12 of a batch go one way, so it takes 12 at least (Caffe builds a net with an empty rest)."""
    error = refusal(tmp_path, SLICE, "one")
    assert error.message.startswith("batch_size 12 needs")
    assert "Caffe refuses smaller ones: at batch_size 1, " in error.message
    assert "slice_point (12,) must rise" in error.message
    assert str(error.hint).startswith(
        "Written out for one batch_size: layer 'cut' slice_param.slice_point: 12. "
    )


def test_a_reshape_to_another_number(tmp_path: Path) -> None:
    """144 values a batch of 24, 6 of batch_size 1: 12 rows take an even batch at least."""
    error = refusal(tmp_path, RESHAPE, "one")
    assert error.message.startswith("batch_size 2 needs")
    assert "Caffe refuses smaller ones: at batch_size 1, " in error.message
    assert "layer 'turn' reshape_param.shape.dim: 12" in str(error.hint)


def test_nothing_is_named_where_every_size_is_built(tmp_path: Path) -> None:
    error = refusal(tmp_path, "", "data")
    assert error.message.startswith("batch_size 1 needs")
    assert "refuses" not in error.message
    assert "Written out" not in str(error.hint)

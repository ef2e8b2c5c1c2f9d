"""The memory of single layers in all their variants, to the byte, beside what Caffe asks for.

``layer_memory.json`` holds nets around one layer each, measured on Caffe's own sources
(tools/stand_in_gpu): device memory in GPU mode, host memory in CPU mode.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from caffe_batch.errors import ShapeError
from caffe_batch.layers import BUILT_IN
from caffe_batch.layers.base import Mode, Shape, Site
from caffe_batch.memory import predict

DATA = json.loads((Path(__file__).parent.parent / "data" / "layer_memory.json").read_text())
CASES = DATA["cases"]


@pytest.mark.parametrize("mode", ["gpu", "cpu"])
@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_bytes_are_the_measured_ones(case: dict[str, Any], mode: Mode, tmp_path: Path) -> None:
    net, solver = tmp_path / "net.prototxt", tmp_path / "solver.prototxt"
    net.write_text(case["net"])
    solver.write_text(f'net: "{net}"\nsolver_mode: {mode.upper()}\n{DATA["about"]["solver"]}')
    prediction = predict(net, solver, mode=mode)
    after_build, peak = case[mode]
    assert prediction.after_build_bytes == after_build
    assert prediction.peak_bytes == peak
    assert sum(prediction.parts.values()) == peak


def site(layer_type: str, *bottoms: Shape, need: tuple[bool, ...], tops: int = 1) -> Site:
    rule = BUILT_IN[layer_type]
    return Site(
        phase="TRAIN",
        settings=rule.settings() if rule.settings else None,
        bottoms=bottoms,
        tops=tops,
        backward=True,
        bottom_need=need,
        param_need=(True, True),
    )


@pytest.mark.parametrize("layer_type", ["ArgMax", "Threshold"])
def test_layers_without_backward_are_refused_in_training(layer_type: str) -> None:
    with pytest.raises(ShapeError, match="has no gradient, but the loss needs one"):
        BUILT_IN[layer_type].memory(site(layer_type, (5, 3), need=(True,)), "gpu")


@pytest.mark.parametrize(
    ("layer_type", "bottoms", "need", "what"),
    [
        ("Embed", ((5,),), (True,), "indices of an Embed layer"),
        ("BatchReindex", ((5, 3), (7,)), (True, True), "the indices"),
        ("Filter", ((5, 3), (5,)), (True, True), "the selector"),
        ("Accuracy", ((5, 3), (5,)), (True, True), "the labels"),
        ("LSTMUnit", ((1, 5, 3), (1, 5, 12), (1, 5)), (True, True, True), "continuation"),
    ],
)
def test_gradients_that_no_layer_has_are_refused_in_training(
    layer_type: str, bottoms: tuple[Shape, ...], need: tuple[bool, ...], what: str
) -> None:
    with pytest.raises(ShapeError, match=what):
        BUILT_IN[layer_type].memory(site(layer_type, *bottoms, need=need), "gpu")


def test_batch_reindex_allocates_its_index_lists_for_the_time_of_one_backward() -> None:
    memory = BUILT_IN["BatchReindex"].memory(
        site("BatchReindex", (5, 3), (7,), need=(True, False)), "gpu"
    )
    assert memory.transient == 7 + 2 * 5

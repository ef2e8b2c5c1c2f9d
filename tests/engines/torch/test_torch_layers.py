"""Every layer type of the PyTorch engine against real Caffe: outputs 1e-6, gradients 1e-5."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from caffe_batch.engines.torch.layers import FED, LAYERS
from caffe_batch.layers import BUILT_IN
from tests.engines.torch.layer_cases import CASES, LayerCase
from tests.engines.torch.on_caffe import (
    GRADIENTS,
    OUTPUTS,
    Answer,
    Pycaffe,
    on_caffe,
    on_torch,
    worst,
)

#: Types whose numbers a table of settings can't judge: see the tests below and elsewhere.
ELSEWHERE = {"DummyData", "HDF5Output", "Python"}


@pytest.fixture(scope="module")
def answers(pycaffe: Pycaffe, tmp_path_factory: pytest.TempPathFactory) -> Sequence[Answer | None]:
    torch.set_num_threads(1)
    return on_caffe(pycaffe, tmp_path_factory.mktemp("layers"), [case.trial() for case in CASES])


def test_every_type_runs_or_is_fed() -> None:
    """The types of the rules are those of the engine; what is fed, the data layers read."""
    assert set(LAYERS) | FED == {*BUILT_IN, "Python"}
    assert not set(LAYERS) & FED


def test_every_type_is_in_the_table() -> None:
    assert {case.type for case in CASES} | ELSEWHERE == set(LAYERS)
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize(("number", "case"), list(enumerate(CASES)), ids=[c.name for c in CASES])
def test_a_layer_gives_what_caffe_gives(
    answers: Sequence[Answer | None], number: int, case: LayerCase
) -> None:
    theirs = answers[number]
    assert theirs is not None, "Caffe refuses this net"
    trial = case.trial()
    ours = on_torch(trial, theirs.weights)
    passes = range(len(trial.feeds))
    for n in passes:
        assert worst(theirs.blobs[n], ours.blobs[n]) < (OUTPUTS, "z"), "outputs"
        assert worst(theirs.after[n], ours.after[n]) < (OUTPUTS, "z"), "statistics"
        if trial.phase == "TRAIN":
            assert worst(theirs.inputs[n], ours.inputs[n]) < (GRADIENTS, "z"), "gradients of inputs"
            assert worst(theirs.gradients[n], ours.gradients[n]) < (GRADIENTS, "z"), "gradients"

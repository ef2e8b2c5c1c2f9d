"""What the PyTorch engine refuses is refused by name, with a reason, and before anything runs."""

from __future__ import annotations

import pytest

from caffe_batch.engines.torch.layers import FED, LAYERS
from caffe_batch.engines.torch.refusals import check_runs, refusals
from caffe_batch.errors import InputError
from caffe_batch.layers import BUILT_IN
from caffe_batch.layers.base import Layer
from caffe_batch.layers.unknown import UNKNOWN, UnknownSettings
from caffe_batch.net import build
from tests.engines.torch.layer_cases import CASES
from tests.engines.torch.on_caffe import Trial

#: All that may be refused of Caffe's own types.
REFUSED = {"Input", "MemoryData"}


def test_every_type_of_caffe_runs_or_is_refused() -> None:
    runs = (set(LAYERS) | FED) - REFUSED
    assert runs | REFUSED == {*BUILT_IN, "Python"}
    assert not set(LAYERS) & REFUSED


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (
            'name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } }',
            "layer 'in': a program gives it its data, and here none does: the PyTorch engine ",
        ),
        (
            'name: "m" type: "MemoryData" top: "x" top: "y" '
            "memory_data_param { batch_size: 2 channels: 1 height: 1 width: 1 }",
            "layer 'm': a program gives it its data",
        ),
    ],
)
def test_layers_that_nobody_feeds(layer: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_runs(Trial(f"layer {{ {layer} }}").net())


def test_a_type_of_a_fork() -> None:
    layer = Layer("p", "Permute", tops=("x",), settings=UnknownSettings(), rule=UNKNOWN)
    with pytest.raises(InputError, match="layer 'p': the PyTorch engine has no layer type 'Perm"):
        check_runs(build([layer], phase="TRAIN"))


DATA = (
    'layer { name: "d" type: "DummyData" top: "x" '
    "dummy_data_param { shape { dim: 2 dim: 3 dim: 6 dim: 7 } } }"
)


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        ("kernel_size: 1 stride: 2", True),  # 6 ends between two windows, 7 with one
        ("kernel_size: 2 stride: 5", False),
        ("kernel_size: 2 stride: 7", True),
        ("kernel_size: 1 stride: 2 round_mode: FLOOR", False),
        ("kernel_size: 3 stride: 2", False),
        ("kernel_size: 2 stride: 4 pad: 1", False),
    ],
)
def test_empty_pooling_windows(settings: str, refused: bool) -> None:
    layer = (
        f'layer {{ name: "p" type: "Pooling" bottom: "x" top: "y" pooling_param {{ {settings} }} }}'
    )
    found = [str(error) for error in refusals(Trial(f"{DATA} {layer}").net())]
    assert [error.startswith("layer 'p': its last window") for error in found] == [True] * refused


def test_nothing_of_the_table_is_refused_but_its_inputs() -> None:
    found = {error.layer for case in CASES for error in refusals(case.trial().net())}
    assert found == {"in"}

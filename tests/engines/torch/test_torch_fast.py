"""The fast path is what runs, and is the same training: fused layers, layouts, in-place ReLU."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from google.protobuf import text_format

from caffe_batch.engines.torch.fillers import Draws
from caffe_batch.engines.torch.layers.batch_norm import BatchNorm, ScaledBatchNorm
from caffe_batch.engines.torch.layers.scale import Scale
from caffe_batch.engines.torch.net import TorchNet
from caffe_batch.engines.torch.update import Update
from caffe_batch.layers.base import Phase
from caffe_batch.schema import caffe_pb2
from tests.engines.torch.drawn_nets import fed_trial
from tests.engines.torch.on_caffe import (
    GRADIENTS,
    OUTPUTS,
    SEED,
    Answer,
    Pycaffe,
    Trial,
    on_caffe,
    on_torch,
    worst,
)

MAPS = (5, 3, 7, 6)

NORM = 'name: "norm" type: "BatchNorm" bottom: "conv"'
SCALE = 'name: "scale" type: "Scale"'
LEARNED = "filler { value: 1.5 } bias_term: true bias_filler { value: 0.25 }"


def net(*layers: str, shape: Sequence[int] = MAPS, force: bool = True) -> str:
    """A convolution, some layers that end in the blob "last", and the sum of some squares.

    The convolution has no bias: before a BatchNorm its gradient is zero, but for rounding.
    """
    sizes = " ".join(f"dim: {size}" for size in shape)
    middle = "".join(f"layer {{ {layer} }}\n" for layer in layers)
    first = (
        'type: "Convolution" convolution_param { kernel_size: 3'
        if len(shape) == 4
        else 'type: "InnerProduct" inner_product_param {'
    )
    return f"""
force_backward: {str(force).lower()}
layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ {sizes} }} }} }}
layer {{ name: "conv" bottom: "data" top: "conv" {first}
  num_output: 4 bias_term: false weight_filler {{ type: "xavier" }} }} }}
{middle}
layer {{ name: "ip" type: "InnerProduct" bottom: "last" top: "ip"
  inner_product_param {{ num_output: 2 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "Reduction" bottom: "ip" top: "loss" loss_weight: 0.5
  reduction_param {{ operation: SUMSQ }} }}
"""


def pair(
    settings: str = LEARNED, *, norm: str = "", norm_top: str = "conv", top: str = "last",
    more: str = "", shape: Sequence[int] = MAPS,
) -> str:  # fmt: skip
    """A net with a BatchNorm and a Scale."""
    return net(
        f'{NORM} top: "{norm_top}" {norm}',
        f'{SCALE} bottom: "{norm_top}" top: "{top}" scale_param {{ {settings} }} {more}',
        shape=shape,
    )


#: Nets whose BatchNorm and Scale are one step.
PAIRS: dict[str, Trial] = {
    "in place": fed_trial(pair(), 1),
    "blobs of their own": fed_trial(pair(norm_top="norm"), 2),
    "without a bias": fed_trial(pair("filler { value: 1.5 }"), 3),
    "axis from the end": fed_trial(pair(f"axis: -3 num_axes: 1 {LEARNED}"), 4),
    "rows": fed_trial(pair(shape=(5, 3)), 5),
    "known averages": fed_trial(
        pair(norm="batch_norm_param { use_global_stats: true }"), 6
    ),
    "frozen": fed_trial(pair(more="param { lr_mult: 0 } param { lr_mult: 0 }"), 7),
    "a loss on the Scale": fed_trial(
        pair(LEARNED.replace("0.25", "2"), more="loss_weight: 0.125"), 8
    ),
    "one sample": fed_trial(pair(shape=(1, 3, 7, 6)), 12),  # with 9 the scores all but cancel
    "propagate_down": fed_trial(pair(norm_top="norm", more="propagate_down: false"), 26),
    "a ReLU": fed_trial(
        net(
            f'{NORM} top: "conv"',
            f'{SCALE} bottom: "conv" top: "last" scale_param {{ {LEARNED} }}',
            'name: "relu" type: "ReLU" bottom: "last" top: "last"',
        ),
        10,
    ),
    "two of them added": fed_trial(
        net(
            f'{NORM} top: "a"',
            f'{SCALE} bottom: "a" top: "a" scale_param {{ {LEARNED} }}',
            'name: "norm2" type: "BatchNorm" bottom: "conv" top: "b"',
            f'name: "scale2" type: "Scale" bottom: "b" top: "b" scale_param {{ {LEARNED} }}',
            'name: "sum" type: "Eltwise" bottom: "a" bottom: "b" top: "last"',
            'name: "relu" type: "ReLU" bottom: "last" top: "last"',
        ),
        11,
    ),
}  # fmt: skip

#: Nets in which one step would be something else.
NOT_PAIRS: dict[str, Trial] = {
    "another axis": fed_trial(pair("axis: 2 filler { value: 1.5 }"), 20),
    "two axes": fed_trial(pair("num_axes: 2 filler { value: 1.5 }"), 21),
    "a factor from the net": fed_trial(
        net(
            'name: "f" type: "DummyData" top: "factor" dummy_data_param { '
            "shape { dim: 5 dim: 4 dim: 5 dim: 4 } data_filler { value: 2 } }",
            f'{NORM} top: "norm"',
            f'{SCALE} bottom: "norm" bottom: "factor" top: "last" scale_param {{ axis: 0 }}',
        ),
        22,
    ),
    "a loss on the BatchNorm": fed_trial(pair(norm="loss_weight: 0.125", norm_top="norm"), 23),
    "another reader": fed_trial(
        net(
            f'{NORM} top: "norm"',
            f'{SCALE} bottom: "norm" top: "s" scale_param {{ {LEARNED} }}',
            'name: "sum" type: "Eltwise" bottom: "norm" bottom: "s" top: "last"',
        ),
        24,
    ),
    "another layer between": fed_trial(
        net(
            f'{NORM} top: "norm"',
            'name: "tanh" type: "TanH" bottom: "norm" top: "norm"',
            f'{SCALE} bottom: "norm" top: "last" scale_param {{ {LEARNED} }}',
        ),
        25,
    ),
}

ALL = {**PAIRS, **NOT_PAIRS}


@pytest.fixture(scope="module")
def answers(pycaffe: Pycaffe, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answer | None]:
    torch.set_num_threads(1)
    found = on_caffe(pycaffe, tmp_path_factory.mktemp("pairs"), list(ALL.values()))
    return dict(zip(ALL, found, strict=True))


def made(trial: Trial, phase: Phase = "TRAIN") -> TorchNet:
    trial = Trial(trial.text, trial.feeds, phase=phase)
    return TorchNet(trial.net(), trial.message().layer, draws=Draws(SEED))


@pytest.mark.parametrize("name", ALL)
def test_a_batch_norm_and_its_scale_are_those_of_caffe(
    answers: dict[str, Answer | None], name: str
) -> None:
    theirs, trial = answers[name], ALL[name]
    assert theirs is not None, "Caffe refuses this net"
    ours = on_torch(trial, theirs.weights, every_blob=False)
    for n in range(len(trial.feeds)):
        assert worst(theirs.blobs[n], ours.blobs[n]) < (OUTPUTS, "z"), "outputs"
        assert worst(theirs.after[n], ours.after[n]) < (OUTPUTS, "z"), "statistics"
        assert worst(theirs.inputs[n], ours.inputs[n]) < (GRADIENTS, "z"), "gradients of inputs"
        assert worst(theirs.gradients[n], ours.gradients[n]) < (GRADIENTS, "z"), "gradients"


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
def test_pairs_are_one_step_and_others_two(
    name: str, phase: Phase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layers themselves don't run any more where one stands for two."""
    calls: list[str] = []
    for kind in (BatchNorm, Scale, ScaledBatchNorm):
        monkeypatch.setattr(kind, "forward", _noting(kind.forward, kind.__name__, calls))
    built = made(ALL[name], phase)
    built.forward({name: torch.from_numpy(array) for name, array in ALL[name].feeds[0].items()})
    assert set(calls) == ({"ScaledBatchNorm"} if name in PAIRS else {"BatchNorm", "Scale"})


def _noting(own: Callable[..., Any], name: str, calls: list[str]) -> Callable[..., Any]:
    def forward(*arguments: Any, **named: Any) -> Any:
        calls.append(name)
        return own(*arguments, **named)

    return forward


def test_a_blob_between_is_there_if_asked_for(answers: dict[str, Answer | None]) -> None:
    name = "blobs of their own"
    theirs = answers[name]
    assert theirs is not None
    ours = on_torch(ALL[name], theirs.weights)
    assert "norm" in ours.blobs[0]
    assert "norm" not in on_torch(ALL[name], theirs.weights, every_blob=False).blobs[0]
    assert worst(theirs.blobs[0], ours.blobs[0]) < (OUTPUTS, "z")


def test_a_convolution_has_its_channels_side_by_side() -> None:
    """From the first one on, also where the images have a single channel."""
    text = net(
        'name: "pool" type: "Pooling" bottom: "conv" top: "pool" '
        "pooling_param { kernel_size: 2 stride: 2 }",
        'name: "conv2" type: "Convolution" bottom: "pool" top: "last" '
        "convolution_param { num_output: 5 kernel_size: 2 weight_filler { type: 'xavier' } }",
    )
    for channels in (1, 3):
        trial = fed_trial(text.replace("dim: 3", f"dim: {channels}"), 1)
        built = made(trial)
        fed = {name: torch.from_numpy(array) for name, array in trial.feeds[0].items()}
        blobs = built.forward(fed, ["conv", "pool", "last"]).blobs
        assert [blobs[name].stride(1) for name in ("conv", "pool", "last")] == [1, 1, 1]


@pytest.mark.parametrize(
    ("bottom", "over"),
    [
        ('type: "Convolution" bottom: "conv" top: "x" convolution_param { num_output: 2 '
         "kernel_size: 1 weight_filler { type: 'xavier' } }", True),
        ('type: "InnerProduct" bottom: "conv" top: "x" inner_product_param { num_output: 7 '
         "weight_filler { type: 'xavier' } }", True),
        ('type: "Eltwise" bottom: "conv" bottom: "conv" top: "x"', True),
        ('type: "Scale" bottom: "conv" top: "x"', True),
        ('type: "BatchNorm" bottom: "conv" top: "x"', True),
        # What reads its own top in Backward, or gives back the memory that it was given.
        ('type: "TanH" bottom: "conv" top: "x"', False),
        ('type: "Eltwise" bottom: "conv" bottom: "conv" top: "x" '
         "eltwise_param { operation: PROD }", False),
        ('type: "Flatten" bottom: "conv" top: "x"', False),
        ('type: "Dropout" bottom: "conv" top: "x" dropout_param { dropout_ratio: 1e-30 }', False),
    ],
)  # fmt: skip
def test_a_relu_writes_over_what_nobody_needs(
    bottom: str, over: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = net(
        f'name: "a" {bottom}',
        'name: "relu" type: "ReLU" bottom: "x" top: "x"',
        'name: "end" type: "TanH" bottom: "x" top: "last"',
    )
    trial = fed_trial(text, 1)
    calls: list[str] = []
    for name in ("relu", "relu_"):
        monkeypatch.setattr(torch, name, _noting(getattr(torch, name), name, calls))
    ours = on_torch(trial, _weights(trial))
    assert set(calls) == {"relu_" if over else "relu"}
    apart = Trial(
        text.replace('bottom: "x" top: "x"', 'bottom: "x" top: "y"').replace(
            'type: "TanH" bottom: "x" top: "last"', 'type: "TanH" bottom: "y" top: "last"'
        ),
        trial.feeds,
    )
    same = on_torch(apart, _weights(trial))
    assert ours.losses == same.losses
    for n in range(len(trial.feeds)):
        assert worst(same.gradients[n], ours.gradients[n]) == (0.0, "")
        assert worst(same.inputs[n], ours.inputs[n]) == (0.0, "")


def _weights(trial: Trial) -> dict[str, Any]:
    net = made(trial)
    return {f"{p.layer}/{p.index}": p.value.detach().numpy().copy() for p in net.params}


@pytest.mark.parametrize(
    ("solver_type", "kernel"),
    [("SGD", "_fused_sgd_"), ("Nesterov", "_fused_sgd_"), ("Adam", "_fused_adam_")],
)
def test_updates_use_the_fused_kernels(
    solver_type: str, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One call for all parameters that are updated alike; test_torch_update.py has the numbers."""
    solver = text_format.Parse(
        f'type: "{solver_type}" base_lr: 0.1 momentum: 0.9 weight_decay: 0.01 lr_policy: "fixed"',
        caffe_pb2.SolverParameter(),
    )
    trial = PAIRS["in place"]
    built = made(trial)
    update = Update(solver, built.params)
    calls: list[str] = []
    monkeypatch.setattr(torch, kernel, _noting(getattr(torch, kernel), kernel, calls))
    fed = {name: torch.from_numpy(array) for name, array in trial.feeds[0].items()}
    built.backward(built.forward(fed))
    update.apply(0)
    kinds = {(param.lr_mult, param.decay_mult) for param in built.params if param.lr_mult}
    assert calls == [kernel] * len(kinds)
    assert kinds


def test_what_no_step_reads_any_more_is_freed() -> None:
    """While a pass without gradients runs, only blobs that are still to be read are there."""
    layers = [
        f'name: "l{i}" type: "TanH" bottom: "{"conv" if not i else f"b{i - 1}"}" top: "b{i}"'
        for i in range(9)
    ]
    end = 'name: "end" type: "TanH" bottom: "b8" top: "last"'
    trial = fed_trial(net(*layers, end), 1)
    built = made(trial, "TEST")
    alive: list[int] = []
    seen: list[Any] = []
    for layer in built.running:
        own = layer.forward

        def forward(bottoms: Any, blobs: Any, own: Any = own) -> Any:
            tops = list(own(bottoms, blobs))
            seen.extend(weakref.ref(top) for top in tops)
            alive.append(sum(each() is not None for each in seen))
            return tops

        layer.forward = forward  # type: ignore[method-assign]
    built.forward({name: torch.from_numpy(array) for name, array in trial.feeds[0].items()})
    assert max(alive) == 2
    assert len(alive) == len(built.running)

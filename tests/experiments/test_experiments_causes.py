"""The audit's verdicts, measured: a net for each cause, on real Caffe.

What the audit calls exact or compensated agrees to 1e-5; what it calls approximate or different
differs by more in a net that is made to show it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from caffe_batch.experiments.verification import TOLERANCE, judge
from caffe_batch.planning.audit.audit import audit
from caffe_batch.planning.audit.findings import Cause, Finding, Scope, Verdict
from tests.experiments.measuring import INPUT, LOSS, SOLVER, Bench, inner_product
from tests.planned_jobs import write_lmdb


@dataclass(frozen=True)
class Case:
    """A net, and what the audit says of one cause in it.

    Attributes:
        same: Whether nothing else in the net makes a difference, so that all of it agrees (with
            random draws held equal).
        options: For ``Bench.measure``.
    """

    net: str
    cause: Cause
    verdict: Verdict
    same: bool
    solver: str = SOLVER
    options: dict[str, Any] = field(default_factory=dict)


def exact(net: str, cause: Cause, **more: Any) -> Case:
    return Case(net, cause, Verdict.EXACT, True, **more)


def compensated(net: str, cause: Cause, **more: Any) -> Case:
    return Case(net, cause, Verdict.COMPENSATED, True, **more)


def different(net: str, cause: Cause, verdict: Verdict = Verdict.DIFFERENT, **more: Any) -> Case:
    return Case(net, cause, verdict, False, **more)


def drawn(net: str) -> Case:
    return Case(net, Cause.RANDOM_DRAWS, Verdict.APPROXIMATE, True)


def layer(layer_type: str, bottoms: str, top: str, settings: str = "") -> str:
    """A layer named after its top; it reads the blobs in ``bottoms`` (blanks between)."""
    read = " ".join(f'bottom: "{bottom}"' for bottom in bottoms.split())
    return f'layer {{ name: "{top}" type: "{layer_type}" {read} top: "{top}" {settings} }}\n'


def data(layer_type: str, settings: str, *, tops: str = 'top: "data" top: "label"') -> str:
    return f'layer {{ name: "{layer_type}" type: "{layer_type}" {tops} {settings} }}\n'


def loss(loss_type: str = "SoftmaxWithLoss", settings: str = "") -> str:
    return layer(loss_type, "ip label", "loss", settings)


def inputs(*shapes: str) -> str:
    """An Input layer with tops a, b, c, ... of these shapes: ``5 3 2``."""
    tops = " ".join(f'top: "{name}"' for name, _ in zip("abcdef", shapes, strict=False))
    texts = " ".join(
        "shape { " + " ".join(f"dim: {size}" for size in shape.split()) + " }" for shape in shapes
    )
    return f'layer {{ name: "in" type: "Input" {tops} input_param {{ {texts} }} }}\n'


def recurrent(cont: str, layer_type: str = "LSTM") -> str:
    """Three time steps of five streams; a plain Euclidean loss divides by the steps."""
    return (
        inputs("3 5 7", "3 5 4") + cont
        + layer(layer_type, "a cont", "h", 'recurrent_param { num_output: 4 '
                'weight_filler { type: "xavier" } bias_filler { type: "uniform" max: 0.5 } }')
        + layer("EuclideanLoss", "h b", "loss")
    )  # fmt: skip


IP = inner_product()
HIDDEN = inner_product(outputs=6, name="h")
CONV = layer("Convolution", "data", "c", 'convolution_param { num_output: 6 kernel_size: 3 '
             'weight_filler { type: "xavier" } }')  # fmt: skip
CLIPPED = SOLVER + "clip_gradients: 0.05\n"
IGNORE = "loss_param { ignore_label: 3 normalization: %s }"
#: Random targets, two in turn, and marks of sequences that never begin.
TARGETS = data(
    "DummyData",
    'dummy_data_param { shape { dim: 5 dim: 4 } data_filler { type: "gaussian" } }',
    tops='top: "aim" top: "other"',
)
GOES_ON = data(
    "DummyData",
    "dummy_data_param { shape { dim: 3 dim: 5 } data_filler { value: 1 } }",
    tops='top: "cont"',
)
STATES = inputs("1 5 4", "1 5 4").replace('"a"', '"s"').replace('"b"', '"t"').replace(
    '"in"', '"states"')  # fmt: skip
BEGIN = inputs("3 5").replace('"a"', '"cont"').replace('"in"', '"begin"')
NOT_LABELS = "propagate_down: true propagate_down: false"

CASES: dict[str, Case] = {
    # The solver
    "clipped": compensated(INPUT + IP + LOSS, Cause.CLIP_GRADIENTS, solver=CLIPPED),
    "decay": exact(INPUT + IP + LOSS, Cause.WEIGHT_DECAY),
    "decay L1": exact(
        INPUT + IP + LOSS, Cause.WEIGHT_DECAY, solver=SOLVER + 'regularization_type: "L1"\n'
    ),
    # Losses that divide by the batch
    "softmax": exact(INPUT + IP + LOSS, Cause.LOSS_NORMALIZATION),
    "softmax FULL": exact(
        INPUT + IP + loss(settings=IGNORE % "FULL"), Cause.LOSS_NORMALIZATION
    ),
    "softmax BATCH_SIZE": exact(
        INPUT + IP + loss(settings=IGNORE % "BATCH_SIZE"), Cause.LOSS_NORMALIZATION
    ),
    "hinge": exact(INPUT + IP + loss("HingeLoss"), Cause.LOSS_NORMALIZATION),
    "multinomial": exact(
        INPUT + inner_product(name="h") + layer("Softmax", "h", "ip")
        + loss("MultinomialLogisticLoss"),
        Cause.LOSS_NORMALIZATION,
    ),
    "infogain": exact(
        INPUT + IP
        + data("DummyData", "dummy_data_param { shape { dim: 4 dim: 4 } data_filler { value: 1 } }",
               tops='top: "H"')
        + layer("InfogainLoss", "ip label H", "loss"),
        Cause.LOSS_NORMALIZATION,
    ),
    "sigmoid": exact(
        inputs("5 7", "5 4") + inner_product("a") + layer("SigmoidCrossEntropyLoss", "ip b", "l"),
        Cause.LOSS_NORMALIZATION,
    ),
    "euclid": exact(
        inputs("5 7", "5 4") + inner_product("a") + layer("EuclideanLoss", "ip b", "loss"),
        Cause.LOSS_NORMALIZATION,
    ),
    "siamese": exact(
        inputs("5 7", "5 2", "5") + inner_product("a", 2) + layer("ContrastiveLoss", "ip b c", "l"),
        Cause.LOSS_NORMALIZATION,
    ),
    "embed": exact(
        inputs("5 7", "5")
        + layer("Embed", "a", "e", 'embed_param { input_dim: 9 num_output: 3 '
                'weight_filler { type: "xavier" } }')
        + inner_product("e") + layer("SoftmaxWithLoss", "ip b", "loss"),
        Cause.LOSS_NORMALIZATION,
    ),
    # Losses that are sums
    "softmax NONE": compensated(
        INPUT + IP + loss(settings="loss_param { normalization: NONE }"), Cause.LOSS_NORMALIZATION
    ),
    "weighted blob": compensated(
        INPUT + IP + layer("AbsVal", "ip", "size", "loss_weight: 0.1"), Cause.LOSS_SUM
    ),
    "a sum and a mean": compensated(
        INPUT + IP + LOSS
        + layer("Reduction", "ip", "size", "reduction_param { operation: SUMSQ } loss_weight: 0.1"),
        Cause.LOSS_SUM,
    ),
    # Labels that don't count
    "softmax VALID": different(
        INPUT + IP + loss(settings=IGNORE % "VALID"), Cause.IGNORE_LABEL, Verdict.APPROXIMATE
    ),
    # Layers that see the batch
    "batch norm": different(
        INPUT + HIDDEN + layer("BatchNorm", "h", "n") + inner_product("n") + LOSS,
        Cause.BATCH_NORM_STATISTICS,
    ),
    "global statistics": exact(
        INPUT + HIDDEN + layer("BatchNorm", "h", "n", "batch_norm_param { use_global_stats: true }")
        + inner_product("n") + LOSS,
        Cause.BATCH_NORM_STATISTICS,
    ),
    "draws": drawn(
        INPUT + layer("Dropout", "data", "d") + inner_product("d", 6, "h")
        + layer("Dropout", "h", "e") + inner_product("e") + LOSS,
    ),
    "random data": drawn(
        INPUT + IP + TARGETS + layer("EuclideanLoss", "ip aim", "near")
        + layer("EuclideanLoss", "ip other", "far"),
    ),
    "state": different(recurrent(GOES_ON), Cause.RECURRENT_STATE),
    "state of an RNN": different(recurrent(GOES_ON, "RNN"), Cause.RECURRENT_STATE),
    "over the batch": different(
        INPUT + HIDDEN + layer("Softmax", "h", "m", "softmax_param { axis: 0 }")
        + inner_product("m") + LOSS,
        Cause.MIXED_SAMPLES,
    ),
    "by index": different(
        inputs("5 7", "5", "5") + inner_product("a", name="h")
        + layer("BatchReindex", "h b", "ip", NOT_LABELS) + layer("SoftmaxWithLoss", "ip c", "l"),
        Cause.MIXED_SAMPLES,
    ),
    "selected": different(
        inputs("5 7", "5 4", "5") + inner_product("a", name="h")
        + layer("Concat", "h b", "both", "concat_param { axis: 1 }")
        + layer("Filter", "both c", "f", NOT_LABELS)
        + 'layer { name: "s" type: "Slice" bottom: "f" top: "g" top: "i" slice_param { axis: 1 } }'
        + layer("EuclideanLoss", "g i", "loss", NOT_LABELS),
        Cause.MIXED_SAMPLES,
    ),
    "literal": compensated(
        INPUT + layer("Reshape", "data", "r", "reshape_param { shape { dim: 5 dim: -1 } }")
        + inner_product("r") + LOSS,
        Cause.LITERAL_BATCH,
    ),
    "halves of the batch": different(
        INPUT + HIDDEN
        + 'layer { name: "s" type: "Slice" bottom: "h" top: "f" top: "g" slice_param { axis: 0 } }'
        + layer("EuclideanLoss", "f g", "near"),
        Cause.MIXED_SAMPLES, options={"batch_size": 4},
    ),
    "a reshape that looks like a transpose": different(
        INPUT + layer("Reshape", "data", "r", "reshape_param { shape { dim: 3 dim: -1 dim: 77 } }")
        + layer("InnerProduct", "r", "i", 'inner_product_param { num_output: 2 axis: 2 '
                'weight_filler { type: "xavier" } }')
        + layer("Power", "i", "p", "power_param { power: 2 } loss_weight: 1"),
        Cause.MIXED_SAMPLES, options={"batch_size": 6},
    ),
    "a square behind a mean": different(
        INPUT + IP + loss(settings="loss_weight: 0")
        + layer("Power", "loss", "p", "power_param { power: 2 } loss_weight: 1"),
        Cause.MIXED_SAMPLES,
    ),
    # Layers that look as if they did
    "put together and taken apart": exact(
        INPUT + layer("Power", "data", "twice", "power_param { scale: 2 shift: 0.1 }")
        + layer("Concat", "data twice", "both", "concat_param { axis: 0 }")
        + inner_product("both", name="h")
        + 'layer { name: "s" type: "Slice" bottom: "h" top: "ip" top: "g" slice_param { axis: 0 } }'
        + layer("EuclideanLoss", "ip g", "near") + LOSS,
        Cause.LOSS_NORMALIZATION,
    ),
    "pairs of samples": exact(
        inputs("6 7", "3")
        + layer("Reshape", "a", "r", "reshape_param { shape { dim: -1 dim: 14 } }")
        + inner_product("r", 2, "h")
        + layer("Reduction", "h", "m", "reduction_param { operation: MEAN } loss_weight: 1"),
        Cause.LOSS_SUM, options={"batch_size": 6},
    ),
    "a multiple of a mean": exact(
        INPUT + IP + loss(settings="loss_weight: 0")
        + layer("Power", "loss", "p", "power_param { scale: 3 shift: 2 } loss_weight: 0.5"),
        Cause.LOSS_SUM,
    ),
    "a mean and a constant": exact(
        INPUT + IP + loss(settings="loss_weight: 0") + data(
            "DummyData", "dummy_data_param { shape { } data_filler { value: 2 } }", tops='top: "c"')
        + layer("Eltwise", "loss c", "p", "loss_weight: 0.5"),
        Cause.LOSS_SUM,
    ),
    "a multiple of a sum": compensated(
        INPUT + IP + loss(settings="loss_weight: 0 loss_param { normalization: NONE }")
        + layer("Power", "loss", "p", "power_param { scale: 3 } loss_weight: 0.5"),
        Cause.LOSS_SUM,
    ),
    "a mean of each sample": compensated(
        INPUT + IP
        + layer("Reduction", "ip", "m",
                "reduction_param { operation: MEAN axis: 1 } loss_weight: 0.5"),
        Cause.LOSS_SUM,
    ),
    "a weighted loss that others read": compensated(
        INPUT + IP + loss(settings="loss_weight: 0.1 loss_param { normalization: NONE }")
        + layer("Power", "loss", "p", "power_param { scale: 3 } loss_weight: 2"),
        Cause.LOSS_NORMALIZATION,
    ),
    "a parameter of its own": different(
        INPUT + IP + LOSS
        + layer("Parameter", "", "w", "parameter_param { shape { dim: 3 } }")
        + layer("Power", "w", "p", "power_param { shift: 1 power: 2 } loss_weight: 0.5"),
        Cause.OVERWRITTEN_GRADIENT,
    ),
    "a parameter that doesn't learn": exact(
        INPUT + IP + LOSS
        + layer("Parameter", "", "w", "param { lr_mult: 0 } parameter_param { shape { dim: 3 } }")
        + layer("Power", "w", "p", "power_param { shift: 1 power: 2 } loss_weight: 0.5"),
        Cause.LOSS_NORMALIZATION,
    ),
    # What layers overwrite
    "scale at batch_size 1": different(
        INPUT + HIDDEN + layer("Scale", "h", "s") + inner_product("s") + LOSS,
        Cause.OVERWRITTEN_GRADIENT, options={"batch_size": 1},
    ),
    "scale over time": different(
        inputs("3 5 7", "3 5 7") + layer("Scale", "a", "s", "scale_param { axis: 0 }")
        + layer("Reshape", "s", "p", "reshape_param { shape { dim: -1 dim: 7 } }")
        + layer("Reshape", "b", "q", "reshape_param { shape { dim: -1 dim: 7 } }")
        + layer("EuclideanLoss", "p q", "loss")
        + data("DummyData", "dummy_data_param { shape { dim: 3 dim: 5 } }", tops='top: "cont"')
        + layer("RNN", "a cont", "r", "recurrent_param { num_output: 2 }"),
        Cause.OVERWRITTEN_GRADIENT,
    ),
    **{
        f"{kind} in place": different(
            INPUT + HIDDEN + layer(kind, "h", "h", settings).replace('name: "h"', 'name: "n"')
            + inner_product("h") + LOSS,
            Cause.SPOILED_GRADIENT,
        )
        for kind, settings in {
            "Power": "power_param { scale: 2 }", "Log": "log_param { shift: 9 }",
        }.items()
    },
    "square in place": different(
        INPUT + HIDDEN + layer("Power", "h", "h", "power_param { power: 2 }").replace(
            'name: "h"', 'name: "n"') + inner_product("h") + LOSS,
        Cause.SPOILED_GRADIENT,
    ),
    "LRN in place": different(
        INPUT + CONV + layer("LRN", "c", "c").replace('name: "c"', 'name: "n"')
        + inner_product("c") + LOSS,
        Cause.SPOILED_GRADIENT,
    ),
    "LRN in place, not asked to go back": different(
        INPUT + CONV.replace('top: "c"', 'bottom: "data" top: "c" top: "e"')
        + layer("LRN", "c", "c", "propagate_down: false").replace('name: "c"', 'name: "n"')
        + inner_product("c") + LOSS,
        Cause.SPOILED_GRADIENT,
    ),
    "product in place": different(
        INPUT + HIDDEN + inner_product(outputs=6, name="i")
        + layer("Eltwise", "h i", "h", "eltwise_param { operation: PROD }").replace(
            'name: "h"', 'name: "n"') + inner_product("h") + LOSS,
        Cause.SPOILED_GRADIENT,
    ),
    "hinge of no weight": different(
        INPUT + IP + LOSS + layer("HingeLoss", "ip label", "near", "loss_weight: 0"),
        Cause.SPOILED_GRADIENT,
    ),
    "hinge of no weight behind a Reshape": different(
        INPUT + IP + LOSS + layer("Reshape", "ip", "r", "reshape_param { shape { dim: 0 dim: 4 } }")
        + layer("HingeLoss", "r label", "near", "loss_weight: 0"),
        Cause.SPOILED_GRADIENT,
    ),
    "a weight in place": different(
        INPUT + IP + layer("TanH", "ip", "ip", "loss_weight: 0.3").replace(
            'name: "ip"', 'name: "n"'),
        Cause.OVERWRITTEN_LOSS_WEIGHT,
    ),
    "a weight behind a layer in place": different(
        INPUT + IP + layer("TanH", "ip", "ip").replace('name: "ip"', 'name: "n"')
        + layer("Flatten", "ip", "flat", "loss_weight: 0.3"),
        Cause.OVERWRITTEN_LOSS_WEIGHT,
    ),
    "mixed in place, beside the loss": different(
        INPUT + HIDDEN + layer("Reshape", "h", "r", "reshape_param { shape { dim: 0 dim: 6 } }")
        + inner_product("h") + LOSS
        + layer("Softmax", "r", "r", "softmax_param { axis: 0 }").replace('name: "r"', 'name: "n"'),
        Cause.MIXED_SAMPLES,
    ),
    "mixed in place, in the exposed state": different(
        STATES
        + recurrent(BEGIN).replace('bottom: "cont"', 'bottom: "cont" bottom: "s" bottom: "t"')
        .replace('top: "h"', 'top: "h" top: "last" top: "cell"')
        .replace("num_output: 4", "num_output: 4 expose_hidden: true")
        + layer("Softmax", "cell", "cell", "softmax_param { axis: 1 }").replace(
            'name: "cell"', 'name: "n"'),
        Cause.MIXED_SAMPLES,
    ),
    "a constant in place": different(
        INPUT + IP + data(
            "DummyData", "dummy_data_param { shape { dim: 4 } data_filler { value: 0.7 } }",
            tops='top: "k"')
        + layer("Exp", "k", "k").replace('name: "k"', 'name: "n"')
        + layer("Scale", "ip k", "s", "scale_param { axis: 1 }")
        + layer("SoftmaxWithLoss", "s label", "loss"),
        Cause.OVERWRITTEN_DATA,
    ),
    # Layers that look as if they did
    "scale of one number at batch_size 1": exact(
        INPUT + HIDDEN + layer("Scale", "h", "s", "scale_param { num_axes: 0 }")
        + inner_product("s") + LOSS,
        Cause.LOSS_NORMALIZATION, options={"batch_size": 1},
    ),
    "bias at batch_size 1": exact(
        INPUT + HIDDEN + layer("Bias", "h", "s") + inner_product("s") + LOSS,
        Cause.LOSS_NORMALIZATION, options={"batch_size": 1},
    ),
    "neurons in place": exact(
        INPUT + HIDDEN + "".join(
            layer(kind, "h", "h").replace('name: "h"', f'name: "{kind}"')
            for kind in ("ReLU", "TanH", "ELU", "Exp", "Sigmoid", "BNLL", "Swish", "PReLU", "Clip")
        ) + inner_product("h") + LOSS,
        Cause.LOSS_NORMALIZATION,
    ),
    "a hinge beside another loss": exact(
        INPUT + IP + LOSS + layer("HingeLoss", "ip label", "near", "loss_weight: 0.5"),
        Cause.LOSS_NORMALIZATION,
    ),
    "a constant as long as the whole batch": compensated(
        inputs("5 12 2", "12 2") + layer("Scale", "a b", "s", "scale_param { axis: 1 }")
        + inner_product("s") + layer("Reduction", "ip", "m", "loss_weight: 0.1"),
        Cause.LOSS_SUM,
    ),
    # Layers that don't
    "per sample": exact(
        INPUT
        + layer("Convolution", "data", "c", 'convolution_param { num_output: 6 kernel_size: 3 '
                'weight_filler { type: "xavier" } }')
        + layer("MVN", "c", "m") + layer("PReLU", "m", "r")
        + layer("LRN", "r", "n", "lrn_param { local_size: 3 }")
        + layer("Pooling", "n", "p", "pooling_param { kernel_size: 2 stride: 2 }")
        + layer("Scale", "p", "s", "scale_param { bias_term: true }")
        + inner_product("s") + LOSS,
        Cause.LOSS_NORMALIZATION,
    ),
    "scores in the log": Case(
        INPUT + IP + LOSS + layer("Accuracy", "ip label", "right"),
        Cause.LOG_OUTPUTS, Verdict.DIFFERENT, True,
    ),
}  # fmt: skip


def check(bench: Bench, case: Case) -> None:
    found = bench.measure(case.net, case.solver, **case.options)
    assert (case.cause, case.verdict) in {(f.cause, f.verdict) for f in found.findings}
    verdict = judge(found)
    assert verdict.promised is case.same
    assert found.agrees is case.same, verdict.sentence
    assert (found.draws is not None) is (case.verdict is Verdict.APPROXIMATE and case.same)
    if found.draws is not None:
        for difference in (found.draws.again, found.draws.apart):
            assert min(difference.gradient, difference.weights) > 100 * TOLERANCE
    if not case.same:
        others = [f for f in found.findings if f.verdict is case.verdict
                  and f.scope is Scope.TRAINING]  # fmt: skip
        assert {f.cause for f in others} == {case.cause}
        assert found.gradient.compensated > 100 * TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_what_the_audit_says_is_what_caffe_does(name: str, bench: Bench) -> None:
    check(bench, CASES[name])


def test_a_parameter_changed_in_place_changes_without_a_loss(bench: Bench) -> None:
    net = (
        INPUT + IP + LOSS + layer("Parameter", "", "w", "parameter_param { shape { dim: 3 } }")
        + layer("Power", "w", "w", "power_param { scale: 0.5 shift: 1 }").replace(
            'name: "w"', 'name: "n"')
    )  # fmt: skip
    found = bench.measure(net)
    assert "overwritten_data (different)" in judge(found).sentence
    assert found.gradient.compensated <= TOLERANCE
    (values,) = [row.weights for row in found.parameters if row.layer == "w"]
    assert values.compensated > 100 * TOLERANCE


def test_a_single_random_layer_draws_the_same(bench: Bench) -> None:
    """Its draws come sample by sample, so micro-batches draw what the whole batch draws."""
    net = INPUT + layer("Dropout", "data", "d") + inner_product("d") + LOSS
    found = bench.measure(net)
    assert judge(found).sentence.startswith("The same training, given the same draws: ")
    assert found.draws is not None
    assert found.draws.apart.gradient <= TOLERANCE
    assert found.draws.again.gradient > 100 * TOLERANCE


@pytest.mark.parametrize("filler", ["gaussian", "uniform", "xavier", "msra", "positive_unitball"])
def test_random_inputs_hide_nothing(bench: Bench, filler: str) -> None:
    """A cause that the audit overlooks shows, though the inputs are drawn in each pass."""
    noise = data(
        "DummyData",
        "dummy_data_param { shape { dim: 5 dim: 7 } shape { dim: 5 dim: 6 } "
        f'data_filler {{ type: "{filler}" }} data_filler {{ value: 0.3 }} }}',
    )
    net = (
        noise + inner_product(outputs=6, name="h") + layer("Scale", "h", "s")
        + layer("EuclideanLoss", "s label", "loss")
    )  # fmt: skip
    model = bench.model(net)

    def overlooked(size: int, passes: int) -> list[Finding]:
        every = audit(model, batch_size=size, iter_size=passes)
        return [each for each in every if each.cause is not Cause.OVERWRITTEN_GRADIENT]

    found = bench.measure(net, audited=overlooked, batch_size=1)
    assert judge(found).promised
    assert not judge(found).held
    assert found.gradient.compensated > 0.1
    assert judge(bench.measure(net, batch_size=2)).held


def test_stochastic_pooling_is_measured_as_a_mean(bench: Bench) -> None:
    net = (
        INPUT + layer("Pooling", "data", "p", "pooling_param { pool: STOCHASTIC kernel_size: 2 }")
        + inner_product("p") + LOSS
    )  # fmt: skip
    found = bench.measure(net)
    assert judge(found).held
    assert judge(found).promised
    assert found.held == ("'p' draws nothing (pool AVE; Caffe's CPU code can't draw there)",)
    assert found.draws is None  # it can't draw here
    assert found.json()["draws"]["again"] is None


def test_time_merged_with_the_batch_is_followed(bench: Bench) -> None:
    """(T, N, D) as (T*N, D): the samples come in turn, and a mean over all rows is a mean."""
    net = (
        recurrent(BEGIN).replace('type: "EuclideanLoss"', 'type: "Silence"').replace(
            'top: "loss"', "")
        + layer("Reshape", "h", "flat", "reshape_param { shape { dim: -1 dim: 4 } }")
        + layer("Reshape", "b", "aim", "reshape_param { shape { dim: -1 dim: 4 } }")
        + layer("EuclideanLoss", "flat aim", "near")
    )  # fmt: skip
    found = bench.measure(net)
    assert found.agrees
    assert (Cause.LOSS_NORMALIZATION, Verdict.EXACT) in {
        (f.cause, f.verdict) for f in found.findings
    }


def test_sequences_that_begin_in_their_batch_carry_no_state(bench: Bench) -> None:
    """Their samples lie on axis 1, so the loss divides by the steps: it is a sum over the batch."""
    found = bench.measure(recurrent(BEGIN))
    assert found.agrees
    assert "recurrent_state (different)" in judge(found).sentence
    assert (Cause.LOSS_NORMALIZATION, Verdict.COMPENSATED) in {
        (f.cause, f.verdict) for f in found.findings
    }
    assert found.gradient.plain == pytest.approx(2 / 3)


def test_a_batch_on_the_axis_of_time_cuts_the_gradient(bench: Bench) -> None:
    """Rows of HDF5 are time steps: the state continues in its own stream, the gradient doesn't."""
    draw = np.random.default_rng(9)
    with h5py.File(bench.folder / "steps.h5", "w") as file:
        file["x"] = draw.normal(size=(60, 2, 5)).astype(np.float32)
        file["aim"] = draw.normal(size=(60, 2, 4)).astype(np.float32)
        file["cont"] = np.ones((60, 2), np.float32)
    (bench.folder / "steps.txt").write_text(f"{bench.folder / 'steps.h5'}\n")
    net = (
        data("HDF5Data", f'hdf5_data_param {{ source: "{bench.folder}/steps.txt" batch_size: 20 }}',
             tops='top: "x" top: "aim" top: "cont"')
        + layer("LSTM", "x cont", "h", 'recurrent_param { num_output: 4 '
                'weight_filler { type: "xavier" } bias_filler { type: "uniform" max: 0.5 } }')
        + layer("EuclideanLoss", "h aim", "loss")
    )  # fmt: skip
    found = bench.measure(net, batch_size=5)
    (state,) = [f for f in found.findings if f.cause is Cause.RECURRENT_STATE]
    assert state.verdict is Verdict.DIFFERENT
    assert "backpropagation through time is cut to 5 steps" in state.explanation
    assert "15" in state.explanation
    assert "Fewer streams" in state.offer
    assert not [f for f in found.findings if f.cause is Cause.MIXED_SAMPLES]
    assert found.first_losses.errors.compensated <= TOLERANCE  # the forward pass is the same
    assert found.gradient.compensated > 100 * TOLERANCE


# The sources of data


@pytest.mark.parametrize(
    "transform", ["", "mirror: true crop_size: 4", "scale: 0.01 mean_value: 80"]
)
def test_an_lmdb_gives_the_same_samples(bench: Bench, transform: str) -> None:
    source = write_lmdb(bench.folder / "lmdb")
    settings = (
        f'data_param {{ source: "{source}" backend: LMDB batch_size: 5 }} '
        f"transform_param {{ {transform} }}"
    )
    net = data("Data", settings) + IP + LOSS
    check(bench, exact(net, Cause.DATA_ORDER))
    assert [use.made for use in bench.measure(net).data] == [False]


def write_hdf5(folder: Path, rows: int) -> Path:
    draw = np.random.default_rng(3)
    with h5py.File(folder / "rows.h5", "w") as file:
        file["data"] = draw.normal(size=(rows, 3)).astype(np.float32)
        file["label"] = draw.integers(4, size=rows).astype(np.float32)
    listing = folder / "list.txt"
    listing.write_text(f"{folder / 'rows.h5'}\n")
    return listing


@pytest.mark.parametrize("shuffle", ["false", "true"])
def test_hdf5_gives_the_same_samples(bench: Bench, shuffle: str) -> None:
    source = write_hdf5(bench.folder, 17)  # read more than twice over in three updates
    settings = f'hdf5_data_param {{ source: "{source}" batch_size: 5 shuffle: {shuffle} }}'
    net = data("HDF5Data", settings) + IP + LOSS
    check(bench, exact(net, Cause.DATA_ORDER))


def write_images(folder: Path, number: int) -> list[Path]:
    draw = np.random.default_rng(4)
    paths = [folder / f"{i}.png" for i in range(number)]
    for path in paths:
        Image.fromarray(draw.integers(256, size=(6, 9, 3), dtype=np.uint8)).save(path)
    return paths


@pytest.mark.parametrize("shuffle", ["false", "true"])
def test_images_give_the_same_samples(bench: Bench, shuffle: str) -> None:
    listing = bench.folder / "images.txt"
    lines = [f"{path} {i % 4}\n" for i, path in enumerate(write_images(bench.folder, 17))]
    listing.write_text("".join(lines))
    settings = (
        f'image_data_param {{ source: "{listing}" batch_size: 5 shuffle: {shuffle} }} '
        "transform_param { scale: 0.01 mirror: true }"
    )
    check(bench, exact(data("ImageData", settings) + IP + LOSS, Cause.DATA_ORDER))


@pytest.mark.parametrize(
    ("batch_size", "verdict"), [(4, Verdict.APPROXIMATE), (3, Verdict.DIFFERENT)]
)
def test_windows_are_drawn_by_the_batch(bench: Bench, batch_size: int, verdict: Verdict) -> None:
    """Half of each batch is foreground: 3 x 2 of 12, but 3 x 1 instead of 4 of 9."""
    text = ""
    for number, path in enumerate(write_images(bench.folder, 3)):
        text += f"# {number}\n{path}\n3\n6\n9\n4\n"
        text += "1 0.9 0 0 4 4\n2 0.8 2 1 8 5\n0 0.1 1 1 5 5\n0 0.2 0 0 8 5\n"
    (bench.folder / "windows.txt").write_text(text)
    settings = (
        f'window_data_param {{ source: "{bench.folder}/windows.txt" batch_size: 5 '
        "fg_fraction: 0.5 } transform_param { crop_size: 4 scale: 0.01 }"
    )
    net = data("WindowData", settings) + IP + LOSS
    same = verdict is Verdict.APPROXIMATE  # with windows that are made up
    case = Case(net, Cause.WINDOW_DATA, verdict, same, options={"batch_size": batch_size})
    check(bench, case)


def test_averages_of_batch_norm_keep_their_window(bench: Bench) -> None:
    """Four rows in micro-batches of four: every pass has the statistics of the whole batch.

    What is left of BatchNorm's difference is the decay in each pass, which its change makes up
    for: the mean is the same. (The variance isn't: Caffe's m / (m - 1) has another m.)
    """
    source = write_hdf5(bench.folder, 4)
    net = (
        data("HDF5Data", f'hdf5_data_param {{ source: "{source}" batch_size: 5 }}')
        + HIDDEN
        + layer("BatchNorm", "h", "n", "batch_norm_param { moving_average_fraction: 0.5 }")
        + inner_product("n") + LOSS
    )  # fmt: skip
    found = bench.measure(net)
    assert (Cause.BATCH_NORM_AVERAGE, Verdict.COMPENSATED) in {
        (f.cause, f.verdict) for f in found.findings
    }
    assert found.gradient.compensated <= TOLERANCE
    mean, variance = (row.weights for row in found.statistics)
    assert mean.compensated <= TOLERANCE
    assert mean.plain is not None
    assert mean.plain > 100 * TOLERANCE
    assert variance.compensated == pytest.approx((4 / 3) / (12 / 11) - 1, rel=1e-3)


def test_a_layer_of_unknown_code_is_measured(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python layer that divides by the batch size once more."""
    monkeypatch.chdir(bench.folder)
    (bench.folder / "by_the_batch.py").write_text(
        "import caffe\n"
        "class Mean(caffe.Layer):\n"
        "    def setup(self, bottom, top): pass\n"
        "    def reshape(self, bottom, top): top[0].reshape(*bottom[0].data.shape)\n"
        "    def forward(self, bottom, top):\n"
        "        top[0].data[...] = bottom[0].data / len(bottom[0].data)\n"
        "    def backward(self, top, down, bottom):\n"
        "        bottom[0].diff[...] = top[0].diff / len(bottom[0].data)\n"
    )
    net = (
        INPUT + inner_product(name="h")
        + layer("Python", "h", "ip", 'python_param { module: "by_the_batch" layer: "Mean" }')
        + LOSS
    )  # fmt: skip
    options = {"allow_unknown": True, "shapes": {"ip": (4,)}}
    check(bench, different(net, Cause.UNKNOWN_LAYER, Verdict.UNKNOWN, options=options))

"""The audit's findings on small nets, one cause each; real Caffe measures them in test_causes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from caffe_batch.memory import Build, CaffeMemory
from caffe_batch.net import Sources, read_recipe
from caffe_batch.planning import Budget, Cause, Finding, PlanOptions, Verdict, audit, make_plan
from caffe_batch.planning.audit.findings import Scope
from caffe_batch.planning.split.candidates import SplitOptions

DATA = """
layer { name: "in" type: "Input" top: "data" top: "label"
  input_param { shape { dim: 24 dim: 3 dim: 5 dim: 7 } shape { dim: 24 } } }
"""
IP = """
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
"""
LOSS = 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" %s }'
PLAIN = DATA + IP + LOSS % ""


class Auditor:
    """Writes a net into a folder and audits it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def model(self, net: str, solver: str = "", **build: Any) -> CaffeMemory:
        (self.folder / "net.prototxt").write_text(net)
        (self.folder / "solver.prototxt").write_text(f'net: "net.prototxt" {solver}')
        recipe = read_recipe(self.folder / "net.prototxt", self.folder / "solver.prototxt")
        return CaffeMemory(recipe, Sources((), {"d": (3, 5, 7)}), allow_unknown=True, **build)

    def __call__(
        self, net: str, solver: str = "", b: int = 8, k: int = 3, refused: Sequence[Cause] = ()
    ) -> dict[tuple[Cause, str | None], Finding]:
        found = audit(self.model(net, solver), batch_size=b, iter_size=k, refused=refused)
        by_place = {(finding.cause, finding.layer): finding for finding in found}
        assert len(by_place) == len(found), "two findings for one cause in one place"
        return by_place


@pytest.fixture
def audited(tmp_path: Path) -> Auditor:
    return Auditor(tmp_path)


def training(found: dict[tuple[Cause, str | None], Finding]) -> dict[tuple[Cause, str | None], str]:
    """The verdicts on the training itself, without those that are exact."""
    return {
        place: finding.verdict.value
        for place, finding in found.items()
        if finding.scope is Scope.TRAINING and finding.verdict is not Verdict.EXACT
    }


def values(finding: Finding) -> list[tuple[str, Any, Any]]:
    return [(change.field, change.before, change.after) for change in finding.changes]


def test_one_pass_is_the_whole_batch(audited: Auditor) -> None:
    assert audited(PLAIN, "clip_gradients: 1", b=24, k=1) == {}


def test_a_plain_net_is_exact(audited: Auditor) -> None:
    found = audited(PLAIN, "weight_decay: 0.1 momentum: 0.9")
    assert training(found) == {}
    assert {cause for cause, _ in found} == {
        Cause.WEIGHT_DECAY, Cause.DATA_ORDER, Cause.LOSS_NORMALIZATION, Cause.LOG_OUTPUTS
    }  # fmt: skip
    log = found[Cause.LOG_OUTPUTS, None]
    assert log.scope is Scope.LOG
    assert "(loss)" in log.explanation


def test_clip_gradients_follow_the_sum(audited: Auditor) -> None:
    found = audited(PLAIN, "clip_gradients: 0.1")[Cause.CLIP_GRADIENTS, None]
    assert found.verdict is Verdict.COMPENSATED
    assert values(found) == [("clip_gradients", 0.1, 0.3)]
    assert (Cause.CLIP_GRADIENTS, None) not in audited(PLAIN)  # -1: no clipping
    refused = audited(PLAIN, "clip_gradients: 0.1", refused=[Cause.CLIP_GRADIENTS])
    refusal = refused[Cause.CLIP_GRADIENTS, None]
    assert (refusal.verdict, refusal.changes) == (Verdict.DIFFERENT, ())
    assert "0.1 -> 0.3" in refusal.offer


ACCUMULATING = (
    DATA
    + """layer { name: "bn" type: "BatchNorm" bottom: "data" top: "bn"
      batch_norm_param { moving_average_fraction: 0.9 } }"""
    + IP.replace('bottom: "data"', 'bottom: "bn"')
    + LOSS % "loss_weight: 6 loss_param { normalization: NONE }"
)
"""A net whose files have iter_size 4 and mean what they do in 4 passes."""


@pytest.mark.parametrize("k", [1, 2, 6, 12])
def test_what_files_that_accumulate_mean_is_kept(audited: Auditor, k: int) -> None:
    found = audited(ACCUMULATING, "iter_size: 4 clip_gradients: 8", k=k)
    changed = {place[0]: values(finding) for place, finding in found.items() if finding.changes}
    assert changed == {
        Cause.CLIP_GRADIENTS: [("clip_gradients", 8.0, 2.0 * k)],
        Cause.LOSS_NORMALIZATION: [('layer "loss" loss_weight[0]', 6.0, 1.5 * k)],
        Cause.BATCH_NORM_AVERAGE: [
            ('layer "bn" batch_norm_param.moving_average_fraction', 0.9,
             pytest.approx(0.9 ** (4 / k), rel=1e-6))
        ],
    }  # fmt: skip
    assert len(found) == 3 or k > 1  # one pass: nothing else to say


def test_the_own_split_of_files_that_accumulate_changes_nothing(audited: Auditor) -> None:
    found = audited(ACCUMULATING, "iter_size: 4 clip_gradients: 8", k=4)
    assert [finding for finding in found.values() if finding.changes] == []
    assert training(found) == {(Cause.BATCH_NORM_STATISTICS, "bn"): "different"}
    assert "the sum over 4 x 8 samples" in found[Cause.LOSS_NORMALIZATION, "loss"].explanation
    assert "as in the files: 8 stays" in found[Cause.CLIP_GRADIENTS, None].explanation


def test_a_window_that_no_float_holds(audited: Auditor) -> None:
    net = ACCUMULATING.replace("fraction: 0.9", "fraction: 0.999999")
    found = audited(net, k=1024, b=1)[Cause.BATCH_NORM_AVERAGE, "bn"]
    assert found.verdict is Verdict.APPROXIMATE
    ((_, before, after),) = values(found)
    assert before == 0.999999
    assert 0.9999999 < after < 1


def test_a_threshold_of_zero_is_none_that_changes(audited: Auditor) -> None:
    found = audited(PLAIN, "clip_gradients: 0")[Cause.CLIP_GRADIENTS, None]
    assert (found.verdict, found.changes) == (Verdict.EXACT, ())


def test_a_threshold_stays_a_number_that_caffe_reads(audited: Auditor) -> None:
    found = audited(PLAIN, "clip_gradients: 3e38")
    assert values(found[Cause.CLIP_GRADIENTS, None]) == [("clip_gradients", 3e38, 3.4028235e38)]


@pytest.mark.parametrize(
    ("settings", "verdict", "weight"),
    [
        ("loss_param { normalization: FULL }", Verdict.EXACT, None),
        ("loss_param { normalization: BATCH_SIZE }", Verdict.EXACT, None),
        ("loss_param { normalize: false }", Verdict.EXACT, None),
        ("loss_param { normalization: VALID }", Verdict.EXACT, None),
        ("loss_param { normalization: NONE }", Verdict.COMPENSATED, 3.0),
        ("loss_weight: 0.5 loss_param { normalization: NONE }", Verdict.COMPENSATED, 1.5),
        # normalization wins over the older normalize
        ("loss_param { normalization: NONE normalize: true }", Verdict.COMPENSATED, 3.0),
    ],
)
def test_normalization(
    audited: Auditor, settings: str, verdict: Verdict, weight: float | None
) -> None:
    found = audited(DATA + IP + LOSS % settings)[Cause.LOSS_NORMALIZATION, "loss"]
    assert found.verdict is verdict
    assert [change.after for change in found.changes] == ([] if weight is None else [weight])


@pytest.mark.parametrize("normalization", ["", "normalization: VALID", "normalize: true"])
def test_ignored_labels(audited: Auditor, normalization: str) -> None:
    loss = LOSS % f"loss_param {{ ignore_label: 2 {normalization} }}"
    found = audited(DATA + IP + loss)
    assert training(found) == {(Cause.IGNORE_LABEL, "loss"): "approximate"}
    assert "BATCH_SIZE" in found[Cause.IGNORE_LABEL, "loss"].offer
    full = LOSS % "loss_param { ignore_label: 2 normalization: FULL }"
    assert training(audited(DATA + IP + full)) == {}


def test_sigmoid_cross_entropy_divides_by_the_batch(audited: Auditor) -> None:
    targets = DATA.replace("shape { dim: 24 } }", "shape { dim: 24 dim: 4 } }")
    loss = 'layer { name: "loss" type: "SigmoidCrossEntropyLoss" bottom: "ip" bottom: "label" %s }'
    assert training(audited(targets + IP + loss % "")) == {}
    ignored = audited(targets + IP + loss % "loss_param { ignore_label: 2 }")
    assert training(ignored) == {}  # BATCH_SIZE by default
    valid = audited(targets + IP + loss % "loss_param { ignore_label: 2 normalization: VALID }")
    assert training(valid) == {(Cause.IGNORE_LABEL, "loss"): "approximate"}


@pytest.mark.parametrize(
    ("layer", "weight"),
    [
        ('type: "Power" bottom: "ip" power_param { power: 2 }', 0.6),
        ('type: "Reduction" bottom: "ip" reduction_param { operation: SUMSQ }', 0.6),
        ('type: "Reduction" bottom: "ip" reduction_param { operation: MEAN axis: 1 }', 0.6),
        ('type: "Reduction" bottom: "ip" reduction_param { operation: MEAN }', None),
    ],
)
def test_plain_tops_as_losses_are_sums(audited: Auditor, layer: str, weight: float | None) -> None:
    found = audited(DATA + IP + f'layer {{ name: "sum" top: "sum" loss_weight: 0.2 {layer} }}')
    finding = found[Cause.LOSS_SUM, "sum"]
    assert finding.verdict is (Verdict.EXACT if weight is None else Verdict.COMPENSATED)
    assert [change.after for change in finding.changes] == ([] if weight is None else [weight])


def test_a_loss_that_is_read_by_others_keeps_its_weight_on_the_split(audited: Auditor) -> None:
    net = (
        DATA + IP + LOSS % "loss_weight: 0.1 loss_param { normalization: NONE }"
        + 'layer { name: "more" type: "Power" bottom: "loss" top: "more" loss_weight: 2 }'
    )  # fmt: skip
    found = audited(net)
    assert values(found[Cause.LOSS_NORMALIZATION, "loss"]) == [
        ('layer "loss" loss_weight[0]', 0.1, 0.3)
    ]
    assert values(found[Cause.LOSS_SUM, "more"]) == [('layer "more" loss_weight[0]', 2.0, 6.0)]


def test_behind_a_mean_multiples_are_exact_and_squares_are_not(audited: Auditor) -> None:
    power = 'layer {{ name: "p" type: "Power" bottom: "loss" top: "p" loss_weight: 1 {} }}'
    quiet = LOSS % "loss_weight: 0"
    assert training(audited(DATA + IP + quiet + power.format("power_param { scale: 3 }"))) == {}
    squared = audited(DATA + IP + quiet + power.format("power_param { power: 2 }"))
    assert training(squared) == {(Cause.MIXED_SAMPLES, "p"): "different"}
    assert "a sum over the whole batch" in squared[Cause.MIXED_SAMPLES, "p"].explanation


BN = 'layer { name: "bn" type: "BatchNorm" bottom: "ip" top: "ip" batch_norm_param { %s } }'


def test_batch_norm(audited: Auditor) -> None:
    found = audited(DATA + IP + BN % "" + LOSS % "")
    assert training(found) == {
        (Cause.BATCH_NORM_STATISTICS, "bn"): "different",
        (Cause.BATCH_NORM_AVERAGE, "bn"): "compensated",
    }
    assert "8 samples instead of 24" in found[Cause.BATCH_NORM_STATISTICS, "bn"].explanation
    ((_, before, after),) = values(found[Cause.BATCH_NORM_AVERAGE, "bn"])
    assert before == 0.999
    assert after**3 == pytest.approx(0.999, abs=1e-6)


def test_batch_norm_with_known_statistics_is_exact(audited: Auditor) -> None:
    assert training(audited(DATA + IP + BN % "use_global_stats: true" + LOSS % "")) == {}


def test_batch_norm_that_no_loss_depends_on_has_its_averages(audited: Auditor) -> None:
    aside = 'layer { name: "bn" type: "BatchNorm" bottom: "data" top: "aside" %s }'
    assert training(audited(DATA + aside % "" + IP + LOSS % "")) == {
        (Cause.BATCH_NORM_STATISTICS, "bn"): "different",
        (Cause.BATCH_NORM_AVERAGE, "bn"): "compensated",
    }
    known = aside % "batch_norm_param { use_global_stats: true }"
    assert training(audited(DATA + known + IP + LOSS % "")) == {}


def test_dropout_and_random_inputs(audited: Auditor) -> None:
    drop = 'layer { name: "drop" type: "Dropout" bottom: "ip" top: "ip" }'
    assert training(audited(DATA + IP + drop + LOSS % "")) == {
        (Cause.RANDOM_DRAWS, "drop"): "approximate"
    }
    dummy = """layer { name: "in" type: "DummyData" top: "data" top: "label" dummy_data_param {
      shape { dim: 24 dim: 3 dim: 5 dim: 7 } shape { dim: 24 }
      data_filler { type: "%s" } data_filler { type: "constant" } } }"""
    assert training(audited(dummy % "gaussian" + IP + LOSS % "")) == {
        (Cause.RANDOM_DRAWS, "in"): "approximate"
    }
    assert training(audited(dummy % "constant" + IP + LOSS % "")) == {}


@pytest.mark.parametrize(
    ("layers", "why"),
    [
        ('layer { name: "m" type: "Softmax" bottom: "ip" top: "m" softmax_param { axis: 0 } }',
         "works along axis 0"),
        ('layer { name: "m" type: "Filter" bottom: "ip" bottom: "label" top: "m" }',
         "their position in the batch"),
        ('layer { name: "m" type: "BatchReindex" bottom: "ip" bottom: "label" top: "m" }',
         "their position in the batch"),
        ('layer { name: "m" type: "Bias" bottom: "ip" top: "m" bias_param { axis: 0 } }',
         "one value for each sample"),
        ('layer { name: "m" type: "Slice" bottom: "ip" top: "m" top: "n" slice_param { axis: 0 } }',
         "doesn't grow with the batch size"),
        ('layer { name: "m" type: "Crop" bottom: "data" bottom: "d2" top: "m" '
         'crop_param { axis: 0 } }', "works along axis 0"),
    ],
)  # fmt: skip
def test_layers_that_mix_samples(audited: Auditor, layers: str, why: str) -> None:
    more = """layer { name: "d2" type: "DummyData" top: "d2"
      dummy_data_param { shape { dim: 2 dim: 3 dim: 5 dim: 7 } } }"""
    loss = 'layer { name: "end" type: "Reduction" bottom: "m" top: "end" loss_weight: 1 }'
    found = audited(DATA + more + IP + layers + loss)
    assert training(found) == {(Cause.MIXED_SAMPLES, "m"): "different"}
    assert why in found[Cause.MIXED_SAMPLES, "m"].explanation


# What layers overwrite; test_experiments_causes.py measures each

SCALE = 'layer { name: "s" type: "Scale" bottom: "ip" top: "s" scale_param { %s } }'


@pytest.mark.parametrize(
    ("settings", "b", "overwritten"),
    [
        ("", 1, True),
        ("bias_term: true", 1, True),
        ("", 2, False),
        ("num_axes: 0", 1, False),  # a single number, which is added up
    ],
)
def test_scale_overwrites_what_nothing_goes_before(
    audited: Auditor, settings: str, b: int, overwritten: bool
) -> None:
    found = training(audited(DATA + IP + SCALE % settings + LOSS.replace('"ip"', '"s"') % "", b=b))
    assert found == ({(Cause.OVERWRITTEN_GRADIENT, "s"): "different"} if overwritten else {})


def test_a_scale_that_is_given_or_frozen_is_not_overwritten(audited: Auditor) -> None:
    frozen = SCALE.replace('"Scale"', '"Scale" param { lr_mult: 0 }')
    assert training(audited(DATA + IP + frozen % "" + LOSS.replace('"ip"', '"s"') % "", b=1)) == {}


def test_a_batch_size_of_2_is_offered_where_scale_overwrites(audited: Auditor) -> None:
    net = DATA + IP + SCALE % "" + LOSS.replace('"ip"', '"s"') % ""
    place = Cause.OVERWRITTEN_GRADIENT, "s"
    assert audited(net, b=1, k=4)[place].offer == "A batch_size of 2 or more adds."
    assert audited(net, b=1, k=9)[place].offer == (
        "A batch_size of 2 or more adds: an effective batch of 8 or 10 takes it."
    )


@pytest.mark.parametrize("effective", [2, 4, 6, 10, 12, 24])
def test_batch_size_1_is_not_taken_where_2_fits(audited: Auditor, effective: int) -> None:
    model = audited.model(DATA + IP + SCALE % "" + LOSS.replace('"ip"', '"s"') % "", "max_iter: 9")
    for size in (1, 2, 3):
        usable = model.at(size).allocated_bytes
        plan = make_plan(model, Budget(usable, 0), PlanOptions(effective_batch=effective))
        overwritten = [f for f in plan.findings if f.cause is Cause.OVERWRITTEN_GRADIENT]
        fits_two = model.at(2).allocated_bytes <= usable
        assert (plan.batch_size > 1) is fits_two
        assert bool(overwritten) is not fits_two


def test_what_weighs_on_a_gradient_that_others_overwrite(audited: Auditor) -> None:
    """The Reshape shares the memory of its gradient with the blob that the ReLU works in."""
    relu = 'layer { name: "relu" type: "ReLU" bottom: "ip" top: "ip" }'
    flat = """layer { name: "r" type: "%s" bottom: "ip" top: "r" loss_weight: 0.1 %s }"""
    shaped = flat % ("Reshape", "reshape_param { shape { dim: 0 dim: -1 } }")
    weighs: dict[str, list[str | None]] = {
        shaped: ["r"], flat % ("Flatten", ""): ["r"], flat % ("Concat", ""): ["r"],
        flat % ("TanH", ""): [],
    }  # fmt: skip
    for layers, names in weighs.items():
        found = audited(DATA + IP + relu + layers)
        assert [n for c, n in found if c is Cause.OVERWRITTEN_LOSS_WEIGHT] == names
    found = audited(DATA + IP + shaped)  # nothing in place
    assert Cause.OVERWRITTEN_LOSS_WEIGHT not in {cause for cause, _ in found}


def test_scribbles_matter_where_a_gradient_is_read(audited: Auditor) -> None:
    hinge = 'layer { name: "h" type: "HingeLoss" bottom: "%s" bottom: "label" %s top: "h" %s }'

    def spoiled(more: str, net: str = "") -> bool:
        return (Cause.SPOILED_GRADIENT, "h") in audited(net + DATA + IP + LOSS % "" + more)

    assert spoiled(hinge % ("ip", "", "loss_weight: 0"))
    shaped = """layer { name: "r" type: "Reshape" bottom: "ip" top: "r"
      reshape_param { shape { dim: 0 dim: 4 } } }"""
    assert spoiled(shaped + hinge % ("r", "", "loss_weight: 0"))
    assert spoiled(hinge % ("ip", "propagate_down: false propagate_down: false", ""))
    assert not spoiled(hinge % ("ip", "", "loss_weight: 0.1"))
    assert not spoiled(hinge % ("data", "", "loss_weight: 0"))
    assert not spoiled(hinge % ("ip", "", "loss_weight: 0"), net="force_backward: true")


def test_blobs_put_together_along_the_batch_and_taken_apart_again(audited: Auditor) -> None:
    """Two branches through one layer: every sample of both is treated as in the whole batch."""
    net = DATA + """
      layer { name: "twice" type: "Power" bottom: "data" top: "other" power_param { scale: 2 } }
      layer { name: "both" type: "Concat" bottom: "data" bottom: "other" top: "both"
        concat_param { axis: 0 } }
      layer { name: "ip" type: "InnerProduct" bottom: "both" top: "ips"
        inner_product_param { num_output: 4 } }
      layer { name: "apart" type: "Slice" bottom: "ips" top: "ip" top: "ip2"
        slice_param { axis: 0 } }
      layer { name: "near" type: "EuclideanLoss" bottom: "ip" bottom: "ip2" top: "near" }
    """ + LOSS % ""  # fmt: skip
    assert training(audited(net)) == {}


SEQUENCES = """
layer { name: "in" type: "Input" top: "x" top: "cont" top: "label" input_param {
  shape { dim: 5 dim: 24 dim: 3 } shape { dim: 5 dim: 24 } shape { dim: 5 dim: 24 } } }
layer { name: "rnn" type: "%s" bottom: "x" bottom: "cont" %s top: "h"
  recurrent_param { num_output: 4 %s } }
"""


def test_recurrent_layers_carry_their_state_on(audited: Auditor) -> None:
    loss = """layer { name: "loss" type: "SoftmaxWithLoss" bottom: "h" bottom: "label"
      softmax_param { axis: 2 } }"""
    found = audited(SEQUENCES % ("LSTM", "", "") + loss)
    assert training(found) == {(Cause.RECURRENT_STATE, "rnn"): "different"}
    # A mean over T of what lies on (T, N): the batch on axis 1 is not divided by.
    euclid = """layer { name: "target" type: "Input" top: "t"
      input_param { shape { dim: 5 dim: 24 dim: 4 } } }
      layer { name: "loss" type: "EuclideanLoss" bottom: "h" bottom: "t" }"""
    found = audited(SEQUENCES % ("RNN", "", "") + euclid)
    assert values(found[Cause.LOSS_NORMALIZATION, "loss"]) == [
        ('layer "loss" loss_weight[0]', None, 3.0)
    ]


def test_exposed_state_comes_from_outside(audited: Auditor) -> None:
    net = """layer { name: "h0" type: "DummyData" top: "h0"
      dummy_data_param { shape { dim: 1 dim: 24 dim: 4 } } }""" + SEQUENCES % (
        "RNN", 'bottom: "h0"', "expose_hidden: true"
    ) + """layer { name: "quiet" type: "Silence" bottom: "hT" }
      layer { name: "loss" type: "SoftmaxWithLoss" bottom: "h" bottom: "label"
      softmax_param { axis: 2 } }"""  # fmt: skip
    assert training(audited(net.replace('top: "h"\n', 'top: "h" top: "hT"\n'))) == {}


def test_time_merged_with_the_batch_is_followed(audited: Auditor) -> None:
    net = (
        SEQUENCES % ("RNN", "", "expose_hidden: false")
        + """
      layer { name: "flat" type: "Reshape" bottom: "h" top: "flat"
        reshape_param { shape { dim: -1 dim: 4 } } }
      layer { name: "flatl" type: "Reshape" bottom: "label" top: "flatl"
        reshape_param { shape { dim: -1 } } }
      layer { name: "loss" type: "SoftmaxWithLoss" bottom: "flat" bottom: "flatl" }
    """
    )
    assert training(audited(net)) == {(Cause.RECURRENT_STATE, "rnn"): "different"}


def test_a_reshape_that_only_looks_like_a_transpose_mixes(audited: Auditor) -> None:
    net = (
        DATA
        + """
      layer { name: "look" type: "Reshape" bottom: "data" top: "look"
        reshape_param { shape { dim: 5 dim: -1 dim: 21 } } }
      layer { name: "end" type: "InnerProduct" bottom: "look" top: "end" loss_weight: 1
        inner_product_param { num_output: 2 axis: 2 } }
    """
    )
    assert training(audited(net, b=10, k=2)) == {(Cause.MIXED_SAMPLES, "look"): "different"}


def test_windows(audited: Auditor) -> None:
    net = (
        """layer { name: "in" type: "WindowData" top: "data" top: "label"
      transform_param { crop_size: 7 }
      window_data_param { source: "w" batch_size: 24 fg_fraction: %s } }"""
        + IP
        + LOSS % ""
    )
    assert training(audited(net % "0.25")) == {(Cause.WINDOW_DATA, "in"): "approximate"}
    found = audited(net % "0.3")  # 3 x floor(2.4) = 6, floor(7.2) = 7
    assert training(found) == {(Cause.WINDOW_DATA, "in"): "different"}
    assert "3 x 2 = 6 per update instead of 7" in (found[Cause.WINDOW_DATA, "in"].explanation)


def test_layers_without_a_rule_are_unknown(audited: Auditor) -> None:
    python = 'layer { name: "py" type: "Python" bottom: "ip" top: "ip" python_param { module: "m" layer: "L" } }'  # noqa: E501
    assert training(audited(DATA + IP + python + LOSS % "")) == {
        (Cause.UNKNOWN_LAYER, "py"): "unknown"
    }


def test_a_whole_batch_too_large_for_caffe_is_judged_by_two_passes(audited: Auditor) -> None:
    """2^31 elements are over the limit of a blob; the findings are those of any other size."""
    big = DATA.replace("dim: 5 dim: 7", "dim: 4000 dim: 4000")
    net = big + IP.replace("num_output: 4", "num_output: 1") + LOSS % (
        "loss_param { normalization: NONE }"
    )  # fmt: skip
    found = audited(net, b=8, k=30)
    assert values(found[Cause.LOSS_NORMALIZATION, "loss"])[0][2] == 30.0


def test_several_gpus(tmp_path: Path) -> None:
    model = Auditor(tmp_path).model(
        DATA + IP + LOSS % "loss_param { normalization: NONE }", "clip_gradients: 2", gpus=2
    )
    found = {f.cause: f for f in audit(model, batch_size=4, iter_size=3, gpus=2)}
    assert values(found[Cause.CLIP_GRADIENTS])[0][2] == 6.0  # averaged over GPUs before
    assert values(found[Cause.LOSS_NORMALIZATION])[0][2] == 6.0  # and that mean counts as well
    assert found[Cause.LAYER_WISE_REDUCE].verdict is Verdict.EXACT


def test_files_for_several_gpus_keep_what_they_mean(tmp_path: Path) -> None:
    """Two GPUs x iter_size 3: what the files are taken for decides what their sums mean."""
    net = DATA + IP + LOSS % "loss_param { normalization: NONE }"
    model = Auditor(tmp_path).model(net, "iter_size: 3 clip_gradients: 2", gpus=2)
    plan = make_plan(model, Budget(2**30, 0), PlanOptions(split=SplitOptions(iter_size=3)))
    assert (plan.effective_batch, plan.changes) == (2 * 3 * 24, ())
    # One GPU had 3 x 24 in an update; two have it in one pass of 36 each.
    plan = make_plan(model, Budget(2**30, 0), PlanOptions(effective_batch=3 * 24))
    assert (plan.batch_size, plan.iter_size) == (36, 1)
    changes = {change.field: (change.before, change.after) for change in plan.changes}
    assert changes["clip_gradients"] == (2.0, pytest.approx(2 / 3))
    assert changes['layer "loss" loss_weight[0]'] == (None, pytest.approx(2 / 3))


def test_outputs_without_a_name_are_named_by_their_layer(audited: Auditor) -> None:
    """Caffe prints them as `(automatic)`."""
    net = PLAIN.replace('top: "loss"', "")
    log = audited(net)[Cause.LOG_OUTPUTS, None]
    assert "outputs (the unnamed one of layer loss) only for the last pass" in log.explanation


def test_nvcaffe_divides(tmp_path: Path) -> None:
    net = """layer { name: "in" type: "Data" top: "d" top: "label"
      data_param { source: "x" batch_size: 24 } }""" + IP.replace('"data"', '"d"') + BN % "" + (
        LOSS % ""
    )  # fmt: skip
    model = Auditor(tmp_path).model(net, build=Build.NVCAFFE, gpus=2)
    found = {f.cause: f for f in audit(model, batch_size=8, iter_size=3, gpus=2)}
    assert "4 samples instead of 24" in found[Cause.BATCH_NORM_STATISTICS].explanation

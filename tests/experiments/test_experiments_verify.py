"""How ``verify`` measures on real Caffe: the gradient, the loss, the split, and failures."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence

import pytest

from caffe_batch.errors import (
    DoesNotFitError,
    InputError,
    NetError,
    ShapeError,
    TrainingError,
)
from caffe_batch.experiments import verify
from caffe_batch.experiments.verification import TOLERANCE, judge
from caffe_batch.planning.audit.findings import Cause, Finding, Verdict
from caffe_batch.planning.edits.changes import Change
from caffe_batch.runtimes.interpreter import Interpreter
from tests.experiments.measuring import INPUT, LOSS, SOLVER, Bench, inner_product, nothing
from tests.planned_jobs import write_lmdb

SIMPLE = INPUT + inner_product() + LOSS

# Caffe by itself on the whole batch: the smoothed loss of three updates, as the log would have it.
PLAIN = """
import json, sys, caffe
solver = caffe.get_solver("whole.prototxt")
losses = []
for _ in range(3):
    solver.step(1)
    losses.append(float(solver.net.blobs["loss"].data))
print(json.dumps(sum(losses[-2:]) / 2))
"""


def change(
    file: str, path: tuple[str | int, ...], after: object, layer: int | None = None
) -> Change:
    return Change(file, path, None, after, "by hand", layer)


def by_hand(*changes: Change) -> Finding:
    return Finding(Cause.CLIP_GRADIENTS, None, Verdict.COMPENSATED, "by hand", changes)


# What is measured


@pytest.mark.parametrize(
    ("rule", "settings"),
    [
        ("SGD", "momentum: 0.9"),
        ("Nesterov", "momentum: 0.9"),
        ("AdaGrad", ""),
        ("RMSProp", "rms_decay: 0.9"),
        ("AdaDelta", "momentum: 0.95 delta: 1e-6"),
        ("Adam", "momentum: 0.9"),
    ],
)
def test_every_update_rule_accumulates_exactly(bench: Bench, rule: str, settings: str) -> None:
    solver = f'type: "{rule}" base_lr: 0.01 lr_policy: "fixed" max_iter: 9 {settings}'
    found = bench.measure(SIMPLE, solver, nothing)
    assert found.solver_type == rule
    assert found.gradient.compensated <= TOLERANCE
    assert found.weights.compensated <= TOLERANCE
    assert found.losses.errors.compensated <= TOLERANCE


def test_the_loss_is_that_of_caffe(bench: Bench, pycaffe: Callable[..., str]) -> None:
    source = write_lmdb(bench.folder / "lmdb")
    net = (
        f'layer {{ name: "d" type: "Data" top: "data" top: "label" data_param {{ source: "{source}"'
        " backend: LMDB batch_size: 12 } transform_param { scale: 0.004 } }"
        + inner_product()
        + LOSS
    )
    solver = f"{SOLVER} random_seed: 5\n"
    found = bench.measure(net, solver, nothing)
    (bench.folder / "whole.prototxt").write_text(f'{solver} net: "net.prototxt"\n')
    by_itself = json.loads(pycaffe(PLAIN, cwd=bench.folder))
    assert found.losses.whole == pytest.approx(by_itself, rel=1e-6)
    assert found.losses.compensated == pytest.approx(by_itself, rel=1e-5)


def test_the_gradient_is_the_clipped_mean(bench: Bench) -> None:
    """Clipped at c, the sum of three gradients is c long, and the mean c / 3: an error of 2/3.

    The rate of a parameter doesn't enter; one that doesn't learn has no gradient.
    """
    rates = "param { lr_mult: 2 } param { lr_mult: 0 }"
    net = INPUT + inner_product().replace('top: "ip"', f'top: "ip" {rates}') + LOSS

    def audited(size: int, passes: int) -> Sequence[Finding]:
        return [by_hand(change("solver", ("clip_gradients",), 0.01 * passes))]

    found = bench.measure(net, SOLVER + "clip_gradients: 0.01\n", audited)
    weights, bias = found.parameters
    assert weights.gradient is not None
    assert weights.gradient.compensated <= TOLERANCE
    assert weights.gradient.plain == pytest.approx(2 / 3, rel=1e-4)
    assert bias.gradient is None
    assert (bias.weights.compensated, bias.weights.plain) == (0, 0)


def test_the_loss_of_many_pixels_rounds(bench: Bench) -> None:
    """A sum over the pixels: Caffe adds up 120,000 like numbers one by one, in single precision."""
    net = """
layer { name: "in" type: "Input" top: "data" top: "label"
  input_param { shape { dim: 5 dim: 2 dim: 100 dim: 100 }
                shape { dim: 5 dim: 1 dim: 100 dim: 100 } } }
layer { name: "score" type: "Convolution" bottom: "data" top: "ip"
  convolution_param { num_output: 3 kernel_size: 1 } }
"""
    whole = LOSS.replace("top:", "loss_param { normalization: NONE } top:")
    found = bench.measure(net + whole, SOLVER.replace("0.05", "1e-8"))
    error = found.first_losses.errors.compensated
    assert TOLERANCE < error <= found.first_losses.rounding
    assert (judge(found).promised, judge(found).held) == (True, True), judge(found)
    # The factor that the plan compensates for is no rounding.
    plain = found.first_losses.errors.plain
    assert plain is not None
    assert plain > found.first_losses.rounding


def test_a_shared_parameter_counts_once(bench: Bench) -> None:
    share = 'param { name: "w" } param { name: "b" }'
    net = INPUT + inner_product().replace('top: "ip"', f'top: "ip" {share}')
    net += inner_product(name="twin").replace('top: "twin"', f'top: "twin" {share}')
    net += 'layer { name: "sum" type: "Eltwise" bottom: "ip" bottom: "twin" top: "sum" }'
    found = bench.measure(net + LOSS.replace('"ip"', '"sum"'), SOLVER, nothing)
    assert [(row.layer, row.index) for row in found.parameters] == [("ip", 0), ("ip", 1)]
    assert found.agrees


def test_a_gradient_that_is_all_rounding_is_not_a_difference(bench: Bench) -> None:
    """MVN takes any bias away. Adam turns the rounding of its gradient into whole steps."""
    conv = """
    layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
      convolution_param { num_output: 6 kernel_size: 3 weight_filler { type: "xavier" } } }
    layer { name: "mvn" type: "MVN" bottom: "conv" top: "mvn" }
    """
    solver = 'type: "Adam" base_lr: 0.01 lr_policy: "fixed" max_iter: 9 momentum: 0.9'
    found = bench.measure(INPUT + conv + inner_product("mvn") + LOSS, solver, nothing)
    bias = found.parameters[1]
    assert (bias.layer, bias.index, bias.vanishing) == ("conv", 1, True)
    assert bias.gradient is not None
    assert bias.gradient.compensated <= TOLERANCE
    assert bias.weights.compensated > 0.01
    assert [row.vanishing for row in found.parameters].count(True) == 1
    assert found.agrees


@pytest.mark.parametrize("normalization", ["VALID", "NONE"])
def test_a_training_that_diverges_is_judged_by_its_first_update(
    bench: Bench, normalization: str
) -> None:
    net = INPUT + inner_product() + weighted_loss(normalization)
    found = bench.measure(net, 'base_lr: 1e38 lr_policy: "fixed" max_iter: 9', nothing)
    assert found.diverges
    assert found.agrees is judge(found).held is (normalization == "VALID")
    assert "no weights to compare" in judge(found).sentence
    assert found.json()["weights"]["compensated"] is None
    json.dumps(found.json(), allow_nan=False)


# A high rate makes much of rounding

#: Two layers that divide by the spread of their inputs, and eight that saturate.
NORMALIZED = """
layer { name: "c" type: "Convolution" bottom: "data" top: "c"
  convolution_param { num_output: 8 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "m" type: "MVN" bottom: "c" top: "m" }
layer { name: "r" type: "ReLU" bottom: "m" top: "m" }
layer { name: "d" type: "Convolution" bottom: "m" top: "d"
  convolution_param { num_output: 8 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "n" type: "MVN" bottom: "d" top: "n" }
"""
SATURATED = "".join(
    inner_product("data" if i == 0 else f"h{i - 1}", 32, f"h{i}").replace("xavier", "msra")
    + f'layer {{ name: "t{i}" type: "TanH" bottom: "h{i}" top: "h{i}" }}\n'
    for i in range(8)
)
DEEP = {"normalized": NORMALIZED + inner_product("n"), "saturated": SATURATED + inner_product("h7")}


def weighted_loss(normalization: str) -> str:
    return LOSS[:-1] + f"loss_param {{ normalization: {normalization} }} }}"


def fast(rate: float, more: str = "") -> str:
    return f'base_lr: {rate} lr_policy: "fixed" momentum: 0.9 max_iter: 9 {more}\n'


@pytest.mark.parametrize("rate", [2, 10])
@pytest.mark.parametrize("name", DEEP)
def test_at_a_high_rate_the_same_training_is_recognized(
    bench: Bench, name: str, rate: float
) -> None:
    found = bench.measure(INPUT + DEEP[name] + LOSS, fast(rate))
    assert judge(found).promised
    assert judge(found).held
    assert TOLERANCE < found.weights.control <= found.tolerance
    assert found.gradient.compensated <= TOLERANCE


def test_at_a_high_rate_the_weights_of_the_same_training_are_apart(bench: Bench) -> None:
    """Else the tests above show nothing. By how much is chance at each rate: the most of three."""
    net = INPUT + DEEP["saturated"] + LOSS
    apart = [bench.measure(net, fast(rate)).weights.compensated for rate in (10, 15, 20)]
    assert max(apart) > 10 * TOLERANCE


@pytest.mark.parametrize("rate", [2, 10])
@pytest.mark.parametrize("name", DEEP)
def test_at_a_high_rate_what_is_compensated_agrees_and_else_fails(
    bench: Bench, name: str, rate: float
) -> None:
    net = INPUT + DEEP[name] + weighted_loss("NONE")
    solver = fast(rate, "clip_gradients: 0.05")
    mended, overlooked = bench.measure(net, solver), bench.measure(net, solver, nothing)
    assert judge(mended).held
    assert mended.weights.plain is not None
    assert mended.weights.plain > 10 * mended.tolerance  # without a look at the first update
    assert judge(overlooked).promised
    assert not judge(overlooked).held


@pytest.mark.parametrize("normalization", ["VALID", "NONE"])
def test_at_a_high_rate_one_overlooked_cause_fails(bench: Bench, normalization: str) -> None:
    clip = "clip_gradients: 0.05" if normalization == "VALID" else ""
    net = INPUT + inner_product() + weighted_loss(normalization)
    assert not judge(bench.measure(net, fast(10, clip), nothing)).held


@pytest.mark.parametrize("layers", [inner_product(), DEEP["saturated"]])
def test_at_a_usual_rate_the_tolerance_is_the_plain_one(bench: Bench, layers: str) -> None:
    found = bench.measure(INPUT + layers + LOSS, fast(0.01, "weight_decay: 0.0005"))
    assert found.tolerance == TOLERANCE
    assert found.weights.control > 0
    assert found.agrees


def test_a_broken_promise_shows(bench: Bench) -> None:
    net = INPUT + inner_product() + LOSS[:-1] + "loss_param { normalization: NONE } }"
    verdict = judge(bench.measure(net, SOLVER, nothing))
    assert (verdict.promised, verdict.held) == (True, False)
    assert verdict.sentence.startswith(
        "NOT the same training, though the audit says it is: batch_size"
    )


# Where the samples come from


def test_samples_are_made_up_where_there_are_none(bench: Bench) -> None:
    missing = """
    layer { name: "images" type: "Data" top: "data" top: "label"
      data_param { source: "none" batch_size: 5 } transform_param { crop_size: 5 mirror: true } }
    """
    net = missing + inner_product() + LOSS
    found = bench.measure(net, SOLVER, nothing, shapes={"data": (3, 7, 11)})
    assert found.agrees
    assert found.parameters[0].shape == (4, 3 * 5 * 5)
    (use,) = found.data
    assert (use.layer, use.made) == ("images", True)
    assert "source 'none' is not in" in use.why


def test_inputs_take_the_sizes_that_are_given(bench: Bench) -> None:
    net = 'layer { name: "in" type: "Input" top: "data" top: "label" }'
    shapes: dict[str, tuple[int, ...]] = {"data": (2, 7), "label": ()}
    found = bench.measure(net + inner_product() + LOSS, SOLVER, nothing, shapes=shapes)
    assert found.agrees
    assert found.parameters[0].shape == (4, 2 * 7)


def test_memory_data_is_fed(bench: Bench) -> None:
    memory = """
    layer { name: "m" type: "MemoryData" top: "data" top: "label"
      memory_data_param { batch_size: 5 channels: 3 height: 2 width: 7 } }
    """
    found = bench.measure(memory + inner_product() + LOSS, SOLVER, nothing)
    assert found.agrees
    assert found.data[0].why == "a MemoryData layer gets its data from a program"


def test_nothing_of_the_users_is_written(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bench.folder)
    output = """
    layer { name: "out" type: "HDF5Output" bottom: "ip" bottom: "label"
      hdf5_output_param { file_name: "out.h5" } }
    """
    solver = SOLVER + 'snapshot: 1 snapshot_prefix: "mine" test_iter: 1 test_interval: 1'
    assert bench.measure(SIMPLE + output, solver, nothing).agrees
    assert sorted(path.name for path in bench.folder.iterdir()) == [
        "net.prototxt",
        "solver.prototxt",
    ]


# Which split is measured


def cut(parts: int) -> str:
    """A net that cuts its batch into equal parts."""
    tops = " ".join(f'top: "part{i}"' for i in range(parts))
    return (
        f'{INPUT}{inner_product(name="h")} layer {{ name: "cut" type: "Slice" bottom: "h" {tops} '
        "slice_param { axis: 0 } } layer { "
        'name: "loss" type: "EuclideanLoss" bottom: "part0" bottom: "part1" top: "loss" }'
    )


def test_another_batch_size_where_the_net_takes_no_four(bench: Bench) -> None:
    found = bench.measure(cut(3), SOLVER, nothing)
    assert (found.batch_size, found.iter_size) == (6, 3)
    assert [note.split(":")[0] for note in found.notes] == [
        "batch_size 4 isn't possible",
        "batch_size 2 isn't possible",
    ]


def test_the_batch_size_of_the_file_is_tried_last(bench: Bench) -> None:
    assert bench.measure(cut(5), SOLVER, nothing).batch_size == 5


def test_a_batch_size_that_is_asked_for_is_taken_or_refused(bench: Bench) -> None:
    assert bench.measure(SIMPLE, SOLVER, nothing, batch_size=7, iter_size=2).batch_size == 7
    with pytest.raises(ShapeError, match="an axis of 4 can't be cut into 3 equal parts"):
        bench.measure(cut(3), SOLVER, nothing, batch_size=4)


def test_a_smaller_batch_where_memory_is_short(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = bench.model(SIMPLE)
    between = (model.at(6).peak_bytes + model.at(9).peak_bytes) // 2
    monkeypatch.setattr(verify, "free_host_bytes", lambda: between)
    found = bench.measure(SIMPLE, SOLVER, nothing)
    assert found.batch_size == 2
    assert "batch_size 4 isn't possible: a batch of 12 needs" in found.notes[0]
    monkeypatch.setattr(verify, "free_host_bytes", lambda: 999)
    with pytest.raises(DoesNotFitError, match=r"a batch of 3 needs .* and this machine has 999 B"):
        bench.measure(SIMPLE, SOLVER, nothing)


# What can't be measured


def test_a_net_that_needs_its_changes_is_measured_with_them(bench: Bench) -> None:
    """Two samples to a row: the rows stand in the net, and only the change adapts them."""
    net = """
    layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 5 dim: 6 } } }
    layer { name: "pairs" type: "Reshape" bottom: "data" top: "pairs"
      reshape_param { shape { dim: 10 dim: -1 } } }
    """
    net += inner_product("pairs")
    net += 'layer { name: "loss" type: "AbsVal" bottom: "ip" top: "loss" loss_weight: 1 }'

    def audited(size: int, passes: int) -> Sequence[Finding]:
        rows = change("net", ("reshape_param", "shape", "dim", 0), 2 * size, layer=1)
        return [by_hand(rows, change("net", ("loss_weight", 0), passes, layer=3))]

    found = bench.measure(net, SOLVER, audited)
    assert found.agrees
    assert found.gradient.plain is None
    assert "'pairs'" in found.plain_refused
    assert "(10,)" in found.plain_refused


def test_what_caffe_alone_refuses_without_the_changes_is_reported(bench: Bench) -> None:
    source = write_lmdb(bench.folder / "lmdb")
    net = (
        f'layer {{ name: "d" type: "Data" top: "data" top: "label" data_param {{ source: "{source}"'
        ' backend: LMDB batch_size: 5 } transform_param { mean_file: "no.binaryproto" } }'
        + inner_product() + LOSS
    )  # fmt: skip

    def audited(size: int, passes: int) -> Sequence[Finding]:
        return [by_hand(change("net", ("transform_param", "mean_file"), None, layer=0))]

    found = bench.measure(net, SOLVER, audited)
    assert found.agrees
    assert found.losses.plain is None
    assert "File not found: no.binaryproto" in found.plain_refused


def test_parameters_that_depend_on_the_batch_are_refused(bench: Bench) -> None:
    net = INPUT + inner_product().replace("num_output: 4", "num_output: 4 axis: 0")
    net += 'layer { name: "loss" type: "AbsVal" bottom: "ip" top: "loss" loss_weight: 1 }'
    with pytest.raises(NetError, match="the net's parameters depend on its batch size"):
        bench.measure(net, SOLVER, nothing)


def test_what_is_not_a_base_for_training_is_refused(bench: Bench) -> None:
    with pytest.raises(InputError, match="max_iter is 0"):
        bench.measure(SIMPLE, 'base_lr: 1 lr_policy: "fixed" max_iter: 0', nothing)
    with pytest.raises(NetError, match="the TRAIN net has no loss"):
        bench.measure(INPUT + inner_product(), SOLVER, nothing)


def test_a_solver_for_a_program_that_steps_it_is_measured(bench: Bench) -> None:
    assert bench.measure(SIMPLE, 'base_lr: 0.1 lr_policy: "fixed"').agrees


def test_a_failed_check_is_reported_in_caffes_words(slow_bench: Bench) -> None:
    net = INPUT + inner_product() + LOSS
    net += """
    layer { name: "far" type: "InfogainLoss" bottom: "ip" bottom: "label" top: "far"
      infogain_loss_param { source: "no.binaryproto" } }
    """
    with pytest.raises(TrainingError) as caught:
        slow_bench.measure(net, SOLVER, nothing)
    told = str(caught.value)
    assert "Caffe stopped at batch_size 12, iter_size 1: failed check: " in told
    assert "no.binaryproto" in told


def test_a_runtime_without_caffe_is_reported(slow_bench: Bench) -> None:
    python = Bench(slow_bench.folder, Interpreter(sys.executable))
    with pytest.raises(TrainingError, match=r"Caffe did not start: Python error: ModuleNotFound"):
        python.measure(SIMPLE, SOLVER, nothing)


def test_the_worker_by_itself(slow_bench: Bench) -> None:
    found = slow_bench.measure(SIMPLE)
    assert judge(found).promised
    assert found.agrees


def test_the_files_own_split_is_measured_beside_the_default(bench: Bench) -> None:
    """A plan's files at batch_size 1: the fault shows there, and not at 4 x 3."""
    scaled = 'layer { name: "s" type: "Scale" bottom: "ip" top: "s" }'
    net = INPUT.replace("dim: 5", "dim: 1") + inner_product() + scaled
    found = bench.measure(
        net + LOSS.replace('"ip"', '"s"'), SOLVER + "iter_size: 4", iter_size=None
    )
    assert (found.batch_size, found.iter_size) == (4, 3)
    assert judge(found).promised
    assert found.agrees
    own = found.own
    assert own is not None
    assert (own.batch_size, own.iter_size) == (1, 4)
    assert "overwritten_gradient (different)" in judge(own).sentence
    assert own.gradient.compensated > 0.1
    assert found.json()["own_split"]["iter_size"] == 4


def test_a_large_split_of_the_files_is_measured_in_two_passes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "MOST_OWN_BYTES", 1)
    found = bench.measure(SIMPLE, SOLVER + "iter_size: 40", iter_size=None)
    assert found.own is not None
    assert (found.own.batch_size, found.own.iter_size) == (5, 2)
    assert found.own.notes == ("The files' iter_size is 40; 2 passes are measured.",)


@pytest.mark.parametrize("iter_size", [2, 3, 4])
def test_files_that_accumulate_already(bench: Bench, iter_size: int) -> None:
    """Their threshold and their sums are for 3 passes: that is what the whole batch is made of."""
    net = INPUT + inner_product() + LOSS.replace(" }", " loss_param { normalization: NONE } }")
    found = bench.measure(net, SOLVER + "iter_size: 3 clip_gradients: 0.5", iter_size=iter_size)
    assert judge(found).held
    assert judge(found).promised

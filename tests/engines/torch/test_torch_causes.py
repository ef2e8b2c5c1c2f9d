"""What the audit says about PyTorch compared with Caffe; real Caffe judges the differences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import caffe_batch as cb
from caffe_batch import engines
from caffe_batch.engines.torch.refusals import departures
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.layers.base import Mode
from caffe_batch.net import Sources, read_recipe
from caffe_batch.planning.audit.findings import Cause, Finding, Scope, Verdict
from caffe_batch.planning.precision import Precision
from caffe_batch.planning.shared import Shared
from tests.engines.torch.control import findings
from tests.engines.torch.drawn_nets import fed_trial
from tests.engines.torch.on_caffe import Pycaffe, Trial, on_caffe

DATA = """
layer { name: "d" type: "Input" top: "x" top: "t"
  input_param { shape { dim: 6 dim: 3 dim: 5 dim: 7 } shape { dim: 6 } } }
"""
IP = """
layer { name: "ip" type: "InnerProduct" bottom: "%s" top: "ip"
  inner_product_param { num_output: 4 weight_filler { type: "%s" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "t" top: "loss" }
"""


def audited(
    folder: Path, net: str, precision: Precision = Precision.FLOAT32, mode: Mode = "gpu"
) -> list[Finding]:
    """What the audit says about the engine."""
    (folder / "net.prototxt").write_text(net)
    (folder / "solver.prototxt").write_text('net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed"')
    recipe = read_recipe(folder / "net.prototxt", folder / "solver.prototxt")
    engine = engines.find("pytorch")
    model = engine.memory_model(recipe, Sources(()), mode)
    found = engine.audit(model, batch_size=3, iter_size=2, precision=precision)
    own = [finding for finding in found if finding.scope is Scope.ENGINE]
    of_caffe = engines.find("caffe").audit(model, batch_size=3, iter_size=2)
    assert [each for each in found if each not in own] == list(of_caffe)
    return own


def said(found: list[Finding]) -> list[tuple[str, str | None, str]]:
    return [(each.cause.value, each.layer, each.verdict.value) for each in found]


@pytest.mark.parametrize("filler", ["gaussian", "msra", "xavier", "uniform", "bilinear"])
def test_fillers_whose_numbers_differ(tmp_path: Path, filler: str) -> None:
    net = DATA + 'layer { name: "c" type: "Convolution" bottom: "x" top: "c" convolution_param {' \
        f'num_output: 3 kernel_size: 3 weight_filler {{ type: "{filler}" }} }} }}' \
        + IP % ("c", "xavier")  # fmt: skip
    other = filler in ("gaussian", "msra")
    assert said(audited(tmp_path, net)) == [("engine_draws", "c", "approximate")] * other


@pytest.mark.parametrize(
    ("layer", "draws"),
    [
        ('type: "Dropout" bottom: "x" top: "y"', True),
        ('type: "Dropout" bottom: "x" top: "y" include { phase: TEST }', False),
        ('type: "Pooling" bottom: "x" top: "y" pooling_param { pool: STOCHASTIC kernel_size: 2 }',
         True),
        ('type: "Pooling" bottom: "x" top: "y" pooling_param { pool: MAX kernel_size: 2 }', False),
        ('type: "DummyData" top: "y" dummy_data_param { shape { dim: 6 dim: 4 } '
         'data_filler { type: "gaussian" } }', True),
        ('type: "DummyData" top: "y" dummy_data_param { shape { dim: 6 dim: 4 } '
         'data_filler { type: "uniform" } }', False),
    ],
)  # fmt: skip
def test_layers_that_draw_in_each_pass(tmp_path: Path, layer: str, *, draws: bool) -> None:
    net = f'{DATA} layer {{ name: "a" {layer} }} {IP % ("x", "xavier")}'
    assert said(audited(tmp_path, net)) == [("engine_draws", "a", "approximate")] * draws


@pytest.mark.parametrize(
    ("precision", "mode", "verdict"),
    [
        (Precision.FLOAT32, "gpu", None),
        (Precision.TF32, "gpu", "different"),
        (Precision.TF32, "cpu", "exact"),
        (Precision.BF16, "gpu", "different"),
        (Precision.BF16, "cpu", "different"),
    ],
)
def test_precision(tmp_path: Path, precision: Precision, mode: Mode, verdict: str | None) -> None:
    found = audited(tmp_path, DATA + IP % ("x", "xavier"), precision, mode)
    assert said(found) == ([("precision", None, verdict)] if verdict else [])


#: Each with what it does in Caffe.
LAYOUTS = {
    "pooling in place": 'layer { name: "a" type: "Pooling" bottom: "x" top: "x" '
    "pooling_param { pool: AVE kernel_size: 3 pad: 1 } }",
    "top overwritten": 'layer { name: "b" type: "Sigmoid" bottom: "x" top: "y" } '
    'layer { name: "a" type: "Scale" bottom: "y" top: "y" '
    'scale_param { filler { type: "uniform" min: 1 max: 2 } } }',
    "memory shared": 'layer { name: "c" type: "Flatten" bottom: "x" top: "f" } '
    'layer { name: "a" type: "TanH" bottom: "f" top: "f" } '
    'layer { name: "e" type: "Power" bottom: "x" top: "z" power_param { power: 2 } '
    "loss_weight: 1 }",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_only_memory_explains_is_another_training(
    pycaffe: Pycaffe, tmp_path: Path, layout: str
) -> None:
    text = LAYOUTS[layout]
    last = {"pooling in place": "x", "top overwritten": "y", "memory shared": "f"}[layout]
    net = f"force_backward: true {DATA} {text} {IP % (last, 'xavier')}"
    found = audited(tmp_path, net)
    assert said(found) == [("memory_layout", "a", "different")]
    assert found[0].explanation.endswith(".")
    trial = fed_trial(net, 1, passes=1)
    (theirs,) = on_caffe(pycaffe, tmp_path, [trial])
    assert theirs is not None
    assert not all(finding.right for finding in findings(trial, theirs))


def test_a_test_net_has_its_own(tmp_path: Path) -> None:
    net = (
        DATA
        + IP % ("x", "xavier")
        + 'layer { name: "c" type: "AbsVal" bottom: "x" top: "c" include { phase: TEST } } '
        'layer { name: "p" type: "Pooling" bottom: "c" top: "c" include { phase: TEST } '
        "pooling_param { kernel_size: 3 pad: 1 } }"
    )
    (tmp_path / "net.prototxt").write_text(net)
    (tmp_path / "solver.prototxt").write_text(
        'net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" test_iter: 1 test_interval: 9'
    )
    recipe = read_recipe(tmp_path / "net.prototxt", tmp_path / "solver.prototxt")
    engine = engines.find("pytorch")
    model = engine.memory_model(recipe, Sources(()), "gpu")
    (found,) = [
        each for each in engine.audit(model, batch_size=6, iter_size=1) if each.layer == "p"
    ]
    assert (found.cause, found.scope) == (Cause.MEMORY_LAYOUT, Scope.ENGINE)
    assert found.explanation.startswith("In the test net: ")


def planned(folder: Path, **options: Any) -> cb.Plan:
    (folder / "net.prototxt").write_text(DATA + IP % ("x", "gaussian"))
    (folder / "solver.prototxt").write_text(
        'net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 1'
    )
    return cb.plan(folder / "solver.prototxt", gpu_memory="1GiB", **options)


def test_a_plan_says_it_beside_its_verdict(tmp_path: Path) -> None:
    assert "Compared with Caffe" not in planned(tmp_path).verdict()
    plan = planned(tmp_path, engine="pytorch")
    assert plan.verdict() == (
        "One pass per update: nothing is accumulated. Compared with Caffe, on average the same, "
        "though not number for number: engine_draws."
    )
    plan = planned(tmp_path, engine="pytorch", precision="bf16", batch_size=3, iter_size=2)
    assert plan.verdict().endswith("Compared with Caffe, another training: precision.")
    job = plan.write(tmp_path / "job")
    content = json.loads(job.files.plan.read_text())
    assert content["precision"] == "bf16"
    assert [each["verdict"] for each in content["audit"] if each["scope"] == "engine"] == [
        "different",
        "approximate",
    ]
    assert job.plan.precision is Precision.BF16


@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
def test_a_plan_for_pytorch_is_refused_what_it_does_not_run(tmp_path: Path, phase: str) -> None:
    pool = (
        f'layer {{ name: "p" type: "Pooling" bottom: "x" top: "p" include {{ phase: {phase} }} '
        "pooling_param { kernel_size: 1 stride: 3 } }"
    )
    (tmp_path / "net.prototxt").write_text(DATA + pool + IP % ("x", "xavier"))
    (tmp_path / "solver.prototxt").write_text(
        'net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 1 test_iter: 1 '
        "test_interval: 9"
    )
    solver = tmp_path / "solver.prototxt"
    assert cb.plan(solver, gpu_memory="1GiB").batch_size == 6
    with pytest.raises(cb.InputError, match="layer 'p': its last window lies beyond the input"):
        cb.plan(solver, gpu_memory="1GiB", engine="pytorch")
    if phase == "TRAIN":
        with pytest.raises(cb.InputError, match="layer 'p': its last window lies beyond the"):
            cb.verify(solver, engine="pytorch")


def test_caffe_has_no_other_precision(tmp_path: Path) -> None:
    with pytest.raises(cb.InputError, match="Caffe calculates in float32, not in bf16"):
        planned(tmp_path, precision="bf16")


def test_blobs_with_memory_of_their_own_have_none() -> None:
    apart = LAYOUTS["top overwritten"].replace('bottom: "y" top: "y"', 'bottom: "y" top: "w"')
    forced = f"force_backward: true {DATA}"
    assert list(departures(Trial(forced + LAYOUTS["top overwritten"]).net())) != []
    assert list(departures(Trial(forced + apart).net())) == []


SHARING = """
layer { name: "norm" type: "BatchNorm" bottom: "x" top: "y" }
layer { name: "ip" type: "InnerProduct" bottom: "y" top: "ip"
  inner_product_param { num_output: 4 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "t" top: "loss"
  loss_param { ignore_label: 3 } }
"""


@pytest.mark.parametrize("iter_size", [1, 2])
@pytest.mark.parametrize("shared", [(), (Shared.BATCH_NORM,), (Shared.VALID,), tuple(Shared)])
def test_what_ranks_count_together(
    tmp_path: Path, shared: tuple[Shared, ...], iter_size: int
) -> None:
    """In one pass it is the whole batch, in several it is that of the samples of all ranks."""
    (tmp_path / "net.prototxt").write_text(DATA + SHARING)
    (tmp_path / "solver.prototxt").write_text('net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed"')
    recipe = read_recipe(tmp_path / "net.prototxt", tmp_path / "solver.prototxt")
    engine = engines.find("pytorch")
    model = engine.memory_model(recipe, Sources(()), "gpu", gpus=2)
    audit = engine.audit(model, batch_size=3, iter_size=iter_size, gpus=2, shared=shared)
    found = {each.cause: each for each in audit}
    for each, cause, apart in (
        (Shared.BATCH_NORM, Cause.BATCH_NORM_STATISTICS, Verdict.DIFFERENT),
        (Shared.VALID, Cause.IGNORE_LABEL, Verdict.APPROXIMATE),
    ):
        alone = each not in shared
        wanted = Verdict.EXACT if iter_size == 1 and not alone else apart
        assert found[cause].verdict is wanted
        assert found[cause].explanation.startswith("The ranks c") is not alone
    samples = 6 if Shared.BATCH_NORM in shared else 3
    if iter_size == 2:
        text = f"are those of {samples} samples instead of 12"
        assert text in found[Cause.BATCH_NORM_STATISTICS].explanation


def test_caffe_s_gpus_each_count_for_themselves() -> None:
    with pytest.raises(cb.InputError, match="each GPU of Caffe counts for itself"):
        cb.plan(
            "lenet", gpus=2, gpu_memory="1GiB", effective_batch=64, sync_batch_norm=True,
            input_shape="data=1x28x28",
        )  # fmt: skip


def test_a_plan_keeps_what_is_counted_together(tmp_path: Path) -> None:
    plan = cb.plan(
        "lenet", gpus=2, gpu_memory="1GiB", effective_batch=64, engine="pytorch",
        sync_batch_norm=True, sync_valid=True, input_shape="data=1x28x28", check_data="none",
    )  # fmt: skip
    job = plan.write(tmp_path / "job")
    assert JobDirectory(job.path).read_plan().shared == tuple(Shared)
    text = (job.path / "plan.json").read_text()
    (job.path / "plan.json").write_text(text.replace('"valid"', '"loss"'))
    with pytest.raises(cb.InputError, match="shared should be some of batch_norm, valid"):
        JobDirectory(job.path).read_plan()

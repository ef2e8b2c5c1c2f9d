"""``verify --against``: one training on real Caffe and in PyTorch, and checks that can fail."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import caffe_batch as cb
from caffe_batch import engines
from caffe_batch.errors import CaffeBatchError, DoesNotFitError, TrainingError
from caffe_batch.experiments import verify, verify_engines
from caffe_batch.experiments.engine_verification import EngineErrors
from caffe_batch.experiments.verification import TOLERANCE
from caffe_batch.sizes import format_size
from tests.command import call
from tests.experiments.measuring import INPUT, LOSS, SOLVER, inner_product, on_both
from tests.planned_jobs import CLASSES, write_lmdb

CONV = """
layer {{ name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param {{ num_output: 6 kernel_size: 3 weight_filler {{ {filler} }} }} }}
"""
GAUSSIAN = 'type: "gaussian" std: 0.2'
RELU = 'layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }'
BATCH_NORM = """
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "bn" }
layer { name: "scale" type: "Scale" bottom: "bn" top: "bn" scale_param { bias_term: true } }
layer { name: "tanh" type: "TanH" bottom: "bn" top: "conv_bn" }
"""
DROPOUT = 'layer { name: "drop" type: "Dropout" bottom: "conv" top: "conv" }'


@pytest.fixture(autouse=True)
def quick(pycaffe: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(verify, "run_verification", on_both(pycaffe))
    monkeypatch.chdir(tmp_path)


def written(net: str, solver: str = SOLVER) -> Path:
    Path("net.prototxt").write_text(net)
    Path("solver.prototxt").write_text(f'{solver} net: "net.prototxt"')
    return Path("solver.prototxt")


def compared(net: str, solver: str = SOLVER, **options: Any) -> cb.EngineVerification:
    return cb.verify_engines(written(net, solver), against="caffe", **options)


NETS = {
    "kinks": INPUT + CONV.format(filler=GAUSSIAN) + RELU + inner_product("conv") + LOSS,
    "batch statistics": INPUT + CONV.format(filler=GAUSSIAN) + BATCH_NORM
    + inner_product("conv_bn") + LOSS,
    "dropout": INPUT + CONV.format(filler=GAUSSIAN) + DROPOUT + inner_product("conv") + LOSS,
}  # fmt: skip
SOLVERS = {
    "momentum": SOLVER,
    "Adam, clipped, accumulated": 'type: "Adam" base_lr: 0.01 lr_policy: "fixed" max_iter: 9 '
    "momentum: 0.9 iter_size: 2 clip_gradients: 0.1 weight_decay: 0.01",
    "RMSProp and L1": 'type: "RMSProp" rms_decay: 0.9 base_lr: 0.01 lr_policy: "inv" gamma: 0.1 '
    'power: 0.75 max_iter: 9 weight_decay: 0.01 regularization_type: "L1"',
}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_the_engines_train_alike(name: str, solver: str) -> None:
    found = compared(NETS[name], SOLVERS[solver])
    found.check()
    assert found.judgement.sentence.startswith("The same training on PyTorch and Caffe, ")
    assert found.engines == ("pytorch", "caffe")
    assert found.iter_size == (2 if "accumulated" in solver else 1)
    assert bool(found.held) == (name == "dropout")
    assert len(found.statistics) == (2 if name == "batch statistics" else 0)
    # Neither is the other, nor without rounding: there is something to compare.
    assert all(error > 0 for error in found.gradient.engines)
    assert found.gradient.apart > 0
    assert found.gradient.control > 0


def test_the_users_own_data_is_read_by_both() -> None:
    """Cropped and mirrored alike, as both draw from one seed."""
    source = write_lmdb(Path("lmdb").resolve())
    data = (
        f'layer {{ name: "d" type: "Data" top: "data" top: "label" data_param {{ source: "{source}"'
        " backend: LMDB batch_size: 12 } transform_param { scale: 0.004 crop_size: 4 mirror: true "
        "} }"
    )
    net = data + inner_product(outputs=CLASSES) + LOSS
    found = compared(net, f"{SOLVER} random_seed: 5")
    assert [use.made for use in found.data] == [False]
    assert found.agrees
    again = compared(net, f"{SOLVER} random_seed: 6")
    assert again.agrees
    assert again.first_loss.exact != found.first_loss.exact


def test_draws_after_a_random_filler_are_not_the_same() -> None:
    source = write_lmdb(Path("lmdb").resolve())
    net = (
        'layer { name: "noise" type: "DummyData" top: "noise" dummy_data_param { shape { dim: 12 '
        'dim: 4 } data_filler { type: "gaussian" } } }'
        f'layer {{ name: "d" type: "Data" top: "data" top: "label" data_param {{ source: "{source}"'
        " backend: LMDB batch_size: 12 } transform_param { mirror: true } }"
        + inner_product(outputs=4)
        + 'layer { name: "sum" type: "Eltwise" bottom: "ip" bottom: "noise" top: "sum" }'
        + LOSS.replace('"ip"', '"sum"')
    )
    found = compared(net)
    (own,) = [use for use in found.data if use.layer == "d"]
    assert own.made
    assert "draws after a filler" in own.why
    assert found.held == ("'noise' is given numbers",)
    assert found.agrees


def test_a_batch_norm_over_two_numbers() -> None:
    """The terms of its gradient cancel each other out; what is left of them is their rounding."""
    few = (
        INPUT
        + CONV.format(filler='type: "xavier"')
        + BATCH_NORM
        + inner_product("conv_bn", outputs=8)
        + BATCH_NORM.replace("conv", "ip").replace('"bn"', '"bn2"').replace('name: "', 'name: "2')
        + 'layer { name: "ip2" type: "InnerProduct" bottom: "ip_bn" top: "ip2" '
        'inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }'
        + LOSS.replace('"ip"', '"ip2"')
    )
    found = compared(few, batch_size=2)
    assert max(found.gradient.engines) > TOLERANCE  # rounding has to be judged by the control
    assert found.agrees
    # What is allowed is no more than that: another training is noticed.
    assert found.gradient.allowed < 1e-2


def test_a_net_that_amplifies_rounding_may_differ_by_more() -> None:
    assert EngineErrors((1e-5, 0), 0, 1e-6).agree
    assert not EngineErrors((1.1e-5, 0), 0, 1e-6).agree
    amplified = EngineErrors((3.9e-3, 1e-6), 4e-3, 1e-3)
    assert (amplified.allowed, amplified.agree) == (4e-3, True)
    assert not EngineErrors((1e-6, 4.1e-3), 4e-3, 1e-3).agree
    assert not EngineErrors((float("nan"), 0), 0, 1).agree
    worst = EngineErrors.worst([amplified, EngineErrors((1e-5, 0.1), 0.2, 0)])
    assert worst == EngineErrors((3.9e-3, 0.1), 0.2, 1e-3)


@pytest.mark.parametrize("name", NETS)
def test_accumulation_in_pytorch(name: str) -> None:
    """What PyTorch draws otherwise than Caffe is no excuse for micro-batches."""
    found = cb.verify(written(NETS[name]), engine="pytorch")
    assert found.judgement.promised == (name != "batch statistics")
    found.check()
    assert {each.cause.value for each in found.findings} >= {"engine_draws"}


def test_numbers_that_a_layer_draws_are_given_in_pytorch_too() -> None:
    noise = (
        INPUT
        + inner_product()
        + (
            'layer { name: "noise" type: "DummyData" top: "noise" dummy_data_param { shape { '
            'dim: 5 dim: 4 } data_filler { type: "gaussian" } } }'
            'layer { name: "sum" type: "Eltwise" bottom: "ip" bottom: "noise" top: "sum" }'
            + LOSS.replace('"ip"', '"sum"')
        )
    )
    found = cb.verify(written(noise), engine="pytorch")
    assert found.held == ("'noise' is given numbers",)
    assert found.gradient.compensated < TOLERANCE
    assert found.draws is not None
    assert found.draws.again.gradient > 0.01


def test_the_other_way_round() -> None:
    """The engine that is verified comes first, whichever judges."""
    one = compared(NETS["kinks"])
    other = cb.verify_engines("solver.prototxt", against="pytorch")
    assert other.engines == ("caffe", "pytorch")
    assert other.titles == ("Caffe", "PyTorch")
    assert other.agrees
    assert other.first_loss.engines == one.first_loss.engines[::-1]
    assert other.gradient.engines == one.gradient.engines[::-1]
    assert other.gradient.apart == pytest.approx(one.gradient.apart, rel=1e-3)


def test_a_smaller_micro_batch_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference is in double precision. Passes share their memory: iter_size is no remedy."""
    solver = written(NETS["kinks"], f"{SOLVER} iter_size: 3")
    single = {size: cb.memory(solver, batch_size=size).peak_bytes for size in (1, 2, 4)}
    monkeypatch.setattr(verify_engines, "free_host_bytes", lambda: single[2] + single[4])
    found = cb.verify_engines(solver, against="caffe")
    assert (found.batch_size, found.iter_size) == (2, 3)
    says = "a micro-batch of {} needs {}, twice that ({}) in the double precision of the reference"
    assert found.notes == (
        "batch_size 4 isn't possible: "
        + says.format(4, format_size(single[4]), format_size(2 * single[4]))
        + f", and this machine has {format_size(single[2] + single[4])} free",
    )
    monkeypatch.setattr(verify_engines, "free_host_bytes", lambda: 999)
    with pytest.raises(DoesNotFitError) as failure:
        cb.verify_engines(solver, against="caffe")
    assert failure.value.message.startswith("a micro-batch of 1 needs ")
    assert failure.value.hint == "Close other programs."
    # The files that are measured aren't quite the user's: they take 16 bytes more.
    assert failure.value.missing_bytes + 999 == pytest.approx(2 * single[1], rel=0.1)
    with pytest.raises(DoesNotFitError, match="a micro-batch of 3 needs") as failure:
        cb.verify_engines(solver, against="caffe", batch_size=3)
    assert failure.value.hint == "Try a smaller batch_size, or close other programs."


# Checks that can fail

SABOTAGED = """
import caffe

class Off(caffe.Layer):
    def setup(self, bottom, top):
        self.factor = 1.0 if hasattr(caffe, "Net") else 1 + float(self.param_str)
    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].data.shape)
    def forward(self, bottom, top):
        top[0].data[...] = bottom[0].data * self.factor
    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = top[0].diff * self.factor
"""


def sabotaged(off: float, monkeypatch: pytest.MonkeyPatch) -> str:
    """A net whose Python layer knows which engine it is in."""
    Path("off.py").write_text(SABOTAGED)
    monkeypatch.syspath_prepend(str(Path.cwd()))
    monkeypatch.delitem(__import__("sys").modules, "off", raising=False)
    layer = (
        'layer { name: "off" type: "Python" bottom: "ip" top: "off" python_param { module: "off" '
        f'layer: "Off" param_str: "{off}" }} }}'
    )
    return INPUT + inner_product() + layer + LOSS.replace('"ip"', '"off"')


@pytest.mark.parametrize(("off", "agrees"), [(0, True), (1e-3, False), (0.5, False)])
def test_a_sabotaged_layer(monkeypatch: pytest.MonkeyPatch, *, off: float, agrees: bool) -> None:
    found = compared(sabotaged(off, monkeypatch), same_shape="Python:Off")
    assert found.agrees is agrees
    if not agrees:
        assert not found.gradient.agree
        assert max(found.gradient.engines) == pytest.approx(found.gradient.apart, rel=0.6)
        assert found.judgement.sentence.startswith("NOT the same training on PyTorch as on Caffe")
        assert found.judgement.sentence.endswith("and the audit names no cause")
        with pytest.raises(CaffeBatchError, match="NOT the same training"):
            found.check()


@pytest.mark.parametrize("factor", [1, 1 + 1e-3])
def test_other_weights_are_noticed(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    def disturbed(source: Path, target: Path) -> None:
        with np.load(source / "initial.npz") as file:
            arrays = [file[name] * np.float32(factor) for name in file.files]
        np.savez(target / "initial.npz", *arrays)

    monkeypatch.setattr(verify_engines, "hand_over", disturbed)
    found = compared(NETS["kinks"])
    assert found.agrees is (factor == 1)
    one, other = found.gradient.engines
    assert one <= TOLERANCE
    assert (other <= TOLERANCE) is (factor == 1)


def test_what_the_audit_calls_different_is() -> None:
    """Caffe's AVE pooling in place reads what it has overwritten."""
    pool = (
        'layer { name: "pool" type: "Pooling" bottom: "conv" top: "conv" '
        "pooling_param { pool: AVE kernel_size: 3 pad: 1 } }"
    )
    net = INPUT + CONV.format(filler=GAUSSIAN) + pool + inner_product("conv") + LOSS
    found = compared(net)
    assert not found.agrees
    assert "; the audit names memory_layout (pool)" in found.judgement.sentence


def test_another_precision_is_another_training() -> None:
    found = compared(NETS["kinks"], precision="bf16")
    assert not found.agrees
    torch, caffe = found.gradient.engines
    assert caffe <= TOLERANCE
    assert 1e-4 < torch < 1e-1  # 7 bits
    assert "the audit names precision" in found.judgement.sentence
    assert compared(NETS["kinks"], precision="tf32").agrees  # without effect on a CPU


def test_an_engine_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    net = sabotaged(0, monkeypatch)
    Path("off.py").write_text(SABOTAGED.replace("self.factor = 1.0", "self.factor = 1 / 0"))
    with pytest.raises(TrainingError, match="Caffe stopped at batch_size 4, iter_size 1"):
        compared(net, same_shape="Python:Off")


def test_diverging_is_judged_by_the_first_update() -> None:
    found = compared(NETS["kinks"], 'base_lr: 1e30 lr_policy: "fixed" max_iter: 9')
    assert found.diverges
    assert list(found.judged) == ["first loss", "gradient"]
    assert found.agrees
    assert found.json()["weights"]["caffe"] is None


# On the command line


def test_the_command() -> None:
    written(NETS["dropout"])
    done = call("verify", "solver.prototxt", "--against", "caffe")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("The same training on PyTorch and Caffe, ")
    rows = [line.split() for line in done.out.splitlines() if line.startswith(("conv[", "ip["))]
    assert [row[0] for row in rows] == ["conv[0]", "conv[1]", "ip[0]", "ip[1]"]
    assert all(float(each) < 1e-5 for row in rows for each in row[2:])
    assert all(len(row) == 8 for row in rows)
    assert "draws held equal: 'drop' draws nothing" in done.out
    assert "samples of layer 'in': made up" in done.out


def test_json_and_the_exit_code() -> None:
    written(NETS["kinks"])
    done = call("verify", "solver.prototxt", "--against", "caffe", "--precision", "bf16", "--json")
    assert done.code == 1
    found = json.loads(done.out)
    assert (found["engines"], found["agrees"]) == (["pytorch", "caffe"], False)
    assert (found["precision"], found["batch_size"], found["iter_size"]) == ("bf16", 4, 1)
    assert found["gradient"]["caffe"] < 1e-5 < found["gradient"]["pytorch"]
    assert {"exact", "pytorch", "caffe", "errors"} == set(found["loss"])
    assert [(row["layer"], row["index"]) for row in found["parameters"]] == [
        ("conv", 0), ("conv", 1), ("ip", 0), ("ip", 1),
    ]  # fmt: skip
    assert "NOT the same training" in done.err


def test_it_takes_what_verify_takes() -> None:
    """The command passes the same options to both."""
    alike, both = (inspect.signature(each).parameters for each in (cb.verify, cb.verify_engines))
    assert set(alike) - set(both) == {"no_compensate"}
    assert set(both) - set(alike) == {"against", "against_runtime", "precision"}


def test_a_job_is_verified_on_its_engine() -> None:
    """With its precision, too."""
    plan = cb.plan(written(NETS["kinks"]), gpu_memory="1GiB", engine="pytorch", precision="bf16")
    plan.write("job")
    found = json.loads(call("verify", "job", "--against", "caffe", "--json").out)
    assert (found["engines"], found["precision"]) == (["pytorch", "caffe"], "bf16")
    done = call("verify", "job", "--against", "pytorch")
    assert done.code == 2
    assert "--against pytorch compares with pytorch, which is the engine itself" in done.err
    assert "--against caffe" in done.err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--against", "caffe", "--engine", "caffe"], "which is the engine itself"),
        (["--precision", "bf16"], "--precision: it needs --against"),
        (["--against-runtime", "x"], "--against-runtime: it needs --against"),
        (["--against", "caffe", "--no-compensate", "loss_sum"], "--no-compensate: both engines"),
        (["--against", "pytorch", "--precision", "bf16"], "Caffe calculates in float32, not in"),
        (["--iter-size", "1"], "--iter-size is 1, but must be"),
    ],
)
def test_options_that_make_no_sense(options: Sequence[str], says: str) -> None:
    written(NETS["kinks"])
    done = call("verify", "solver.prototxt", *options)
    assert done.code == 2
    assert says in done.err


def test_one_of_them_must_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(engines.find("pytorch")), "judges", False)
    with pytest.raises(cb.InputError, match="neither PyTorch nor Caffe can calculate in double"):
        compared(NETS["kinks"])

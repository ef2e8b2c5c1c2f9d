"""The solver template: what it writes, and that real Caffe accepts it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from caffe_batch.errors import InputError
from caffe_batch.prototxt import parse_solver
from caffe_batch.rendering import render, render_solver

STEP = """
import json, sys
import caffe
caffe.set_mode_cpu()
for path in sys.argv[1:]:
    solver = caffe.get_solver(path)
    solver.step(2)
    print(json.dumps([solver.iter,
                      len(solver.test_nets), float(solver.net.blobs["loss"].data)]))
"""

#: Each field of a solver that the template writes, with a value that isn't its default.
EVERY_SETTING = {
    "net": "nets/my net.prototxt",
    "type": "Adam",
    "iter_size": 8,
    "max_iter": 977,
    "base_lr": 0.003,
    "lr_policy": "multistep",
    "gamma": 0.2,
    "power": 0.5,
    "stepsize": 11,
    "stepvalue": (300, 400, 500),
    "momentum": 0.8,
    "momentum2": 0.99,
    "rms_decay": 0.97,
    "delta": 1e-6,
    "weight_decay": 0.001,
    "regularization_type": "L1",
    "clip_gradients": 35.5,
    "test_iter": (7, 9),
    "test_interval": 130,
    "test_initialization": False,
    "display": 17,
    "average_loss": 19,
    "snapshot": 230,
    "snapshot_prefix": "snapshots/my net",
    "random_seed": 1701,
    "solver_mode": "CPU",
    "layer_wise_reduce": False,
}


def test_every_setting_arrives_in_its_field() -> None:
    solver = parse_solver(render_solver(**EVERY_SETTING))
    assert {field.name for field, _ in solver.ListFields()} == EVERY_SETTING.keys()
    for name, value in EVERY_SETTING.items():
        written = getattr(solver, name)
        if name == "solver_mode":
            assert written == solver.CPU
        elif isinstance(value, tuple):
            assert tuple(written) == value
        else:
            assert written == pytest.approx(value)


def test_the_defaults_are_plain_sgd_without_tests() -> None:
    solver = parse_solver(render_solver())
    assert (solver.net, solver.type, solver.iter_size) == ("net.prototxt", "SGD", 1)
    assert (solver.max_iter, solver.lr_policy) == (10000, "fixed")
    assert solver.momentum == pytest.approx(0.9)
    assert not solver.test_iter
    assert not solver.HasField("clip_gradients")
    assert not solver.HasField("random_seed")


def test_comments_say_the_units() -> None:
    text = render_solver(iter_size=4, max_iter=400, comment="two\nlines", test_iter=3)
    assert text.startswith("# two\n# lines\nnet:")
    assert "\niter_size: 4  # passes whose gradients are averaged for one update\n" in text
    assert "\nmax_iter: 400  # updates\n" in text
    assert "\ntest_iter: 3  # batches of the test net\n" in text


def test_there_are_no_double_blank_lines() -> None:
    for text in (render_solver(), render_solver(**EVERY_SETTING)):
        assert "\n\n\n" not in text
        assert not text.startswith("\n")


@pytest.mark.parametrize(
    ("policy", "needs"),
    [
        ("step", ["gamma", "stepsize"]),
        ("exp", ["gamma"]),
        ("inv", ["gamma", "power"]),
        ("multistep", ["gamma", "stepvalue"]),
        ("poly", ["power"]),
        ("sigmoid", ["gamma", "stepsize"]),
    ],
)
def test_a_policy_asks_for_what_it_needs(policy: str, needs: list[str]) -> None:
    given = {name: EVERY_SETTING[name] for name in needs}
    assert parse_solver(render_solver(lr_policy=policy, **given)).lr_policy == policy
    for name in needs:
        rest = {other: value for other, value in given.items() if other != name}
        with pytest.raises(
            InputError, match=f"'{name}' is undefined\nGive it with define={{\"{name}\": "
        ):
            render_solver(lr_policy=policy, **rest)


def test_what_no_policy_needs_is_written_all_the_same() -> None:
    assert parse_solver(render_solver(lr_policy="fixed", gamma=0.5)).gamma == pytest.approx(0.5)


@pytest.mark.parametrize("solver_type", ["AdaGrad", "RMSProp"])
def test_types_without_momentum_refuse_one(solver_type: str) -> None:
    assert not parse_solver(render_solver(type=solver_type)).HasField("momentum")
    with pytest.raises(InputError, match=f"{solver_type} takes no momentum"):
        render_solver(type=solver_type, momentum=0.9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"iter_size": 0}, "iter_size and max_iter are at least 1"),
        ({"max_iter": 0}, "iter_size and max_iter are at least 1"),
        ({"iter_size": "four"}, "iter_size takes int, not 'four'"),
        ({"type": "sgd"}, "type takes SGD | Nesterov .*, not 'sgd'"),
        ({"lr_policy": "multi_step"}, "Did you mean multistep"),
        ({"base_rl": 0.1}, r"has no variable 'base_rl'\nDid you mean base_lr\?"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        render_solver(**settings)


def test_caffe_takes_every_type_and_policy(pycaffe: Callable[..., str], tmp_path: Path) -> None:
    dummy = {"data": "dummy", "batch_size": 3, "test_batch_size": 2}
    (tmp_path / "net.prototxt").write_text(render("lenet_digits", dummy))
    cases: list[dict[str, object]] = [
        {"type": name} for name in ("SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam")
    ]
    cases += [
        {"lr_policy": name, "gamma": 0.5, "power": 0.5, "stepsize": 1, "stepvalue": 1}
        for name in ("fixed", "step", "exp", "inv", "multistep", "poly", "sigmoid")
    ]
    cases.append({**EVERY_SETTING, "net": "net.prototxt", "test_iter": 1, "snapshot_prefix": "a"})
    files = []
    for number, case in enumerate(cases):
        settings = {"iter_size": 2, "max_iter": 10, "base_lr": 0.001, "test_iter": 1, **case}
        files.append(f"solver{number}.prototxt")
        (tmp_path / files[-1]).write_text(render_solver(**settings))
    results = [json.loads(line) for line in pycaffe(STEP, *files, cwd=tmp_path).splitlines()]
    assert len(results) == len(cases)
    for updates, test_nets, loss in results:
        assert (updates, test_nets) == (2, 1)
        assert math.isfinite(loss)

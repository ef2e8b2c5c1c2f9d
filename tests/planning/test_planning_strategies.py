"""The ways to train with a small batch: their formulas, and their plans on a real net."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caffe_batch.errors import DoesNotFitError
from caffe_batch.memory import MemoryModel
from caffe_batch.planning import Budget, ScheduleOptions
from caffe_batch.planning.edits.changes import applied
from caffe_batch.planning.strategies.strategies import (
    WAYS,
    Strategies,
    find_strategies,
    raised_momentum,
)
from caffe_batch.planning.strategies.strategy import Strategy
from caffe_batch.schema import caffe_pb2
from tests.planned_jobs import RECORDS, write_lmdb
from tests.small_memory import BATCH, SMALL, SOLVER, options, read_model, tight, write_recipe

K = BATCH // SMALL
HOST = 2**34


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lmdb(tmp_path_factory.mktemp("data") / "lmdb")


@pytest.fixture
def model(tmp_path: Path, data: Path) -> MemoryModel:
    return read_model(write_recipe(tmp_path, data))


def ways(found: Strategies) -> dict[str, Strategy]:
    return {way.name: way for way in found.ways}


def solver_of(found: Strategies, way: Strategy) -> caffe_pb2.SolverParameter:
    assert way.plan is not None, way.why_not
    return applied(found.setting.model.recipe, way.plan.changes).solver


# Formulas


def reach(rate: float, momentum: float) -> float:
    """How far one gradient of 1 moves a weight in the end, by Caffe's own rule."""
    moved = history = 0.0
    gradient = 1.0
    while abs(gradient) + abs(history) > 1e-12:
        history = momentum * history + rate * gradient
        moved, gradient = moved + history, 0.0
    return moved


@given(
    momentum=st.floats(0, 0.95), rate=st.floats(1e-4, 1), passes=st.integers(2, 16),
    batch=st.integers(1, 64),
)  # fmt: skip
def test_raised_momentum_keeps_the_window_and_needs_the_rate_over_k_squared(
    momentum: float, rate: float, passes: int, batch: int
) -> None:
    raised = raised_momentum(momentum, passes)
    full = batch * passes
    assert batch / (1 - raised) == pytest.approx(full / (1 - momentum), rel=1e-4)
    per_sample = reach(rate, momentum) / full
    assert reach(rate / passes**2, raised) / batch == pytest.approx(per_sample, rel=1e-4)
    alone = reach(rate, raised) / batch
    assert alone == pytest.approx(passes**2 * per_sample, rel=1e-4)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9, 0.99])
def test_the_noise_of_each_way(tmp_path: Path, data: Path, momentum: float) -> None:
    text = SOLVER.replace("momentum: 0.9", f"momentum: {momentum}")
    model = read_model(write_recipe(tmp_path, data, text))
    found = ways(find_strategies(model, tight(model), options(), HOST))
    noise = {name: way.noise for name, way in found.items() if way.plan}
    assert noise == {
        "accumulate": 1,
        "small": pytest.approx(K, rel=1e-5),
        "small-linear": pytest.approx(1, rel=1e-5),
        "small-sqrt": pytest.approx(K**0.5, rel=1e-5),
        "small-momentum": pytest.approx(1, rel=1e-5),
        "momentum-alone": pytest.approx(K * K, rel=1e-5),
        "smaller-input": 1,
        "cpu": 1,
    }


# Plans


def test_every_way_has_a_plan_that_fits(model: MemoryModel) -> None:
    budget = tight(model)
    found = find_strategies(model, budget, options(), HOST)
    assert [way.name for way in found.ways] == list(WAYS)
    for way in found.ways:
        if way.name == "grow":  # a tenth of 70 records is less than 24
            assert "can't grow" in way.why_not
            continue
        plan = way.plan
        assert plan is not None, (way.name, way.why_not)
        usable = HOST if way.name == "cpu" else budget.usable_bytes
        assert plan.mode == ("cpu" if way.name == "cpu" else "gpu")
        assert plan.predicted_peak_bytes + plan.rounding_bytes <= usable
        whole = way.name in ("smaller-input", "cpu")
        small = way.name.startswith("small-") or way.name in ("small", "momentum-alone")
        batch = (BATCH, 1) if whole else (SMALL, 1) if small else (SMALL, K)
        assert (plan.batch_size, plan.iter_size) == batch
        assert way.updates_per_epoch == RECORDS / plan.effective_batch
        assert way.updates * plan.effective_batch == 20 * BATCH
        solver = solver_of(found, way)
        assert solver.max_iter == way.updates
        assert list(solver.stepvalue) == [way.updates // 2]
        assert solver.test_interval == way.updates // 2
        assert solver.base_lr == pytest.approx(way.learning_rate)
        assert solver.momentum == pytest.approx(way.momentum)


def test_rates_and_momenta(model: MemoryModel) -> None:
    found = ways(find_strategies(model, tight(model), options(), HOST))
    settings = {name: (way.learning_rate, way.momentum) for name, way in found.items() if way.plan}
    raised = pytest.approx(1 - 0.1 / K)
    assert settings == {
        "accumulate": (0.08, 0.9),
        "small": (0.08, 0.9),
        "small-linear": (pytest.approx(0.08 / K), 0.9),
        "small-sqrt": (pytest.approx(0.08 / K**0.5), 0.9),
        "small-momentum": (pytest.approx(0.08 / K**2), raised),
        "momentum-alone": (0.08, raised),
        "smaller-input": (0.08, 0.9),
        "cpu": (0.08, 0.9),
    }


def test_what_a_way_changes_beside_the_batch_is_listed(model: MemoryModel) -> None:
    found = ways(find_strategies(model, tight(model), options(), HOST))

    def changed(name: str) -> dict[str, tuple[object, object]]:
        plan = found[name].plan
        assert plan is not None
        return {change.field: (change.before, change.after) for change in plan.changes}

    raised = found["small-momentum"].momentum
    rate = found["small-momentum"].learning_rate
    assert changed("small-momentum") == {
        **changed("small"), "base_lr": (0.08, rate), "momentum": (0.9, raised),
    }  # fmt: skip
    assert changed("momentum-alone") == {**changed("small"), "momentum": (0.9, raised)}
    remarks = [way.plan.remarks for way in found.values() if way.plan and way.plan.iter_size == 1]
    assert not any("base_lr is unchanged" in remark for each in remarks for remark in each)


def test_momentum_that_wasnt_given_is_added(tmp_path: Path, data: Path) -> None:
    model = read_model(write_recipe(tmp_path, data, SOLVER.replace("momentum: 0.9", "")))
    found = find_strategies(model, tight(model), options(), HOST)
    way = ways(found)["small-momentum"]
    assert way.momentum == pytest.approx(1 - 1 / K)
    assert solver_of(found, way).momentum == pytest.approx(1 - 1 / K)
    assert way.plan is not None
    (change,) = [each for each in way.plan.changes if each.path == ("momentum",)]
    assert change.before is None


@pytest.mark.parametrize(
    ("solver_type", "momentum", "reason"),
    [("Adam", 0.9, "beta1"), ("RMSProp", 0, "takes no momentum"),
     ("AdaGrad", 0, "takes no momentum"), ("AdaDelta", 0, "takes no momentum")],
)  # fmt: skip
def test_rules_without_an_average_have_no_momentum_way(
    tmp_path: Path, data: Path, solver_type: str, momentum: float, reason: str
) -> None:
    text = SOLVER.replace("momentum: 0.9", f'momentum: {momentum} type: "{solver_type}"')
    model = read_model(write_recipe(tmp_path, data, text))
    found = ways(find_strategies(model, tight(model), options(), HOST))
    for name in ("small-momentum", "momentum-alone"):
        assert found[name].plan is None
        assert reason in found[name].why_not
    assert found["small-sqrt"].plan is not None
    assert found["small-sqrt"].noise is None
    assert found["accumulate"].noise == 1


def test_nesterov_is_as_sgd(tmp_path: Path, data: Path) -> None:
    text = SOLVER + 'type: "Nesterov"\n'
    model = read_model(write_recipe(tmp_path, data, text))
    found = ways(find_strategies(model, tight(model), options(), HOST))
    assert found["small-momentum"].noise == pytest.approx(1, rel=1e-5)


def test_a_high_momentum_is_warned_of(tmp_path: Path, data: Path, model: MemoryModel) -> None:
    found = ways(find_strategies(model, tight(model), options(), HOST))
    (warning,) = found["small-momentum"].warnings  # 0.98333
    assert "averages 60 updates" in warning
    assert any("36 times" in each or "6^2" in each for each in found["momentum-alone"].warnings)
    text = SOLVER.replace("momentum: 0.9", "momentum: 0.5")
    gentle = read_model(write_recipe(tmp_path, data, text))
    found = ways(find_strategies(gentle, tight(gentle), options(), HOST))
    assert found["small-momentum"].warnings == ()


def test_where_the_batch_fits_nothing_has_to_be_small(model: MemoryModel) -> None:
    found = ways(find_strategies(model, Budget(2**30, 0), options(), HOST))
    assert {name for name, way in found.items() if way.plan} == {"accumulate", "cpu"}
    assert found["small"].why_not == "the whole batch fits in one pass"


def test_cpu_memory_has_a_limit_too(model: MemoryModel) -> None:
    needed = ways(find_strategies(model, tight(model), options(), HOST))["cpu"].plan
    assert needed is not None
    bytes_ = needed.predicted_peak_bytes + needed.rounding_bytes
    assert ways(find_strategies(model, tight(model), options(), bytes_))["cpu"].plan is not None
    less = ways(find_strategies(model, tight(model), options(), bytes_ // 2))["cpu"]
    assert less.plan is None
    assert "more than the" in less.why_not
    unknown = ways(find_strategies(model, tight(model), options(), None))["cpu"]
    assert "How much memory this machine has isn't known." in unknown.warnings


def test_growth(tmp_path: Path, data: Path) -> None:
    model = read_model(write_recipe(tmp_path, data))
    found = find_strategies(model, tight(model), options(train_records=1000), HOST)
    way = ways(found)["grow"]
    assert way.plan is not None, way.why_not
    assert [each.stage.effective_batch for each in way.plan.stages] == [24, 48]
    assert way.updates == way.plan.stages[-1].stage.last_update < 20
    assert way.noise == 1


@pytest.mark.parametrize("epochs", [Fraction(3), Fraction(1, 3), Fraction(7, 2)])
def test_every_way_sees_as_many_samples(model: MemoryModel, epochs: Fraction) -> None:
    """Also where the epochs don't come out as whole updates of the recipe."""
    asked = options(schedule=ScheduleOptions(epochs=epochs))
    found = find_strategies(model, tight(model), asked, HOST)
    seen = {way.updates * way.plan.effective_batch for way in found.ways if way.plan is not None}
    assert seen == {max(1, round(epochs * RECORDS / BATCH)) * BATCH}


def test_nothing_fits(model: MemoryModel) -> None:
    with pytest.raises(DoesNotFitError, match="batch_size 1 needs"):
        find_strategies(model, Budget(1000, 0), options(), HOST)

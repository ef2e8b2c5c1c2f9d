"""The layer cases of the GPU benchmark: complete, each with something to compare, and judged."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gpu.layer_cases import LEFT_OUT, NOT_COMPARED, LayerCase, cases
from benchmarks.gpu.layers import Outcome, compare, relative_error, run_cases
from caffe_batch import runtimes

CASES = list(cases())

#: Types whose gradient is zero: Silence alone.
NO_GRADIENT = {"Silence"}


@pytest.fixture(scope="module")
def outcomes(runtime: runtimes.Runtime, tmp_path_factory: pytest.TempPathFactory) -> list[Outcome]:
    folder = tmp_path_factory.mktemp("layers") / "first"
    return run_cases(CASES, runtime, runtime.environment(), "cpu", folder)


def test_every_layer_type_has_a_case_or_a_reason(runtime: runtimes.Runtime) -> None:
    types = set(runtimes.inspect(runtime).layer_types)
    assert {case.type for case in CASES} | NOT_COMPARED.keys() == types
    assert not {case.type for case in CASES} & NOT_COMPARED.keys()
    assert types >= LEFT_OUT.keys()
    assert all({**NOT_COMPARED, **LEFT_OUT}.values())


def test_no_case_is_there_twice() -> None:
    assert len({(case.name, case.net) for case in CASES}) == len(CASES)


@pytest.mark.parametrize("number", range(len(CASES)), ids=[case.name for case in CASES])
def test_a_case_runs_and_has_numbers_to_compare(outcomes: list[Outcome], number: int) -> None:
    case, outcome = CASES[number], outcomes[number]
    assert outcome.arrays is not None, outcome.log
    assert all(np.isfinite(array).all() for array in outcome.arrays.values())
    tops = [array for name, array in outcome.arrays.items() if name.startswith("top ")]
    assert len(tops) == case.tops
    assert all(np.any(top) for top in tops)
    if not case.backward or case.type in NO_GRADIENT:
        return
    # What the worker puts into a bottom's gradient is gone, and what is there instead isn't zero.
    gradients = [
        array
        for name, array in outcome.arrays.items()
        if name.startswith(("bottom ", "param ")) and np.any(array != 1)
    ]
    assert any(np.any(array) for array in gradients)


def test_the_cpu_agrees_with_itself(
    runtime: runtimes.Runtime, tmp_path: Path, outcomes: list[Outcome]
) -> None:
    again = run_cases(CASES, runtime, runtime.environment(), "cpu", tmp_path / "again")
    rows = [compare(*each) for each in zip(CASES, again, outcomes, strict=True)]
    assert [row["case"] for row in rows if not row["equal"]] == []
    assert {error for row in rows for error in row["errors"].values()} == {0.0}


def test_a_layer_that_computes_something_else_is_caught(
    runtime: runtimes.Runtime, tmp_path: Path, outcomes: list[Outcome]
) -> None:
    changes = {
        "relu_param { negative_slope: 0.3 }": "relu_param { negative_slope: 0.3003 }",
        "eltwise_param { coeff: 0.5 coeff: -2 coeff: 1 }": "eltwise_param { coeff: 0.501 coeff: -2"
        " coeff: 1 }",
        "batch_norm_param { moving_average_fraction: 0.9 eps: 0.01 }": "batch_norm_param {"
        " moving_average_fraction: 0.91 eps: 0.01 }",
        "loss_param { ignore_label: 2 }": "loss_param { ignore_label: 3 }",
    }
    numbers = [number for number, case in enumerate(CASES) if case.settings in changes]
    assert len(numbers) == len(changes)
    wrong = [replace(CASES[number], settings=changes[CASES[number].settings]) for number in numbers]
    found = run_cases(wrong, runtime, runtime.environment(), "cpu", tmp_path / "wrong")
    rows = [
        compare(CASES[number], outcome, outcomes[number])
        for number, outcome in zip(numbers, found, strict=True)
    ]
    assert [row["equal"] for row in rows] == [False] * len(rows)
    assert all(row["errors"] for row in rows)  # they ran, and differ


def test_a_failed_check_is_reported_and_the_next_case_runs(
    runtime: runtimes.Runtime, tmp_path: Path
) -> None:
    broken = LayerCase("Slice", "slice_param { slice_point: 99 }", CASES[0].bottoms, tops=2)
    found = run_cases(
        [broken, CASES[0]], runtime, runtime.environment(), "cpu", tmp_path / "broken"
    )
    assert found[1].arrays is not None
    row = compare(broken, found[0], found[1])
    assert not row["equal"]
    assert "Check failed" in row["log"]


def test_errors_are_relative_and_never_lost() -> None:
    ones = np.ones(4, np.float32)
    assert relative_error(ones * np.float32(1.5), ones) == 0.5
    assert relative_error(ones, np.zeros(4)) == math.inf
    assert relative_error(ones * math.nan, ones) == math.inf
    assert relative_error(np.ones(3), ones) == math.inf
    case = CASES[0]
    infinite = compare(
        case, Outcome({"top t0": ones * math.nan}, ""), Outcome({"top t0": ones}, "")
    )
    assert infinite["errors"] == {"top t0": None}
    assert not infinite["equal"]
    assert "instead of" in compare(case, Outcome({}, ""), Outcome({"top t0": ones}, ""))["log"]

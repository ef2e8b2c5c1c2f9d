"""The search for false verdicts: its nets, what it makes of a false one, its record."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from caffe_batch.layers import BUILT_IN
from caffe_batch.planning.audit import audit as module
from caffe_batch.planning.audit.findings import Cause, Finding
from caffe_batch.runtimes import Runtime
from tests.command import spawn
from tools.audit_search import judging, search
from tools.audit_search.draw import SOLVERS, draw_case
from tools.audit_search.judging import Bench, Outcome, open_bench
from tools.audit_search.nets import Case, DrawnLayer
from tools.audit_search.shrink import shrink
from tools.audit_search.sources import write_sources

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    write_sources(folder)
    return folder


@pytest.fixture(scope="module")
def bench(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with open_bench(runtime, tmp_path_factory.mktemp("bench")) as opened:
        yield opened


def test_a_seed_is_a_training(sources: Path) -> None:
    assert draw_case(7, str(sources)) == draw_case(7, str(sources))
    assert draw_case(7, str(sources)) != draw_case(8, str(sources))


def test_a_seed_is_the_same_training_in_every_process() -> None:
    """Whatever order Python's sets have there; seed 238 has a Silence with two bottoms."""
    code = "from tools.audit_search.draw import draw_case; print(draw_case(238, '/data'))"
    here = f"{draw_case(238, '/data')}\n"
    for seed in "01":
        done = spawn(sys.executable, "-c", code, cwd=ROOT, PYTHONHASHSEED=seed)
        assert done.out == here, done.err


def test_every_type_and_solver_is_drawn(sources: Path) -> None:
    cases = [draw_case(seed, str(sources)) for seed in range(400)]
    drawn = Counter(layer.type for case in cases for layer in case.layers)
    assert set(drawn) == set(BUILT_IN)
    assert {case.solver["type:"].strip('"') for case in cases} == set(SOLVERS)
    assert {case.batch_size for case in cases} >= {1, 2, 3, 4}
    found = Counter(name for case in cases for _, has in search.variants(case) for name in has)
    assert set(search.VARIANTS[2:]) <= set(found)


def test_the_audit_is_true_of_some_nets(bench: Bench, sources: Path) -> None:
    """A sample of what `make audit-search` tries."""
    outcomes = Counter(bench.judge(draw_case(seed, str(sources))).outcome for seed in range(40))
    assert outcomes[Outcome.FALSE] == 0
    assert outcomes[Outcome.TRUE] > 20


def scaled() -> Case:
    """A Scale at batch_size 1, and much that has nothing to do with it."""

    def layer(name: str, kind: str, bottoms: str, tops: str, settings: str = "") -> DrawnLayer:
        return DrawnLayer(name, kind, tuple(bottoms.split()), tuple(tops.split()), settings)

    filler = 'weight_filler { type: "xavier" }'
    return Case(
        (
            layer("in", "Input", "", "x y", "input_param { shape { dim: 5 dim: 3 } "
                  "shape { dim: 5 dim: 4 } }"),
            layer("h", "InnerProduct", "x", "h",
                  f"inner_product_param {{ num_output: 4 {filler} }}"),
            layer("r", "ReLU", "h", "h"),
            layer("s", "Scale", "h", "s"),
            replace(layer("t", "TanH", "s", "t"), loss_weights=(0.25,)),
            layer("e", "EuclideanLoss", "t y", "e"),
            layer("away", "Silence", "x", ""),
        ),
        {"type:": '"Adam"', "base_lr:": "0.01", "lr_policy:": '"fixed"', "max_iter:": "20",
         "momentum:": "0.9", "clip_gradients:": "10"},
        1, 4,
    )  # fmt: skip


def test_what_the_rounding_of_a_long_sum_does_is_rounding(bench: Bench) -> None:
    """1,296 equal terms, whose additions all round the same way: 1.8e-5, with equal gradients."""
    shape = "shape { dim: 5 dim: 3 dim: 4 dim: 18 }"
    like = scaled().layers[1]
    loss = replace(like, name="c", type="SigmoidCrossEntropyLoss", bottoms=("ones", "x"))
    case = replace(
        scaled(),
        layers=(
            replace(scaled().layers[0], tops=("x",), settings=f"input_param {{ {shape} }}"),
            replace(like, name="p", type="Power", tops=("ones",), settings="power_param "
                    "{ power: 0 }"),
            replace(loss, tops=("c",), loss_weights=(0.21,), settings="loss_param "
                    "{ normalization: NONE }"),
            replace(like, name="g", type="EuclideanLoss", bottoms=("h", "h2"), tops=("e",),
                    settings=""),
        ),
        batch_size=2, iter_size=3,
    )  # fmt: skip
    twin = replace(like, name="h2", tops=("h2",))
    case = replace(case, layers=(*case.layers[:2], like, twin, *case.layers[2:]))
    judged = bench.judge(case)
    assert (judged.outcome, judged.error > 1e-5) == (Outcome.ROUNDING, True), judged.said


def test_a_false_verdict_is_found_and_made_smaller(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bench.judge(scaled()).outcome is Outcome.NO_PROMISE

    def overlooking(*given: object, **split: int) -> tuple[Finding, ...]:
        found = module.audit(*given, **split)  # type: ignore[arg-type]
        return tuple(each for each in found if each.cause is not Cause.OVERWRITTEN_GRADIENT)

    monkeypatch.setattr(judging, "audit", overlooking)
    assert bench.judge(scaled()).outcome is Outcome.FALSE
    small = shrink(scaled(), lambda case: bench.judge(case).outcome is Outcome.FALSE)
    # TanH is the loss that is left.
    assert [layer.type for layer in small.layers] == ["Input", "Scale", "TanH"]
    assert (small.batch_size, small.iter_size) == (1, 2)
    assert set(small.solver) == {"type:", "base_lr:", "lr_policy:", "max_iter:"}


def test_a_search_continues_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(nets: int) -> int:
        given = ["search.py", "--nets", str(nets), "--seed", "50", "--folder", str(tmp_path)]
        monkeypatch.setattr("sys.argv", given)
        return search.main()

    assert run(4) == 0
    lines = (tmp_path / "nets-50.jsonl").read_text()
    assert run(6) == 0
    after = (tmp_path / "nets-50.jsonl").read_text()
    assert after.startswith(lines)
    assert [json.loads(line)["seed"] for line in after.splitlines()] == list(range(50, 56))
    table = capsys.readouterr().out
    assert all(f"\n{kind}" in table for kind in BUILT_IN)

"""A seeded share of `make fuzz`, and that the fuzzer sees what it looks for."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from tools.fuzz import fuzz, pool, trials
from tools.fuzz.jobs import draw_job
from tools.fuzz.nets import draw_net
from tools.fuzz.options import draw_options
from tools.fuzz.pool import Child
from tools.fuzz.trials import Trial, faults

CALL = Trial((("memory", "x", "--json"),))


@pytest.mark.parametrize(
    ("draw", "seeds"),
    [(draw_net, range(90)), (draw_job, range(12)), (draw_options, range(30))],
    ids=["nets", "jobs", "options"],
)
def test_a_share_of_the_trials(draw: Callable[[int], Trial], seeds: range, tmp_path: Path) -> None:
    for seed in seeds:
        folder = tmp_path / str(seed)
        folder.mkdir()
        assert list(faults(draw(seed), folder)) == [], f"seed {seed}"


@pytest.mark.parametrize("draw", [draw_net, draw_job, draw_options])
def test_a_seed_is_a_trial(draw: Callable[[int], Trial]) -> None:
    first = [draw(seed) for seed in range(20)]
    assert first == [draw(seed) for seed in range(20)]
    assert len({json.dumps(trial.json()) for trial in first}) > 15
    assert [Trial.of_json(json.loads(json.dumps(trial.json()))) for trial in first] == first


def raising(argv: list[str]) -> None:
    raise KeyError("x")


def escaping(argv: list[str]) -> None:
    click.echo("\x1b[31m")


def tracing(argv: list[str]) -> None:
    click.echo('"Traceback (most recent call last)"')


def wrong_code(argv: list[str]) -> None:
    click.echo("no", err=True)
    sys.exit(99)


def silent(argv: list[str]) -> None:
    sys.exit(2)


def no_json(argv: list[str]) -> None:
    click.echo('{"x": NaN}')


@pytest.mark.parametrize(
    ("main", "says"),
    [
        (raising, "KeyError: 'x'"),
        (tracing, "a traceback on stdout"),
        (wrong_code, "exit code 99"),
        (silent, "without a message"),
        (no_json, "no JSON (JSON has no NaN)"),
    ],
)
def test_what_is_a_fault(
    main: Callable[[list[str]], None], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "main", main)
    (fault,) = faults(CALL, tmp_path)
    assert says in fault.what
    assert fault.call == CALL.calls[0]


def test_what_reaches_a_terminal_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "main", lambda argv: sys.stderr.write("a\x9bb"))
    (fault,) = faults(Trial((("memory", "x"),)), tmp_path)
    assert fault.what == r"'\x9b' reaches stderr: 'a\x9bb'"


def test_hangs_and_deaths_are_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a child process, which is replaced; the trials after it go on."""
    monkeypatch.setattr(pool, "CPU_S", 0.5)

    def act(argv: list[str]) -> None:
        if argv == ["turn"]:
            while True:
                time.monotonic()
        if argv == ["die"]:
            os._exit(7)

    monkeypatch.setattr(trials, "main", act)
    calls = ["turn", "fine", "die", "fine"]
    with Child(lambda seed: Trial(((calls[seed],),))) as child:
        found = [child.try_seed(seed)[1] for seed in range(4)]
    assert found[1] == found[3] == []
    assert found[0][0]["what"].startswith("hangs: ")
    assert "in act" in found[0][0]["what"]
    assert found[2][0]["what"] == "ends the process: 7"


def test_it_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found stays; the figures are those of both runs together."""
    faulty = Trial((("paln",),), files={"x": b"\xff"})

    def draw(seed: int) -> Trial:
        return faulty if seed == 3 else Trial((("--version",),))

    def act(argv: list[str]) -> None:
        if argv == ["paln"]:
            raise KeyError

    monkeypatch.setattr(trials, "main", act)
    monkeypatch.setattr(fuzz, "KINDS", {"nets": (draw, 5)})
    for count, tried in (("2", 2), ("5", 5), ("5", 5)):
        figures = tmp_path / "figures.json"
        arguments = ["fuzz", "--nets", count, "--folder", str(tmp_path), "--json", str(figures)]
        monkeypatch.setattr(sys, "argv", arguments)
        assert fuzz.main() == (tried == 5)
        assert json.loads(figures.read_text())["nets"] == {
            "trials": tried, "calls": tried, "faults": tried // 5, "hangs": 0,
        }  # fmt: skip
    (line,) = (tmp_path / "nets-0.jsonl").read_text().splitlines()
    assert Trial.of_json(json.loads(line)["trial"]) == faulty

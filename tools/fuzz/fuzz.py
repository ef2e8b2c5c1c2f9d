"""`make fuzz`: hostile nets, job directories and options; every call of the program ends well.

    python tools/fuzz/fuzz.py [--nets N] [--jobs N] [--options N] [--seed S] [--folder FOLDER]

Each seed of each kind makes a trial (nets.py, jobs.py, options.py), which runs in a child process:
a trial that takes 10 seconds of CPU, or a minute without any, is a hang. What was found lies in
FOLDER, a line a faulty trial, in the form of tests/data/corpus; the same command goes on from
there. Ends with 1 if there was a fault.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tools.fuzz.jobs import draw_job
from tools.fuzz.nets import draw_net
from tools.fuzz.options import draw_options
from tools.fuzz.pool import Child
from tools.fuzz.trials import ROOT, Trial

#: What makes a trial of a seed, and how many trials there are.
KINDS: dict[str, tuple[Callable[[int], Trial], int]] = {
    "nets": (draw_net, 20_000),
    "jobs": (draw_job, 10_000),
    "options": (draw_options, 5_000),
}


def main() -> int:
    arguments = _arguments()
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    figures = {}
    for kind, (draw, _) in KINDS.items():
        figures[kind] = _tried(kind, draw, arguments.seed, getattr(arguments, kind), folder)
    print(json.dumps(figures, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    return int(any(each["faults"] or each["hangs"] for each in figures.values()))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for kind, (_, count) in KINDS.items():
        parser.add_argument(f"--{kind}", type=int, default=count, help=f"how many ({count:,})")
    parser.add_argument("--seed", type=int, default=0, help="the first seed (0)")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "fuzz")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    return parser.parse_args()


def _tried(
    kind: str, draw: Callable[[int], Trial], first: int, count: int, folder: Path
) -> dict[str, int]:
    """The trials of one kind: how many there were, and what they gave."""
    state = folder / f"{kind}-{first}.json"
    figures: dict[str, int] = {"trials": 0, "calls": 0, "faults": 0, "hangs": 0}
    if state.exists():
        figures = json.loads(state.read_text())
    began, before = time.monotonic(), figures["trials"]
    with Child(draw) as child, (folder / f"{kind}-{first}.jsonl").open("a") as found:
        while figures["trials"] < count:
            seed = first + figures["trials"]
            calls, wrong = child.try_seed(seed)
            figures["trials"] += 1
            figures["calls"] += calls
            if wrong:
                figures["hangs" if wrong[0]["what"].startswith("hangs") else "faults"] += 1
                found.write(json.dumps(_line(kind, seed, draw, wrong)) + "\n")
                found.flush()
                for each in wrong:
                    print(f"{kind} {seed} {' '.join(each['call'])}: {each['what']}", flush=True)
            if figures["trials"] % 20 == 0 or figures["trials"] == count:
                state.write_text(json.dumps(figures))
            if figures["trials"] % 500 == 0:
                rate = (time.monotonic() - began) / (figures["trials"] - before)
                print(f"{figures['trials']} of {count} {kind}, {rate:.3f} s each", flush=True)
    return figures


def _line(
    kind: str, seed: int, draw: Callable[[int], Trial], wrong: list[dict[str, Any]]
) -> dict[str, Any]:
    return {"kind": kind, "seed": seed, "wrong": wrong, "trial": draw(seed).json()}


if __name__ == "__main__":
    sys.exit(main())

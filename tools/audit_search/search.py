"""`make audit-search`: random trainings whose verdict "the same" is tried on real Caffe.

    python tools/audit_search/search.py [--nets N] [--seed S] [--folder FOLDER]

Each seed makes a net, a solver and a split (draw.py). Where the audit says that the split is the
same training, real Caffe has to agree to 1e-5; where it doesn't, the case is made smaller and
printed. FOLDER gets a line for each net; the same command continues from there. Ends with 1
if a verdict was false.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from caffe_batch import runtimes
from caffe_batch.layers import BUILT_IN
from tools.audit_search.draw import draw_case
from tools.audit_search.judging import Bench, Outcome, open_bench
from tools.audit_search.nets import Case
from tools.audit_search.shrink import shrink
from tools.audit_search.sources import write_sources

ROOT = Path(__file__).resolve().parents[2]

#: What a layer of a type can be in a net; columns of the table.
VARIANTS = ("nets", "judged", "in place", "batch 1", "weighted", "weight 0", "no reader", "frozen",
            "shared", "stopped")  # fmt: skip


def main() -> int:
    arguments = _arguments()
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    sources = folder / "sources"
    if not (sources / "windows.txt").exists():
        write_sources(sources)
    lines = folder / f"nets-{arguments.seed}.jsonl"
    done = sum(1 for _ in _read(lines))
    began, before = time.monotonic(), done
    with (
        open_bench(runtimes.find(), folder / f"work-{arguments.seed}") as bench,
        lines.open("a") as out,
    ):
        for seed in range(arguments.seed + done, arguments.seed + arguments.nets):
            found = _one(bench, seed, sources, shrinks=not arguments.as_drawn)
            out.write(json.dumps(found) + "\n")
            out.flush()
            done += 1
            if found["outcome"] == Outcome.FALSE.value:
                print(_shown(found), flush=True)
            if done % 500 == 0:
                rate = (time.monotonic() - began) / (done - before)
                print(f"{done} of {arguments.nets} nets, {rate:.2f} s each", flush=True)
    shutil.rmtree(folder / f"work-{arguments.seed}", ignore_errors=True)
    rows = list(_read(lines))
    print(_table(rows))
    return int(any(row["outcome"] == Outcome.FALSE.value for row in rows))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", type=int, default=20_000, help="how many (20,000)")
    parser.add_argument("--seed", type=int, default=0, help="the first seed (0)")
    parser.add_argument("--as-drawn", action="store_true", help="don't make false cases smaller")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "audit-search")
    return parser.parse_args()


def _one(bench: Bench, seed: int, sources: Path, *, shrinks: bool) -> dict[str, Any]:
    """A line of the record."""
    case = draw_case(seed, str(sources))
    judged = bench.judge(case)
    found: dict[str, Any] = {
        "seed": seed,
        "outcome": judged.outcome.value,
        "said": judged.said,
        "layers": [[kind, sorted(has)] for kind, has in variants(case)],
        "solver": case.solver["type:"].strip('"'),
        "causes": judged.causes,
    }
    if judged.outcome is Outcome.FALSE:
        small = case
        if shrinks:
            small = shrink(case, lambda c: bench.judge(c).outcome is Outcome.FALSE)
        found["smallest"] = {
            "net": small.net_text(),
            "solver": small.solver_text(),
            "split": [small.batch_size, small.iter_size],
            "said": bench.judge(small).said,
        }
    return found


def variants(case: Case) -> Iterator[tuple[str, set[str]]]:
    """Type and variants of each layer."""
    read = Counter(bottom for layer in case.layers for bottom in layer.bottoms)
    for layer in case.layers:
        names = {spec.name for spec in layer.params if spec.name}
        users = [o for o in case.layers if names & {spec.name for spec in o.params}]
        has = {
            "in place": layer.in_place,
            "batch 1": case.batch_size == 1,
            "weighted": any(layer.loss_weights),
            "weight 0": bool(layer.loss_weights) and not all(layer.loss_weights),
            "no reader": any(not read[top] for top in layer.tops),
            "frozen": any(spec.lr_mult == 0 for spec in layer.params),
            "shared": len(users) > 1,
            "stopped": False in layer.propagate_down,
        }
        yield layer.type, {name for name, true in has.items() if true}


def _shown(found: dict[str, Any]) -> str:
    small = found["smallest"]
    return (
        f"\nFALSE: seed {found['seed']}, {small['split'][0]} x {small['split'][1]}: "
        f"{small['said']}\n{small['net']}{small['solver']}"
    )


def _read(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        with path.open() as lines:
            yield from map(json.loads, lines)


def _table(rows: Iterable[dict[str, Any]]) -> str:
    """What was tried: outcomes, and each type in its variants."""
    rows = list(rows)
    outcomes = Counter(row["outcome"] for row in rows)
    judged = (Outcome.TRUE.value, Outcome.FALSE.value)
    cells: Counter[tuple[str, str]] = Counter()
    for row in rows:
        if row["outcome"] in (Outcome.REFUSED.value, Outcome.CAFFE.value):
            continue
        for kind, has in row["layers"]:
            promised = row["outcome"] in judged
            cells.update((kind, name) for name in ("nets", *(["judged"] if promised else []), *has))
    head = f"{'':24}" + "".join(f"{name:>10}" for name in VARIANTS)
    body = [
        f"{kind:24}" + "".join(f"{cells[kind, name]:>10}" for name in VARIANTS)
        for kind in sorted(BUILT_IN)
    ]
    solvers = Counter(row["solver"] for row in rows if row["outcome"] in judged)
    lines = [
        ", ".join(f"{name}: {number}" for name, number in outcomes.most_common()),
        "judged, by solver: " + ", ".join(f"{n} {solvers[n]}" for n in sorted(solvers)),
        head,
        *body,
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

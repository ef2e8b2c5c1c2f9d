"""Counts on demand: which fake runs a question needs, and what is kept of their answers.

A run takes about a second for a net of 150 layers. So the batch sizes between three counted ones
are calculated, after the third has shown that all sizes lie on a line; where they don't, each size
is counted. What was found out once is kept in the user's cache directory, under a key made of the
net, the solver, this package's sources and PyTorch's version.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from caffe_batch import __version__
from caffe_batch.engines.base import MemoryCount
from caffe_batch.engines.torch.memory.figures import Figures, counted
from caffe_batch.engines.torch.memory.trace import TRAIN, Line, Trace
from caffe_batch.errors import InputError
from caffe_batch.files import read_regular, replace_text

#: What the memory of a training depends on, beside the recipe.
_SOURCES = ("engines/torch", "layers", "net", "solver")

Sizes = tuple[int | None, ...]


class Run(NamedTuple):
    """One training to be counted.

    Attributes:
        sizes: The batch of each net, the train net's first; None for the files' own.
        passes: Passes of an update: 1, or 2 for all above.
    """

    sizes: Sizes
    passes: int


class Counts:
    """What is known of the memory of one recipe.

    Args:
        count: Counts what isn't known yet.
        settings: The recipe, as the worker's settings.

    Attributes:
        problem: Why nothing can be counted; empty if nothing is known to prevent it.
        problems: The runs that can't be counted, and why.
    """

    def __init__(self, count: MemoryCount, settings: Mapping[str, Any]) -> None:
        self._count, self._settings = count, settings
        self.problem = ""
        self.problems: dict[Run, str] = {}
        self._file = self._file_of(count.version)
        self._figures, self._peaks = _read(self._file)
        self._traces: dict[Run, Trace] = {}
        self._lines: dict[tuple[int, int], Line] = {}  # by net and passes

    @classmethod
    def of(cls, count: MemoryCount, settings: Mapping[str, Any]) -> Counts:
        """Those of a recipe; the same object for equal recipes."""
        text = json.dumps(settings, sort_keys=True)
        if text not in count.known:
            count.known[text] = cls(count, settings)
        found: Counts = count.known[text]
        return found

    def _file_of(self, version: str) -> Path:
        """Where the figures of a version of PyTorch are kept."""
        text = json.dumps(self._settings, sort_keys=True)
        named = f"{_fingerprint()} {version} {text}"
        return self._count.folder / f"{hashlib.sha256(named.encode()).hexdigest()[:32]}.json"

    def figures(self, run: Run) -> Figures:
        """The figures of a run.

        Raises:
            InputError: It can't be counted.
        """
        if run not in self._figures:
            found = self._figures[run] = Figures.of(self._trace(run))
            self._peaks[run] = found.peak
            self._write()
        return self._figures[run]

    def peaks(self, runs: Sequence[Run], tests: Sizes) -> list[int | None]:
        """The most that tensors take in several runs, which differ in the train net's batch alone.

        None for those that can't be counted (see :attr:`problems`).

        Args:
            runs: The runs.
            tests: The largest batch of each test net that may be asked for later.

        Raises:
            InputError: Nothing can be counted.
        """
        missing = [run for run in runs if run not in self._peaks and run not in self.problems]
        if missing:
            self._prepare(missing, tests)
            self._add([run for run in missing if self._calculated(run) is None])
            self._peaks |= {
                run: self._trace(run).peak_bytes() for run in missing if run not in self.problems
            }
            self._write()
        return [self._peaks.get(run) for run in runs]

    def _trace(self, run: Run) -> Trace:
        """The trace of a run, calculated if the lines are known, else counted.

        Raises:
            InputError: It can't be counted.
        """
        known = self._traces.get(run) or self._calculated(run)
        if known is None:
            self._add([run])
            if run in self.problems:
                raise InputError(self.problems[run])
            known = self._traces[run]
        return known

    def _calculated(self, run: Run) -> Trace | None:
        made = self._of_net(TRAIN, run)
        for net in range(1, len(run.sizes)):
            part = self._of_net(net, run)
            made = part and made and made.with_net(net, part)
        return made

    def _of_net(self, net: int, run: Run) -> Trace | None:
        """A trace in which one net has the batch of a run."""
        size = run.sizes[net]
        for other, trace in self._traces.items():
            fits = other.passes == run.passes or net != TRAIN
            if other.sizes[net] == size and fits:
                return trace
        line = self._lines.get((net, run.passes)) or (
            self._lines.get((net, 2)) if net != TRAIN else None
        )
        if line is None or size is None or not line.low <= size <= line.high:
            return None
        return line.at(size)

    def _prepare(self, runs: Sequence[Run], tests: Sizes) -> None:
        """Count what the lines through some runs need."""
        passes = runs[0].passes
        sizes = sorted({size for run in runs if (size := run.sizes[TRAIN]) is not None})
        follows = [all(run.sizes[net] == run.sizes[TRAIN] for run in runs)
                   for net in range(1, len(runs[0].sizes))]  # fmt: skip
        above = [size for size in sizes if size > 1]
        if len(above) < 3 or any(run.passes != passes for run in runs):
            return
        knots = [1] * (sizes[0] == 1) + [above[0], above[len(above) // 2], above[-1]]
        small: list[Sequence[int | None]] = [
            knots if follow else _knots(size, len(knots))
            for follow, size in zip(follows, tests, strict=True)
        ]
        self._add([
            Run((knot, *(each[i] for each in small)), passes) for i, knot in enumerate(knots)
        ])  # fmt: skip
        for net in range(len(runs[0].sizes)):
            self._draw_line(net, passes)

    def _draw_line(self, net: int, passes: int) -> None:
        known = {
            size: trace
            for run, trace in self._traces.items()
            if run.passes == passes and (size := run.sizes[net]) is not None and size > 1
        }
        if len(known) < 3:
            return
        low, *middle, high = sorted(known)
        line = Line(net, (low, known[low]), (high, known[high]))
        if all(line.agrees(size, known[size]) for size in middle):
            self._lines[net, passes] = line

    def _add(self, runs: Sequence[Run]) -> None:
        """Count runs: each gets a trace or a problem."""
        tried = self._traces.keys() | self.problems.keys()
        wanted = [run for run in dict.fromkeys(runs) if run not in tried]
        if not wanted:
            return
        for run, value in zip(wanted, self._count(self._settings, wanted), strict=True):
            if "problem" in value:
                self.problems[run] = value["problem"]
                continue
            self._traces[run] = Trace.of_json(value["trace"])
            self._file = self._file_of(value["torch"])  # of the one that has counted

    def _write(self) -> None:
        content = {
            "figures": [[*run, each.json()] for run, each in self._figures.items()],
            "peaks": [[*run, each] for run, each in self._peaks.items()],
        }
        with suppress(OSError):  # what can't be kept is counted again
            self._file.parent.mkdir(parents=True, exist_ok=True)
            replace_text(self._file, json.dumps(content, separators=(",", ":")))


def _knots(size: int | None, number: int) -> Sequence[int | None]:
    """Sizes from 1 to a test net's own, for as many runs; the last one is its own."""
    if size is None:
        return [None] * number
    steps = [2, -(-size // 2), size] if size > 1 else [1, 1, 1]
    return [1, *steps][-number:]


def _read(path: Path) -> tuple[dict[Run, Figures], dict[Run, int]]:
    """What was kept: figures and peaks; nothing if it can't be read."""
    broken = (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError)
    with suppress(OSError, *broken):
        content = json.loads(read_regular(path))
        return (
            {
                Run(tuple(sizes), n): Figures.of_json(value)
                for sizes, n, value in content["figures"]
            },
            {Run(tuple(sizes), n): counted(value) for sizes, n, value in content["peaks"]},
        )
    return {}, {}


@cache
def _fingerprint() -> str:
    """The version of this package, and what its sources are."""
    package = Path(__file__).parents[3]
    found = hashlib.sha256(__version__.encode())
    for folder in _SOURCES:
        for path in sorted((package / folder).rglob("*.py")):
            found.update(path.read_bytes())
    return found.hexdigest()

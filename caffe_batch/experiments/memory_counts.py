"""Lets an engine count what a training allocates: a worker without a GPU and without data."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import platformdirs

from caffe_batch.engines.base import Engine
from caffe_batch.engines.events import LogEvent, Updated, WorkerEvent
from caffe_batch.errors import InputError
from caffe_batch.experiments.worker import run_worker
from caffe_batch.jobs.ending import EndReason
from caffe_batch.layers.loading import installed_rules
from caffe_batch.runtimes.base import Runtime

#: Called with how many batch sizes are counted, and how many there are to count.
Progress = Callable[[int, int], None]

#: How long a count may take, in seconds.
LIMIT_S = 600.0


#: How many are counted at the same time: each takes about 0.4 GiB.
_MOST_PROCESSES = 4


@dataclass
class MemoryCounts:
    """Counts the memory of trainings, as :class:`caffe_batch.engines.base.MemoryCount`.

    Attributes:
        engine: The engine.
        version: Its version.
        runtime: The Python to run it.
        progress: Told about each count.
        folder: Where what was counted is kept.
        known: What was counted in this process.
    """

    engine: Engine
    version: str
    runtime: Runtime
    progress: Progress
    folder: Path
    known: dict[str, Any] = field(default_factory=dict)

    def __call__(self, settings: Mapping[str, Any], runs: Sequence[Any]) -> list[Any]:
        self.progress(0, len(runs))

        def observe(event: WorkerEvent | LogEvent) -> None:
            if isinstance(event, Updated):
                self.progress(event.update, len(runs))

        with TemporaryDirectory(prefix="caffe-batch-") as name:
            folder = Path(name).resolve()
            wanted = {
                **settings,
                "runs": [each._asdict() for each in runs],
                "processes": min(len(os.sched_getaffinity(0)), _MOST_PROCESSES),
                "result": str(folder),
            }
            work = self.engine.memory_count(wanted)
            try:
                end = run_worker(
                    self.runtime, self.engine, work, folder, Path.cwd(),
                    nets=(), rules=installed_rules(), observer=observe, limit_s=LIMIT_S,
                )  # fmt: skip
            except TimeoutError as error:
                raise InputError(f"counting hasn't ended after {LIMIT_S:g} s") from error
            if end.ending.reason is not EndReason.FINISHED:
                raise InputError(f"counting them failed: {end.ending.detail}")
            return [_result(folder / f"{number}.json", end.log) for number in range(len(runs))]


def _result(path: Path, log: Sequence[str]) -> Any:
    """What a count has left; where its process has died, the problem is all that is known."""
    with suppress(FileNotFoundError, ValueError):  # it may have died while it wrote
        return json.loads(path.read_text(encoding="utf-8"))
    last = log[-1] if log else "it said nothing"
    return {"problem": f"counting it failed: {last}"}


def memory_counts(
    engine: Engine, runtime: Runtime, progress: Progress = lambda done, number: None
) -> MemoryCounts | None:
    """What counts the memory of an engine; None if that follows from the net, or can't be counted.

    Nothing is started yet, and the engine isn't imported: this is quick.

    Args:
        engine: The engine.
        runtime: The Python to run it: this one.
        progress: Told about each count.
    """
    found = engine.version_here() if engine.counts_memory else None
    if found is None:
        return None
    folder = platformdirs.user_cache_path("caffe-batch") / "memory"
    return MemoryCounts(engine, found, runtime, progress, folder)

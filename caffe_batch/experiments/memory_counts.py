"""Lets an engine count what a training allocates: a worker without a GPU and without data."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import platformdirs

from caffe_batch.engines.base import Engine
from caffe_batch.engines.events import LogEvent, Updated, WorkerEvent
from caffe_batch.errors import InputError, RuntimeMissingError
from caffe_batch.experiments.worker import run_worker
from caffe_batch.jobs.ending import EndReason
from caffe_batch.layers.loading import installed_rules
from caffe_batch.runtimes.base import Runtime

#: Called with how many batch sizes are counted, and how many there are to count.
Progress = Callable[[int, int], None]

#: How long a count may take, in seconds.
LIMIT_S = 600.0


@dataclass
class MemoryCounts:
    """Counts the memory of trainings, as :class:`caffe_batch.engines.base.MemoryCount`.

    Attributes:
        engine: The engine.
        version: Its version.
        runtime: Finds the Python to run it; called when something has to be counted.
        progress: Told about each count.
        folder: Where what was counted is kept.
        known: What was counted in this process.
    """

    engine: Engine
    version: str
    runtime: Callable[[], Runtime]
    progress: Progress
    folder: Path
    known: dict[str, Any] = field(default_factory=dict)

    def __call__(self, settings: Mapping[str, Any], runs: Sequence[Any]) -> list[Any]:
        try:
            runtime = self.runtime()
        except RuntimeMissingError as error:
            raise InputError(error.message) from error
        self.progress(0, len(runs))

        def observe(event: WorkerEvent | LogEvent) -> None:
            if isinstance(event, Updated):
                self.progress(event.update, len(runs))

        with TemporaryDirectory(prefix="caffe-batch-") as name:
            folder = Path(name).resolve()
            wanted = {**settings, "runs": [each._asdict() for each in runs], "result": str(folder)}
            work = self.engine.memory_count(wanted)
            try:
                end = run_worker(
                    runtime, self.engine, work, folder, Path.cwd(),
                    nets=(), rules=installed_rules(), observer=observe, limit_s=LIMIT_S,
                )  # fmt: skip
            except TimeoutError as error:
                raise InputError(f"counting hasn't ended after {LIMIT_S:g} s") from error
            if end.ending.reason is not EndReason.FINISHED:
                raise InputError(f"counting them failed: {end.ending.detail}")
            return [
                json.loads((folder / f"{number}.json").read_text(encoding="utf-8"))
                for number in range(len(runs))
            ]


def memory_counts(
    engine: Engine, runtime: Callable[[], Runtime], progress: Progress = lambda done, number: None
) -> MemoryCounts | None:
    """What counts the memory of an engine; None if that follows from the net, or can't be counted.

    Nothing is started yet, and the engine isn't imported: this is quick.

    Args:
        engine: The engine.
        runtime: Finds the Python to run it.
        progress: Told about each count.
    """
    if not engine.counts_memory or importlib.util.find_spec(engine.module) is None:
        return None
    try:
        found = version(engine.module)
    except PackageNotFoundError:
        return None
    folder = platformdirs.user_cache_path("caffe-batch") / "memory"
    return MemoryCounts(engine, found, runtime, progress, folder)

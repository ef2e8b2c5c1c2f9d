"""Runs the worker of an experiment to its end, in a temporary folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from caffe_batch.engines.base import Engine
from caffe_batch.engines.events import LogEvent, WorkerEvent
from caffe_batch.engines.work import Work
from caffe_batch.jobs.ending import Ending
from caffe_batch.layers.registry import Registry
from caffe_batch.memory import MemoryModel
from caffe_batch.net.sources import Sources
from caffe_batch.runtimes.base import Runtime
from caffe_batch.training.culprits import with_culprits
from caffe_batch.training.places import worker_places
from caffe_batch.training.process import WorkerProcess

#: How often the worker's log is read, in seconds.
_TICK_S = 0.2


@dataclass(frozen=True)
class WorkerEnd:
    """How a worker has ended.

    Attributes:
        ending: Why it ended.
        log: The last lines of its log that are worth showing, oldest first.
    """

    ending: Ending
    log: tuple[str, ...]


def explained(end: WorkerEnd, model: MemoryModel, directory: Path) -> WorkerEnd:
    """An end whose detail also says where in the train net and its data the fault lies.

    Args:
        end: How a worker ended.
        model: The recipe that it ran the train net of.
        directory: Its working directory.
    """
    recipe = replace(model.recipe, tests=())
    return replace(end, ending=with_culprits(end.ending, recipe, Sources((directory,))))


def run_worker(
    runtime: Runtime,
    engine: Engine,
    work: Work,
    folder: Path,
    directory: Path,
    *,
    nets: Iterable[Path],
    rules: Registry,
    weights: Iterable[Path] = (),
    observer: Callable[[WorkerEvent | LogEvent], None] = lambda event: None,
    limit_s: float | None = None,
) -> WorkerEnd:
    """Run a worker to its end. Anything that ends this call early, Ctrl-C or an error, kills it.

    Args:
        runtime: The Python that runs it.
        engine: The engine that trains.
        work: The worker's task.
        folder: A temporary folder, which it may write to.
        directory: Its working directory, at which relative paths in the nets start.
        nets: The nets that it builds.
        rules: What their layer types do.
        weights: The weight files that it reads.
        observer: Called with each event.
        limit_s: How long it may take, in seconds; None for as long as it wants.

    Raises:
        TimeoutError: It hasn't ended by then.
    """
    worker = WorkerProcess(
        runtime,
        engine,
        work,
        partial(worker_places, folder, directory, nets, rules, weights, folder / "events"),
        log=folder / "worker.log",
        working_directory=directory,
    )
    try:
        running = True
        deadline = None if limit_s is None else time.monotonic() + limit_s
        while running:
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"the worker hasn't ended after {limit_s:g} s")
            running = worker.running()  # asked first, so that its last events are still read
            for event in worker.listen(_TICK_S if running else 0):
                observer(event)
        return WorkerEnd(worker.ending(), tuple(engine.last_lines(worker.log_tail)))
    except BaseException:
        worker.kill()
        raise
    finally:
        worker.end()

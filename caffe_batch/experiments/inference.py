"""Runs trained nets forward: on their own test data, or on what they are fed with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caffe_batch.device import Device
from caffe_batch.engines.base import Engine
from caffe_batch.engines.events import LogEvent, Passed, Started, WorkerEvent
from caffe_batch.engines.work import InferencePart, InferenceRequest
from caffe_batch.errors import InputError, Option, TrainingError
from caffe_batch.experiments.worker import WorkerEnd, run_worker
from caffe_batch.jobs.ending import EndReason
from caffe_batch.layers.registry import Registry
from caffe_batch.net.recipe import NetFile, Recipe
from caffe_batch.net.sources import Sources
from caffe_batch.runtimes.base import Runtime
from caffe_batch.schema import caffe_pb2
from caffe_batch.training.culprits import with_culprits

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Inference:
    """What runs nets forward.

    Attributes:
        engine: The engine.
        runtime: The Python that it runs in.
        device: Where to compute; None for a GPU if there is one.
        threads: CPU threads of the BLAS.
        observer: Called with the number of passes that are done.
    """

    engine: Engine
    runtime: Runtime
    device: Device | None = None
    threads: int = 1
    observer: Callable[[int], None] = lambda passes: None


@dataclass(frozen=True)
class Run:
    """A net to be run.

    Attributes:
        net: The net, as it is written or changed; its path is where it is written now.
        passes: How many passes.
        collect: What is kept of the blobs, as engines/caffe/inside/inference_results.py has it.
        feed: An array for each input, with the samples of all passes; None for a net with data
            layers of its own.
    """

    net: NetFile
    passes: int
    collect: Mapping[str, Any]
    feed: Arrays | None = None


@dataclass(frozen=True)
class Ran:
    """What nets have given.

    Attributes:
        results: The arrays of each net, by ``KIND:BLOB``.
        device: Where it was computed.
        notes: What the worker decided and why.
    """

    results: tuple[Arrays, ...]
    device: Device
    notes: tuple[str, ...]


def run_forward(
    runs: Sequence[Run],
    weights: Sequence[Path],
    how: Inference,
    folder: Path,
    directory: Path,
    *,
    rules: Registry,
    rule_files: Iterable[Path] = (),
    seed: int = 1,
) -> Ran:
    """Run nets with trained weights, one after another.

    Args:
        runs: The nets.
        weights: .caffemodel files, for all of them.
        how: What runs them.
        folder: A temporary folder.
        directory: Where relative paths in the nets start.
        rules: What the layer types do.
        rule_files: The files with rules of the user's.
        seed: For Caffe's random numbers.

    Raises:
        InputError: The engine refuses a net, its data or the weights.
        TrainingError: The worker ended while it ran.
    """
    import numpy as np

    from caffe_batch.files import write_text
    from caffe_batch.prototxt import write

    parts = []
    for number, run in enumerate(runs):
        net = folder / f"net_{number}.prototxt"
        write_text(net, write(run.net.message))
        feed = None
        if run.feed is not None:
            feed = folder / f"feed_{number}.npz"
            arrays: dict[str, Any] = dict(run.feed)
            np.savez(feed, **arrays)
        result = folder / f"result_{number}.npz"
        parts.append(
            InferencePart(net, run.net.state, weights, feed, run.passes, run.collect, result)
        )
    started: list[Started] = []

    def note(event: WorkerEvent | LogEvent) -> None:
        if isinstance(event, Started):
            started.append(event)
        elif isinstance(event, Passed):
            how.observer(event.number)

    end = run_worker(
        how.runtime,
        how.engine,
        how.engine.inference(
            InferenceRequest(parts, tuple(rule_files), seed, how.device, how.threads)
        ),
        folder,
        directory,
        nets=[part.net for part in parts],
        rules=rules,
        weights=weights,
        observer=note,
    )
    if not started or end.ending.reason is not EndReason.FINISHED:
        raise _failure(end, how, runs, directory, built=bool(started))
    results = []
    for part in parts:
        with np.load(part.result) as found:
            results.append({name: found[name] for name in found.files})
    return Ran(tuple(results), started[0].device, started[0].choices)


def _failure(
    end: WorkerEnd, how: Inference, runs: Sequence[Run], directory: Path, *, built: bool
) -> InputError | TrainingError:
    """The error for a worker that ended early: the files' if its checks failed, or the run's."""
    title = how.engine.title
    for run in runs:
        if run.feed is None:
            recipe = Recipe(caffe_pb2.SolverParameter(), None, run.net, ())
            ending = with_culprits(end.ending, recipe, Sources((directory,)))
            end = replace(end, ending=ending)
    if end.ending.reason is EndReason.REFUSED:
        on_gpu = how.device is not None and not how.device.is_cpu
        hint: Any = [Option("cpu", True), " computes on the CPU."] if on_gpu else None
        return InputError(end.ending.detail, hint=hint)
    lines = "".join(f"\n  {line}" for line in end.log)
    log = f"The last lines of {title}'s log:{lines}"
    if end.ending.reason is EndReason.CHECK_FAILED and not built:
        return InputError(
            f"{title} can't build the net, open its data or load its weights: {end.ending.detail}"
            f"\n{log}"
        )
    return TrainingError(
        f"{title} stopped: {end.ending.reason.value}: {end.ending.detail}\n{log}",
        hint=how.engine.hints.get(end.ending.reason),
    )

"""Which of this machine's files a worker reads and writes, for runtimes that must be given them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.plan_file import PlanFile
from caffe_batch.layers.loading import rules_with
from caffe_batch.layers.registry import Registry
from caffe_batch.prototxt import read_net
from caffe_batch.runtimes.base import WorkerPlaces
from caffe_batch.training.checks import named_files
from caffe_batch.training.start import StartingPoint


def job_places(
    job: JobDirectory, plan: PlanFile, directory: Path, start: StartingPoint
) -> WorkerPlaces:
    """The folders of a training.

    Args:
        job: Its directory.
        plan: Its plan, which names the nets.
        directory: Where the worker runs: relative paths in the nets start there.
        start: The weights or the snapshot of another run that it starts from.
    """
    begun = [Path(path) for path in (*start.weights, start.state) if path]
    nets = [stage.net for stage in plan.stages]
    rules = rules_with(plan.rules)
    return worker_places(job.path, directory, nets, rules, begun, job.worker_events)


def worker_places(
    folder: Path,
    directory: Path,
    nets: Iterable[Path],
    rules: Registry,
    others: Iterable[Path],
    fifo: Path,
) -> WorkerPlaces:
    """The folders of a worker.

    Args:
        folder: Where it writes.
        directory: Where it runs: relative paths in the nets start there.
        nets: The nets that it builds.
        rules: What their layer types do.
        others: What else it reads: weights, snapshots.
        fifo: Where a FIFO for its events may be created.
    """
    data = [each for net in nets for each in _data_folders(net, directory, rules)]
    folders = (*data, *(file.absolute().parent for file in others))
    return WorkerPlaces(folder, directory, folders, fifo)


def _data_folders(net: Path, directory: Path, rules: Registry) -> list[Path]:
    """The folders with the files that a net reads.

    Args:
        net: The net's file.
        directory: Where relative paths start.
        rules: What the layer types do.
    """
    readers = [
        (layer, rules[layer.type])
        for layer in read_net(net, allow_unknown_fields=True).layer
        if layer.type in rules and rules[layer.type].source
    ]
    names = [getattr(getattr(layer, rule.message), "root_folder", "") for layer, rule in readers]
    roots = [directory / name for name in names if name]
    files = [directory / file for _, file in named_files(net, rules)]
    folders = [path if path.is_dir() else path.parent for path in (*roots, *files)]
    for path in files:
        # The text files of ImageData and HDF5Data name others, one per line.
        if path.suffix == ".txt" and path.is_file():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            named = [line.split()[0] for line in lines if line.startswith("/")]
            if named:
                folders.append(Path(os.path.commonpath([os.path.dirname(name) for name in named])))
    return folders

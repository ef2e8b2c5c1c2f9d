"""What engines share whose files are Caffe's: weights, snapshots and log."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from caffe_batch.engines.base import Engine, LogReader
from caffe_batch.engines.caffe import snapshots as snapshot_files
from caffe_batch.engines.caffe import starting_files
from caffe_batch.engines.caffe.ending import last_lines
from caffe_batch.engines.caffe.log_files import LogFollower
from caffe_batch.engines.snapshots import Snapshot, SnapshotFiles
from caffe_batch.net import Net


class CaffeFilesEngine(Engine):
    """An engine that reads and writes Caffe's files."""

    snapshots: ClassVar[SnapshotFiles] = snapshot_files

    def check_weights(self, path: Path, nets: Sequence[Net]) -> None:
        starting_files.check_weights(path, nets)

    def check_state(self, snapshot: Snapshot, net: Net, solver_type: str) -> None:
        starting_files.check_state(snapshot, net, solver_type)

    def open_log(self, log: Path) -> LogReader:
        return LogFollower(log)

    def last_lines(self, log: Sequence[str]) -> list[str]:
        return last_lines(log)

"""How to train: the options of ``train``, beside the plan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from caffe_batch.device import Device
from caffe_batch.engines.base import MemoryCount
from caffe_batch.jobs.best import Metric
from caffe_batch.net.data.findings import DataCheck
from caffe_batch.planning.precision import Precision
from caffe_batch.training.longer import Longer


@dataclass(frozen=True)
class Options:
    """How to train.

    Attributes:
        device: Where; None for the solver's device_id if the runtime and the machine have a GPU,
            otherwise the CPU.
        threads: CPU threads of the BLAS. One is the fastest for small nets (LeNet on two cores
            takes 10 to 30 % longer with two) and gives the same numbers on every machine; large
            nets in CPU mode gain from more.
        restart: Start from update 0; an earlier run is removed once the new one has a snapshot.
        try_larger: Return to the planned split if a smaller one has replaced it. A restart does
            so by itself.
        noise_scale: Also measure the gradients of the micro-batches, for the noise scale, as
            lines of metrics.jsonl. It takes about 2 % of the time.
        weights: .caffemodel files to start from at update 0, loaded one after the other.
        snapshot: The solverstate of another run to continue from, with its weights beside it.
        keep_last: How many of the newest snapshots to keep; None for all, or with ``keep_every``
            for one.
        keep_every: Also keep the first snapshot in each period of this many updates.
        keep_best: Take a snapshot at each test, and keep the best one by this metric; None for that
            of the run that is continued, if it had one, and ``none`` for no longer. Of the others
            the newest is kept, unless ``keep_last`` or ``keep_every`` say more.
        max_loss: A loss above it counts as diverged, as nan and inf always do; None for no bound.
        rollback: What base_lr is multiplied by when a diverged run continues from the last good
            snapshot; None to stop then.
        stall_timeout_s: Seconds without any sign of progress after which the worker is stopped;
            None for ten minutes, or twenty times the longest silence so far if that is more.
        precision: The precision of the engine's arithmetic; None for the planned one.
        engine: Name of the engine; None for the one that trained last here, or is planned.
        check_data: How much of the data to check before anything is trained on it.
        count: Counts what the planned engine allocates, where that isn't known from the net alone;
            None to do without, when a smaller split is planned.
        longer: How much longer than planned to train; None for not at all.
    """

    device: Device | None = None
    threads: int = 1
    restart: bool = False
    try_larger: bool = False
    noise_scale: bool = False
    weights: tuple[Path, ...] = ()
    snapshot: Path | None = None
    keep_last: int | None = None
    keep_every: int | None = None
    keep_best: Metric | None = None
    max_loss: float | None = None
    rollback: float | None = None
    stall_timeout_s: float | None = None
    engine: str | None = None
    precision: Precision | None = None
    check_data: DataCheck = DataCheck.QUICK
    count: MemoryCount | None = None
    longer: Longer | None = None

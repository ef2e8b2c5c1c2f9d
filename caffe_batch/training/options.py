"""How to train: the options of ``train``, beside the plan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from caffe_batch.device import Device
from caffe_batch.net.data.findings import DataCheck


@dataclass(frozen=True)
class Options:
    """How to train.

    Attributes:
        device: Where; None for the solver's device_id where the runtime and the machine have a
            GPU, else for the CPU.
        threads: CPU threads of the BLAS. One is the fastest for small nets (LeNet on two cores
            takes 10 to 30 % longer with two) and gives the same numbers on every machine; large
            nets in CPU mode gain from more.
        restart: Start from update 0; an earlier run is removed once the new one has a snapshot.
        noise_scale: Measure the gradients of the micro-batches on the way, for the noise scale:
            lines of metrics.jsonl. It takes about 2 % of the time.
        weights: .caffemodel files that update 0 begins with, loaded one after the other.
        snapshot: The solverstate of another run to go on from; its weights lie beside it.
        keep_last: So many of the newest snapshots stay; None for all, or with ``keep_every`` for
            one.
        keep_every: Of each so many updates the first snapshot stays as well.
        max_loss: A loss above it counts as diverged, as nan and inf always do; None for no bound.
        rollback: What base_lr is multiplied by when the run goes on from the last good snapshot
            after it has diverged; None to stop then.
        stall_timeout_s: Seconds without any sign of progress after which the worker is stopped;
            None for ten minutes, or twenty times the longest silence so far if that is more.
        check_data: How much of the data is looked at before anything is trained on it.
    """

    device: Device | None = None
    threads: int = 1
    restart: bool = False
    noise_scale: bool = False
    weights: tuple[Path, ...] = ()
    snapshot: Path | None = None
    keep_last: int | None = None
    keep_every: int | None = None
    max_loss: float | None = None
    rollback: float | None = None
    stall_timeout_s: float | None = None
    check_data: DataCheck = DataCheck.QUICK

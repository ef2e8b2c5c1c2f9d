"""What a worker and its log report, as data: the same events for all engines.

A worker writes its own events as JSON lines to a pipe; :func:`read_worker_line` reads them. What
only the log says is read by the engine (:meth:`~caffe_batch.engines.base.Engine.open_log`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from caffe_batch.device import Device
from caffe_batch.errors import TrainingError


@dataclass(frozen=True)
class Started:
    """The engine is loaded and the device is chosen.

    Attributes:
        engine_version, python_version: As they report them.
        device: Where it computes.
        choices: What the worker decided and why, one sentence each.
    """

    engine_version: str
    python_version: str
    device: Device
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Built:
    """The nets are built; the first update is about to begin.

    Attributes:
        update: Updates done so far: 0, or those of the snapshot that it continues from.
        choices: What was decided on the way and why, one sentence each.
        large_outputs: (number of the test net, output, its elements) of each output of a test net
            that has several elements.
    """

    update: int
    choices: tuple[str, ...] = ()
    large_outputs: tuple[tuple[int, str, int], ...] = ()


@dataclass(frozen=True)
class LossRecord:
    """The loss over the updates since the previous record.

    Attributes:
        update: Updates done, including the last one (Caffe's iteration number plus 1: the loss is
            that of the weights before this update).
        loss: Mean over all micro-batches of these updates; nan or inf if it diverged.
        seconds: Since ``Built``.
    """

    update: int
    loss: float
    seconds: float


@dataclass(frozen=True)
class Updated:
    """Progress: how many updates are done, and the losses recorded on the way.

    Attributes:
        update: Updates done.
        seconds: Since ``Built``.
        records: Those made since the last such event.
        rank_s: Of several ranks, how long each recently took for the passes of an update, without
            what it waited for the others.
    """

    update: int
    seconds: float
    records: tuple[LossRecord, ...]
    rank_s: tuple[float, ...] = ()


@dataclass(frozen=True)
class GradientNorms:
    """The gradients of the micro-batches of one update (or of a group without an update).

    Attributes:
        update: Counted as in ``LossRecord``; the number of the group if nothing is updated.
        passes: How many micro-batches.
        micro_norm_squared: Mean of the squared norms of their gradients.
        mean_norm_squared: Squared norm of their mean gradient.
    """

    update: int
    passes: int
    micro_norm_squared: float
    mean_norm_squared: float


@dataclass(frozen=True)
class Passed:
    """A forward pass of a run without training is done.

    Attributes:
        number: Passes so far.
    """

    number: int


@dataclass(frozen=True)
class SnapshotTaken:
    """Both files of a snapshot are written.

    Attributes:
        update: Updates done.
        state: Path of the solverstate.
    """

    update: int
    state: str


@dataclass(frozen=True)
class Diverged:
    """The training is lost; it ends without a snapshot of these weights.

    Attributes:
        update: Updates done; the weights after them are the ones that diverged.
        loss: Their loss, not finite or above the bound; None if the weights themselves are not
            finite.
    """

    update: int
    loss: float | None


@dataclass(frozen=True)
class Refused:
    """The worker can't do what was asked; it ends without having trained.

    Attributes:
        why: What is in the way, for people.
        wants: What was asked for and can't be had: ``"device"``, ``"weights"`` or ``"net"``.
    """

    why: str
    wants: str = "weights"


@dataclass(frozen=True)
class Stopped:
    """The worker stopped on request; what it had is in the last snapshot."""

    update: int


@dataclass(frozen=True)
class Finished:
    """All updates are done, including the last test and snapshot."""

    update: int


WorkerEvent = (
    Started
    | Built
    | Updated
    | GradientNorms
    | Passed
    | SnapshotTaken
    | Diverged
    | Refused
    | Stopped
    | Finished
)


def read_worker_line(line: str) -> WorkerEvent:
    """The event of one line that the worker wrote.

    Raises:
        TrainingError: The line is not one of the worker's.
    """
    try:
        content = json.loads(line)
        kind = content.pop("event")
        if "device" in content:
            content["device"] = Device.parse(content["device"])
        if "choices" in content:
            content["choices"] = tuple(content["choices"])
        if "large_outputs" in content:
            content["large_outputs"] = tuple(map(tuple, content["large_outputs"]))
        if kind == "updated":
            records = tuple(LossRecord(*record) for record in content["records"])
            rank_s = tuple(content.get("rank_s", ()))
            return Updated(content["update"], content["seconds"], records, rank_s)
        simple = {
            "started": Started,
            "built": Built,
            "gradients": GradientNorms,
            "passed": Passed,
            "snapshot": SnapshotTaken,
            "diverged": Diverged,
            "refused": Refused,
            "stopped": Stopped,
            "finished": Finished,
        }
        event: WorkerEvent = simple[kind](**content)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise TrainingError(f"the worker wrote a line that isn't an event: {line!r}") from error
    return event


@dataclass(frozen=True)
class NetTestStarted:
    """A test begins.

    Attributes:
        update: Updates done.
        net: Number of the test net.
    """

    update: int
    net: int


@dataclass(frozen=True)
class NetTestOutput:
    """An output of the most recently started test: the mean over the test batches.

    Attributes:
        index: Number of the output.
        name: Name of the blob.
        value: Before its loss_weight is applied.
        is_loss: Whether it has a loss_weight.
    """

    index: int
    name: str
    value: float
    is_loss: bool


#: What only the engine's log says.
LogEvent = NetTestStarted | NetTestOutput

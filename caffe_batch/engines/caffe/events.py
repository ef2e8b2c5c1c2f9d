"""What a worker and its Caffe report, as data: worker lines and log lines become events.

Both readers are pure: a line in, an event or None out. The worker's side of the JSON lines is in
``inside/worker.py``; the wording of the log lines is Caffe's (solver.cpp, Test).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from caffe_batch.errors import TrainingError


@dataclass(frozen=True)
class Started:
    """Caffe is imported and the device is chosen.

    Attributes:
        caffe_version, python_version: As they call themselves.
        device: ``CPU`` or ``GPU 0``.
        choices: What the worker decided and why, one sentence each.
    """

    caffe_version: str
    python_version: str
    device: str
    choices: tuple[str, ...]


@dataclass(frozen=True)
class Built:
    """The nets are built; the first update is about to begin.

    Attributes:
        update: Updates done so far: 0, or those of the snapshot it goes on from.
        choices: What was decided on the way and why, one sentence each.
    """

    update: int
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class LossRecord:
    """The loss over the updates since the record before.

    Attributes:
        update: Updates done with the last one counted in (Caffe's iteration number plus 1: the
            loss is that of the weights before this update).
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
        records: Those that came up since the last such event.
    """

    update: int
    seconds: float
    records: tuple[LossRecord, ...]


@dataclass(frozen=True)
class GradientNorms:
    """The gradients of the micro-batches of one update (or of a group without an update).

    Attributes:
        update: Counted as in ``LossRecord``; the number of the group where nothing is updated.
        passes: Micro-batches.
        micro_norm_squared: Mean of the squared norms of their gradients.
        mean_norm_squared: Squared norm of their mean gradient.
    """

    update: int
    passes: int
    micro_norm_squared: float
    mean_norm_squared: float


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
        update: Updates done; it is the weights after them that are no good.
        loss: Their loss, not finite or above the bound; None if the weights themselves are not
            finite.
    """

    update: int
    loss: float | None


@dataclass(frozen=True)
class Refused:
    """The worker can't do what was asked; it ends without having trained."""

    why: str


@dataclass(frozen=True)
class Stopped:
    """The worker stopped on request; what it had is in the last snapshot."""

    update: int


@dataclass(frozen=True)
class Finished:
    """All updates are done, and the last test and snapshot with them."""

    update: int


WorkerEvent = (
    Started
    | Built
    | Updated
    | GradientNorms
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
        if "choices" in content:
            content["choices"] = tuple(content["choices"])
        if kind == "updated":
            records = tuple(LossRecord(*record) for record in content["records"])
            return Updated(content["update"], content["seconds"], records)
        simple = {
            "started": Started,
            "built": Built,
            "gradients": GradientNorms,
            "snapshot": SnapshotTaken,
            "diverged": Diverged,
            "refused": Refused,
            "stopped": Stopped,
            "finished": Finished,
        }
        event: WorkerEvent = simple[kind](**content)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise TrainingError(f"the worker wrote a line that is no event: {line!r}") from error
    return event


@dataclass(frozen=True)
class NetTestStarted:
    """``Iteration 500, Testing net (#0)``."""

    update: int
    net: int


@dataclass(frozen=True)
class NetTestOutput:
    """``Test net output #1: loss = 0.25 (* 1 = 0.25 loss)``: mean over the test batches.

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


LogEvent = NetTestStarted | NetTestOutput

_GLOG = r"[IWEF]\d{4}(?:\d{4})? \d{2}:\d{2}:\d{2}\.\d+\s+\d+ [^\s\]]+:\d+\] "
_TESTING = re.compile(_GLOG + r"Iteration (\d+), Testing net \(#(\d+)\)")
_OUTPUT = re.compile(_GLOG + r"    Test net output #(\d+): (.*) = (\S+)( \(\* \S+ = \S+ loss\))?")


def read_log_line(line: str) -> LogEvent | None:
    """The event of one line of Caffe's log, or None for all other lines.

    >>> read_log_line("I0412 09:00:00.123456    77 solver.cpp:347] Iteration 9, Testing net (#0)")
    NetTestStarted(update=9, net=0)
    """
    testing = _TESTING.fullmatch(line)
    if testing:
        return NetTestStarted(int(testing[1]), int(testing[2]))
    output = _OUTPUT.fullmatch(line)
    if output:
        return NetTestOutput(int(output[1]), output[2], float(output[3]), output[4] is not None)
    return None

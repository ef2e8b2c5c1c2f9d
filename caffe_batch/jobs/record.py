"""job.json: where a job stands, and every worker process that has run it.

The first format has no ``format``; its attempts have a ``phase``, which is the stage, and no
``engine``, which is Caffe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Any

from caffe_batch.device import Device
from caffe_batch.errors import Call, Option, Text
from caffe_batch.files import write_json
from caffe_batch.jobs.ending import EndReason
from caffe_batch.jobs.json_files import Fields, check_format, read_object
from caffe_batch.planning.precision import PRECISIONS, Precision

#: The newest format of job.json, and the one that is written.
RECORD_FORMAT = 2

_HINT: Text = [
    "Mend it; or move job.json out of the directory, and ",
    Call("`caffe-batch train DIR`", "Job(DIR).train()"),
    " continues from the newest snapshot (give the ",
    Option("weights"),
    " again if there is none so far).",
]


class JobState(str, Enum):
    """Where a job stands; the value is what job.json has."""

    RUNNING = "running"
    FINISHED = "finished"
    INTERRUPTED = "interrupted"
    FAILED = "failed"


@dataclass(frozen=True)
class Attempt:
    """One worker process of a job.

    Attributes:
        number: 1 for the first.
        started, ended: ISO 8601 in UTC; ``ended`` is None while it runs.
        runtime: Name of the runtime.
        pid: Process id of the worker, which is also its process group.
        threads: CPU threads that OpenBLAS was given.
        working_directory: Where relative paths of the net were looked up.
        resumed_from: The solverstate it continued from, or None from update 0.
        first_update: Updates done when it began.
        last_update: Updates done when it last reported.
        engine_version, python_version, device: What the worker said of itself; None before it said
            so.
        choices: What was decided for this run and why, one sentence each.
        ending: Why it ended, or None while it runs.
        detail: The same in words, with Caffe's own message.
        stage: Which stage of the plan it ran, 1 for the first.
        batch_size, iter_size: The split of the effective batch that it ran.
        predicted_bytes: What the plan says that Caffe asks for; None if it doesn't say.
        seen_bytes: The most memory that the worker was seen to use (see ``MemoryMeter``).
        rank_bytes: Of several ranks, what each of them used when that was last looked at.
        rank_s: Of several ranks, the seconds that each took for the passes of an update, lately.
        free_bytes: What was free on the GPU before it started; None on the CPU.
        engine: Name of the engine that trained.
        precision: How exactly it calculated.
        records: Records of each source that was looked at before it began, by its name in the
            net; None where nobody has looked.
        more: What else job.json says of it, written by other programs or versions.
    """

    number: int
    started: str
    runtime: str
    pid: int
    threads: int
    working_directory: str
    resumed_from: str | None
    first_update: int
    last_update: int
    engine_version: str | None = None
    python_version: str | None = None
    device: Device | None = None
    choices: tuple[str, ...] = ()
    ended: str | None = None
    ending: EndReason | None = None
    detail: str | None = None
    stage: int = 1
    batch_size: int | None = None
    iter_size: int | None = None
    predicted_bytes: int | None = None
    seen_bytes: int | None = None
    free_bytes: int | None = None
    engine: str = "caffe"
    precision: Precision = Precision.FLOAT32
    records: Mapping[str, int] | None = None
    rank_bytes: tuple[int, ...] = ()
    rank_s: tuple[float, ...] = ()
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class JobRecord:
    """What job.json holds.

    Attributes:
        state: Where the job stands. ``running`` without a living process: it was killed.
        updates: Updates to do in all: max_iter of the last stage's solver.
        updates_done: Updates done by the last attempt.
        host: Name of the machine.
        caffe_batch_version: The version that ran it.
        seed: The solver's random_seed, or None if Caffe drew one.
        attempts: Every worker process, first to last.
        weights: The .caffemodel files that the run starts with; none for the fillers' values.
        initial_state: The solverstate of another run that this one continues, or None.
        keep_best: The output of a test net by which the best snapshot is kept, or None.
        more: What else job.json says, written by other programs or versions.
    """

    state: JobState
    updates: int
    updates_done: int
    host: str
    caffe_batch_version: str
    seed: int | None
    attempts: tuple[Attempt, ...] = ()
    weights: tuple[str, ...] = ()
    initial_state: str | None = None
    keep_best: str | None = None
    more: Mapping[str, Any] = field(default_factory=dict)


def read_record(path: Path) -> JobRecord:
    """What a job.json says.

    Raises:
        NewerFormatError: It is of a newer format.
        InputError: It is no job record.
        OSError: It can't be read.
    """
    content = read_object(path, _HINT)
    check_format(content, RECORD_FORMAT)
    states = ", ".join(state.value for state in JobState)
    return JobRecord(
        state=content.choice("state", JobState, states),
        updates=content.integer("updates"),
        updates_done=content.integer("updates_done"),
        host=content.text("host"),
        caffe_batch_version=content.text("caffe_batch_version"),
        seed=content.maybe(content.integer, "seed"),
        attempts=tuple(map(_attempt, content.objects("attempts"))),
        weights=content.maybe(content.texts, "weights", ()),
        initial_state=content.maybe(content.text, "initial_state"),
        keep_best=content.maybe(content.text, "keep_best"),
        more=content.beside({"format", *(each.name for each in fields(JobRecord))}),
    )


def write_record(path: Path, record: JobRecord) -> None:
    """Replace a job.json."""
    content = _known(record)
    content["state"] = record.state.value
    content["attempts"] = [{**_known(each), **each.more} for each in record.attempts]
    write_json(path, {"format": RECORD_FORMAT, **content, **record.more})


def _known(value: JobRecord | Attempt) -> dict[str, Any]:
    """The fields that this version knows, in their order."""
    known = {each.name: getattr(value, each.name) for each in fields(value) if each.name != "more"}
    if isinstance(value, Attempt):
        known["device"] = None if value.device is None else str(value.device)
        known["ending"] = None if value.ending is None else value.ending.value
        known["precision"] = value.precision.value
        if not value.rank_s:
            del known["rank_bytes"], known["rank_s"]
    return known


def _stage_name(attempt: Fields) -> str:
    """The name of the stage's number: another one in the first format."""
    return "stage" if "stage" in attempt.content else "phase"


def _version_name(attempt: Fields) -> str:
    """The name of the engine's version: Caffe's own in the first format."""
    return "engine_version" if "engine_version" in attempt.content else "caffe_version"


def _attempt(content: Fields) -> Attempt:
    more = content.beside({"phase", *(each.name for each in fields(Attempt))})
    word = content.maybe(content.text, "ending")
    try:
        ending = None if word is None else EndReason(word)
    except ValueError:  # of a later version: kept as it is
        ending, more["ending"] = EndReason.UNKNOWN, word
    return Attempt(
        number=content.positive("number"),
        started=content.moment("started"),
        runtime=content.text("runtime"),
        pid=content.integer("pid"),
        threads=content.integer("threads"),
        working_directory=content.text("working_directory"),
        resumed_from=content.maybe(content.text, "resumed_from"),
        first_update=content.integer("first_update"),
        last_update=content.integer("last_update"),
        engine_version=content.maybe(content.text, _version_name(content)),
        python_version=content.maybe(content.text, "python_version"),
        device=content.maybe(
            lambda name: content.choice(name, Device.parse, "CPU, GPU 0, GPU 1, ..."), "device"
        ),
        choices=content.maybe(content.texts, "choices", ()),
        ended=content.maybe(content.moment, "ended"),
        ending=ending,
        detail=content.maybe(content.text, "detail"),
        stage=content.maybe(content.positive, _stage_name(content), 1),
        batch_size=content.maybe(content.positive, "batch_size"),
        iter_size=content.maybe(content.positive, "iter_size"),
        predicted_bytes=content.maybe(content.integer, "predicted_bytes"),
        seen_bytes=content.maybe(content.integer, "seen_bytes"),
        free_bytes=content.maybe(content.integer, "free_bytes"),
        engine=content.maybe(content.text, "engine", "caffe"),
        precision=content.maybe(
            lambda name: content.choice(name, Precision, PRECISIONS),
            "precision",
            Precision.FLOAT32,
        ),
        records=content.maybe(content.counts, "records"),
        rank_bytes=content.maybe(content.integers, "rank_bytes", ()),
        rank_s=content.maybe(content.several_seconds, "rank_s", ()),
        more=more,
    )

"""An interrupted run equals an uninterrupted one: the same samples, the same weights."""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from caffe_batch.engines.caffe import INSIDE
from caffe_batch.engines.caffe.data_position import FROM_FIRST_RECORD, DataStart, data_start
from caffe_batch.engines.caffe.snapshots import list_snapshots
from caffe_batch.errors import TrainingError
from caffe_batch.jobs.directory import JobDirectory
from caffe_batch.jobs.ending import Ending, EndReason
from caffe_batch.jobs.metrics import UpdateMetrics, read_metrics
from caffe_batch.jobs.stages import TrainingStage, past_tests, read_stages
from caffe_batch.layers.base import Phase
from caffe_batch.net.filtering import net_state, select
from caffe_batch.net.sources import Sources
from caffe_batch.prototxt import read_net
from caffe_batch.runtimes import Runtime
from caffe_batch.schema import caffe_pb2
from caffe_batch.training.resplit import split_smaller
from caffe_batch.training.supervisor import train
from tests.both_engines import runtime as runtime
from tests.planned_jobs import attempts_of, write_job
from tests.training.small_sources import HDF5, IMAGES, LEVELDB, LMDB, net, write_sources

SIGNALLED = Path(__file__).with_name("signalled_worker.py")

#: Bounds of the stages and their micro-batches; the second one ends in the middle of an epoch.
PHASES = [(9, 3), (17, 5), (23, 8)]


def job_over(
    folder: Path, kinds: Sequence[str], *, batch_size: int = 6, **fields: Any
) -> JobDirectory:
    folder.mkdir()
    sources = folder.parent / "sources"
    if not sources.exists():
        write_sources(sources)
    settings: dict[str, Any] = {
        "max_iter": 40, "snapshot": 4, "test_interval": 9, "test_iter": 3, "lr_policy": '"fixed"',
        "base_lr": 0.0003,
        **fields,
    }  # fmt: skip
    text = net(sources, list(kinds), batch_size, test_batch_size=4)
    return write_job(folder, net=text, batch_size=batch_size, **settings)


def stages(**fields: Any) -> dict[str, Any]:
    (end, iter_size), *later = PHASES
    own = [{"max_iter": end, "iter_size": iter_size} for end, iter_size in later]
    return {"max_iter": end, "iter_size": iter_size, "later": own, **fields}


def killed(
    job: JobDirectory, runtime: Runtime, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Train until the worker has done this many micro-batches, then kill it."""
    monkeypatch.setenv("SIGNALLED", f"{passes},SIGKILL")
    with pytest.raises(TrainingError, match="killed by SIGKILL"):
        train(job, runtime, script=SIGNALLED)
    monkeypatch.delenv("SIGNALLED")


def learned(job: JobDirectory) -> tuple[list[bytes], list[bytes]]:
    """The last weights and the solver's history, bit by bit."""
    last = list_snapshots(job.snapshots)[-1]
    net, state = caffe_pb2.NetParameter(), caffe_pb2.SolverState()
    net.ParseFromString(last.weights.read_bytes())
    state.ParseFromString(last.state.read_bytes())
    blobs = [blob for layer in net.layer for blob in layer.blobs]
    weights, history = (
        [array("f", blob.data).tobytes() for blob in found] for found in (blobs, state.history)
    )
    return weights, history


def measured(job: JobDirectory) -> list[dict[str, Any]]:
    """Everything but the time."""
    lines = [{**vars(line), "seconds": None} for line in read_metrics(job.metrics)]
    return sorted(lines, key=lambda line: ("output" in line, line["update"]))


@pytest.mark.parametrize(
    ("kills", "kinds", "fields"),
    [
        (3, ["lmdb", "leveldb", "hdf5", "images"], stages()),
        pytest.param(1, ["shuffled_hdf5", "lmdb"], {}, marks=pytest.mark.both),
        # The epochs of shuffled images are whole batches here.
        (1, ["shuffled_images"], {"batch_size": IMAGES, "iter_size": 1, "max_iter": 90}),
    ],
    ids=["sources in order, stages", "shuffled rows", "shuffled images"],
)
def test_kills_change_nothing(
    kills: int,
    kinds: list[str],
    fields: dict[str, Any],
    runtime: Runtime,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    straight = job_over(tmp_path / "straight", kinds, **fields)
    train(straight, runtime)
    job = job_over(tmp_path / "killed", kinds, **fields)
    draw = random.Random(f"{kinds} {fields}")
    for _ in range(kills):
        killed(job, runtime, draw.randrange(12, 27), monkeypatch)
    train(job, runtime)
    assert measured(job) == measured(straight)
    assert learned(job) == learned(straight)
    attempts = attempts_of(job)
    bounds = {0, *(end for end, _ in PHASES)}
    assert {attempt.first_update for attempt in attempts} - bounds
    assert "Random numbers" not in str(attempts)


def test_layers_of_unequal_batches(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a layer that reads 4 records a pass, one that reads 2 goes on at its own record."""
    fields = {"batch_size": 4, "iter_size": 3, "max_iter": 12, "snapshot": 2}
    kinds = ["lmdb", "images", "hdf5"]
    jobs = [job_over(tmp_path / name, kinds, **fields) for name in ("straight", "killed")]
    for job in jobs:
        path = job.path / "net.prototxt"
        text = path.read_text()
        for kind in ("images", "hdf5"):
            before, name, after = text.partition(f'name: "{kind}" ')  # the TRAIN layer is first
            text = before + name + after.replace("batch_size: 4", "batch_size: 2", 1)
        path.write_text(text)
        net = read_net(path)
        assert [
            max(layer.data_param.batch_size, layer.image_data_param.batch_size,
                layer.hdf5_data_param.batch_size)
            for layer in net.layer if layer.top[0] in kinds and layer.include[0].phase == 0
        ] == [4, 2, 2]  # fmt: skip
    straight, job = jobs
    train(straight, runtime)
    for passes in (13, 11):
        killed(job, runtime, passes, monkeypatch)
    train(job, runtime)
    assert [attempt.first_update for attempt in attempts_of(job)] == [0, 4, 6]
    assert measured(job) == measured(straight)
    assert learned(job) == learned(straight)


def test_images_shuffled_in_the_midst_of_an_epoch(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exact in the first epoch; later ones begin with the images of the batch that straddles."""
    fields = {"iter_size": 1, "max_iter": 11, "snapshot": 1, "test_interval": 100}
    straight = job_over(tmp_path / "straight", ["shuffled_images"], **fields)
    train(straight, runtime)
    job = job_over(tmp_path / "killed", ["shuffled_images"], **fields)
    killed(job, runtime, 4, monkeypatch)
    train(job, runtime)
    assert learned(job) == learned(straight)
    told, device = attempts_of(job)[-1].choices
    assert told == "Continuing from update 3 (tiny_iter_3.solverstate)."
    assert device.startswith("Training on the CPU: ")


def test_a_smaller_split_reads_on(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an out-of-memory: positions count samples, so the updates see the same ones."""
    kinds = ["lmdb", "leveldb", "hdf5", "images"]
    straight = job_over(tmp_path / "straight", kinds, max_iter=20)
    train(straight, runtime)
    job = job_over(tmp_path / "split", kinds, max_iter=20)
    killed(job, runtime, 20, monkeypatch)
    split_smaller(job, job.read_plan(), Ending(EndReason.HOST_MEMORY, "no memory", 1))
    train(job, runtime)
    last = attempts_of(job)[-1]
    assert (last.batch_size, last.iter_size) == (3, 6)
    assert 0 < last.first_update < 20
    assert last.first_update * 18 % LMDB  # in the middle of an epoch
    updates = [
        [line for line in read_metrics(each.metrics) if isinstance(line, UpdateMetrics)]
        for each in (job, straight)
    ]
    assert [line.update for line in updates[0]] == list(range(1, 21))
    for mine, theirs in zip(*updates, strict=True):
        assert mine.loss == pytest.approx(theirs.loss, rel=1e-5)


def stage(number: int, first: int, end: int, **fields: Any) -> TrainingStage:
    solver = caffe_pb2.SolverParameter(max_iter=end, **fields)
    return TrainingStage(number, Path(), solver, 18, first, first * 18)


@pytest.mark.parametrize(
    ("update", "initial", "tests"),
    [(0, True, 0), (1, True, 1), (10, True, 1), (11, True, 2), (20, True, 2), (30, True, 2),
     (1, False, 0), (10, False, 0), (11, False, 1), (30, False, 1)],
)  # fmt: skip
def test_tests_of_a_stage(update: int, initial: bool, tests: int) -> None:
    own = stage(1, 0, 20, test_interval=10, test_initialization=initial)
    assert own.tests_before(update) == tests


@pytest.mark.parametrize(
    ("update", "tests"), [(20, 0), (21, 1), (25, 1), (26, 2), (34, 3), (99, 3)]
)
def test_tests_of_a_later_stage(update: int, tests: int) -> None:
    own = stage(2, 20, 34, test_interval=5, test_initialization=False)
    assert own.tests_before(update) == tests
    assert stage(2, 20, 34).tests_before(update) == 0


def test_a_test_at_a_bound_counts_once() -> None:
    once = stage(1, 0, 20, test_interval=10)
    for interval, tests in [(5, (2, 3)), (7, (3, 2))]:  # 20 again, 25, 30; 21, 28
        both = (once, stage(2, 20, 34, test_interval=interval))
        assert past_tests(both, 34) == tests
        assert past_tests(both, 19) == (2, 0)
    assert past_tests((once, stage(2, 20, 34, test_interval=7)), 20) == (3, 0)


@pytest.fixture
def planned(tmp_path: Path) -> JobDirectory:
    kinds = ["lmdb", "leveldb", "hdf5", "images", "shuffled_images", "shuffled_hdf5"]
    return job_over(tmp_path / "job", kinds)


def start_of(job: JobDirectory, update: int) -> DataStart:
    return data_start(read_stages(job.read_plan()), update, Sources())


def test_where_each_layer_continues(planned: JobDirectory, tmp_path: Path) -> None:
    start = start_of(planned, 40)
    seen, tested = 40 * 18, 5 * 3 * 4  # tests at 0, 9, 18, 27 and 36
    settings = start.settings(tmp_path / "nets")
    epochs, rest = divmod(seen, IMAGES)
    assert settings["go_on"] == {
        "Data": [seen % LMDB, seen % LEVELDB, tested % LMDB, tested % LEVELDB],
        "HDF5Data": [
            seen % HDF5,
            seen,
            tested % HDF5,
            tested % HDF5,
        ],
        "ImageData": [0, epochs, 0, 0],
    }
    assert settings["read"] == [(0, "shuffled_images", rest // 6)]
    assert start.notes == (
        f"Layer 'shuffled_images' reads {rest % 6} of its shuffled images once more.",
    )
    nets = settings["nets"]
    assert isinstance(nets, dict)
    images = (tmp_path / "sources" / "images").read_text()
    assert image_lists(nets["train"], "TRAIN") == {
        "images": turned(images, seen % IMAGES), "shuffled_images": images,
    }  # fmt: skip
    tested_on = turned(images, tested % IMAGES)
    assert image_lists(nets["tests"][0], "TEST") == {
        "images": tested_on, "shuffled_images": tested_on,
    }  # fmt: skip


def turned(text: str, at: int) -> str:
    lines = text.splitlines(keepends=True)
    return "".join(lines[at:] + lines[:at])


def image_lists(path: str, phase: Phase) -> dict[str, str]:
    """The text of the image lists that a net of this phase reads, by layer."""
    message = read_net(path)
    layers = select(message.layer, net_state(phase, message))
    return {
        layer.name: Path(layer.image_data_param.source).read_text()
        for _, layer in layers
        if layer.type == "ImageData"
    }


def test_no_files_where_no_list_is_turned(tmp_path: Path) -> None:
    job = job_over(tmp_path / "job", ["lmdb"])
    assert start_of(job, 7).settings(tmp_path / "nets") == {
        "go_on": {"Data": [7 * 18 % LMDB, 12]}, "read": [], "nets": None,
    }  # fmt: skip
    assert start_of(job, 0).settings(tmp_path / "nets") == FROM_FIRST_RECORD


NOTED = """
layer {{ name: "windows" type: "WindowData" top: "data" top: "label" include {{ phase: TRAIN }} }}
layer {{
  name: "pictures" type: "Data" top: "more" include {{ phase: TRAIN }}
  data_param {{ source: "/no/such" batch_size: 6 backend: LMDB }} transform_param {{ {transform} }}
}}
layer {{ name: "drop" type: "Dropout" bottom: "data" top: "drop" }}
layer {{ name: "lstm" type: "LSTM" bottom: "drop" bottom: "more" top: "lstm" }}
"""


@pytest.mark.parametrize(
    ("transform", "random"),
    [("mirror: true", "'windows', 'pictures', 'drop'"), ("crop_size: 4", "'pictures'"),
     ("scale: 0.5", "'windows', 'drop'")],
)  # fmt: skip
def test_what_snapshots_do_not_hold_is_reported(
    transform: str, random: str, tmp_path: Path
) -> None:
    job = write_job(tmp_path, net=NOTED.format(transform=transform), test_iter=1)
    job.solver.write_text(job.solver.read_text().replace("test_iter: 1\n", ""))
    drawn, remembered = start_of(job, 7).notes
    assert drawn.startswith("Random numbers are drawn anew")
    assert random in drawn
    assert "'lstm' kept from the pass before" in remembered


def test_a_recurrent_layer_whose_state_is_its_input_loses_nothing(tmp_path: Path) -> None:
    """With expose_hidden the first state is a bottom (recurrent_layer.cpp, Forward)."""
    exposed = NOTED.replace(
        'top: "lstm" }}',
        'bottom: "h0" bottom: "c0" top: "lstm" top: "hT" top: "cT" '
        "recurrent_param {{ expose_hidden: true }} }}",
    )
    job = write_job(tmp_path, net=exposed.format(transform="scale: 0.5"), test_iter=1)
    job.solver.write_text(job.solver.read_text().replace("test_iter: 1\n", ""))
    (drawn,) = start_of(job, 7).notes
    assert drawn.startswith("Random numbers are drawn anew")


def test_images_in_an_order_that_nobody_knows(tmp_path: Path) -> None:
    job = job_over(tmp_path / "job", ["shuffled_images"], random_seed=-1)
    start = start_of(job, 7)
    assert start.settings(tmp_path / "nets")["go_on"] == {}
    assert start.notes == (
        "Layer 'shuffled_images' starts its images in a new random order (shuffle, and the solver "
        "has no random_seed).",
    )


SEEKER = """
import sys
sys.path.insert(0, sys.argv[1])
from record_seeker import RecordSeeker
class Other:
    __version__ = "1.0.0-rc5"
with RecordSeeker(Other, {}).active():
    pass
try:
    RecordSeeker(Other, {"Data": [1]})
except LookupError as error:
    print(error)
"""


def test_other_versions_are_left_alone(pycaffe: Callable[..., str]) -> None:
    """Their data layers are set up on other threads."""
    assert pycaffe(SEEKER, str(INSIDE)) == "this is Caffe 1.0.0-rc5, not 1.0.0\n"

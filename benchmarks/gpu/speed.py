"""The time of an update by batch_size, at a constant effective batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu import nvml
from benchmarks.gpu.bench import Bench, Part
from benchmarks.gpu.memory import predicted
from benchmarks.gpu.trainer import training
from caffe_batch import prototxt
from caffe_batch.runtimes.reserve import default_reserve
from caffe_batch.schema import caffe_pb2
from tools.count_gpu_memory.nets import WholeNet, own_nets

#: How often each split is timed, in rounds that go through all splits.
ROUNDS, TURNS, UPDATES = 2, 3, 2


@dataclass(frozen=True)
class Series:
    """A net, and the batch sizes of one effective batch."""

    net: str
    effective_batch: int
    batch_sizes: tuple[int, ...]


SERIES = (
    Series("digits", 256, (256, 128, 64, 32, 16, 8)),
    Series("cifar10", 100, (100, 50, 25, 10, 5)),
    Series("caffenet", 256, (256, 128, 64, 32, 16, 8)),
    Series("resnet50", 32, (32, 16, 8, 4, 2)),
)


def series(quick: bool) -> tuple[Series, ...]:
    """What is measured; with ``quick``, only the small nets."""
    return SERIES[:2] if quick else SERIES


def without_data(
    net: caffe_pb2.NetParameter, record: tuple[int, int, int], batch_size: int
) -> caffe_pb2.NetParameter:
    """The TRAIN net with constant numbers in place of its records, so that nothing is read.

    Args:
        net: A net whose data layers are of type Data.
        record: Channels, height and width of a record.
        batch_size: Samples per micro-batch.
    """
    made = caffe_pb2.NetParameter()
    made.CopyFrom(net)
    del made.layer[:]
    for layer in net.layer:
        if any(rule.phase == caffe_pb2.TEST for rule in layer.include):
            continue
        if layer.type != "Data":
            made.layer.add().CopyFrom(layer)
            continue
        channels, height, width = record
        crop = layer.transform_param.crop_size
        dummy = made.layer.add(name=layer.name, type="DummyData", top=layer.top)
        size = (batch_size, channels, crop or height, crop or width)
        for shape in (size, (batch_size,))[: len(layer.top)]:
            dummy.dummy_data_param.shape.add(dim=shape)
    return made


def write_job(net: WholeNet, batch_size: int, iter_size: int, folder: Path) -> None:
    """Writes a job without tests and data."""
    solver_text, net_text = net.files
    solver = prototxt.parse_solver(solver_text)
    for field in ("train_net", "test_net", "test_iter", "test_interval", "snapshot", "display",
                  "snapshot_prefix", "test_initialization"):  # fmt: skip
        solver.ClearField(field)
    solver.net, solver.iter_size = "net.prototxt", iter_size
    made = without_data(prototxt.parse_net(net_text), net.record, batch_size)
    folder.mkdir()
    (folder / "net.prototxt").write_text(prototxt.write(made))
    (folder / "solver.prototxt").write_text(prototxt.write(solver))


def lines(quick: bool) -> list[str]:
    """What would be measured."""
    return [
        f"{each.net}, effective batch {each.effective_batch}: batch_size"
        f" {', '.join(map(str, each.batch_sizes))}"
        for each in series(quick)
    ]


def rows_of(seconds: dict[int, list[float]], effective_batch: int) -> Iterator[dict[str, Any]]:
    """A row for each batch size: its best time, and the ratio of that to the largest batch's.

    >>> [row["by_largest"] for row in rows_of({8: [2.0, 2.5], 4: [3.0]}, 8)]
    [1.0, 1.5]
    """
    best = {size: min(times) for size, times in seconds.items()}
    largest = best[max(best)]
    for size, time in best.items():
        yield {
            "batch_size": size,
            "iter_size": effective_batch // size,
            "update_s": round(time, 6),
            "samples_per_s": round(effective_batch / time, 1),
            "by_largest": round(time / largest, 3),
            "all_s": [round(each, 6) for each in seconds[size]],
        }


def time_series(
    bench: Bench, net: WholeNet, wanted: Series, limit: int, folder: Path
) -> dict[str, Any]:
    """Times the splits of a series, round by round, except those that need over ``limit`` bytes.

    Args:
        bench: Where to measure.
        net: The net of the series.
        wanted: The batch sizes.
        limit: Bytes that Caffe may ask for.
        folder: A new folder for the jobs.
    """
    folder.mkdir()
    seconds: dict[int, list[float]] = {}
    for size in wanted.batch_sizes:
        job = folder / str(size)
        write_job(net, size, wanted.effective_batch // size, job)
        if predicted(job).allocated_bytes <= limit:
            seconds[size] = []
    for _ in range(ROUNDS):
        for size, times in seconds.items():
            job = folder / str(size)
            with training(bench, job, warm_up=2, turns=TURNS, updates=UPDATES) as trained:
                times += [each / UPDATES for each in trained.seconds]
    return {
        "net": net.name,
        "effective_batch": wanted.effective_batch,
        "too_large": [size for size in wanted.batch_sizes if size not in seconds],
        "splits": list(rows_of(seconds, wanted.effective_batch)) if seconds else [],
    }


def measure(bench: Bench, folder: Path) -> dict[str, Any]:
    """Times all series."""
    known = {net.name: net for net in own_nets()}
    found = []
    for each in series(bench.quick):
        with nvml.device(bench.gpu) as device:
            limit = device.free_bytes() - default_reserve(bench.gpu).bytes
        found.append(time_series(bench, known[each.net], each, limit, folder / each.net))
        print(found[-1], flush=True)
    return {
        "passed": all(each["splits"] for each in found),
        "data": "constant numbers that stay on the GPU, in place of records",
        "best_of": ROUNDS * TURNS,
        "series": found,
    }


PART = Part("speed", "the time of an update against batch_size", (10, 2), lines, measure)

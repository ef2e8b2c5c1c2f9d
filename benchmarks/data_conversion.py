"""Pictures into LMDBs: `caffe-batch data` beside Caffe's own convert_imageset, in one run.

    python benchmarks/data_conversion.py [--pictures 4000] [--work FOLDER] [--repeat 3]

writes JPEG pictures of 500x375 (as large as ImageNet's typical ones), converts them to 256x256 with
both programs in turn, and prints pictures per minute (by the clock, and of one processor's time),
the ratio, and how many pixels differ. convert_imageset is that of Debian 11's package `caffe`,
downloaded with apt and run with the libraries of the installed runtime; it uses one thread, as it
always does. The work folder is kept if it is named, and its pictures are used again.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import lmdb
import numpy as np
from PIL import Image

from caffe_batch import runtimes
from caffe_batch.runtimes import apt, debian, store
from caffe_batch.runtimes.installation import this_architecture
from caffe_batch.schema import caffe_pb2

CLASSES = 10
SIZE = 256
PACKAGE = "caffe"


def write_pictures(folder: Path, number: int) -> None:
    """Pictures with edges, gradients and some noise, so that a decoder has its usual work."""
    draws = np.random.default_rng(1)
    for index in range(number):
        path = folder / f"class{index % CLASSES}" / f"{index:06d}.jpg"
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = draws.integers(0, 256, (12, 16, 3), np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC))
        noise = draws.integers(-12, 13, smooth.shape)
        pixels = np.clip(smooth.astype(np.int16) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(path, quality=90)


def get_convert_imageset(folder: Path) -> list[str]:
    """The command line that starts it."""
    program = folder / "usr" / "bin" / "convert_imageset"
    found = store.installed().get(store.DEFAULT_NAME)
    if found is None:
        sys.exit("`caffe-batch runtime install` first")
    if not program.exists():
        archive = apt.Archive(found.record.mirror, debian.SUITE, this_architecture().debian)
        with tempfile.TemporaryDirectory() as scratch, (Path(scratch) / "lock").open("w") as lock:
            (Path(scratch) / "apt").mkdir()
            packages = apt.download(
                archive, [PACKAGE], Path(scratch) / "apt", lock.fileno(), lambda step, share: None
            )
            own = next(path for path in packages if path.name.startswith(f"{PACKAGE}_"))
            subprocess.run(["dpkg-deb", "--extract", own, folder], check=True)
    runtime = runtimes.find(store.DEFAULT_NAME)
    loader, option, libraries, *_ = runtime.command([])
    return [loader, option, libraries, str(program)]


def timed(command: list[str]) -> tuple[float, float]:
    """Seconds by the clock, and seconds of processor time of the program and its children."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    clock, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return clock, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def records(path: Path) -> Iterator[tuple[bytes, caffe_pb2.Datum]]:
    with (
        lmdb.open(str(path), readonly=True, lock=False) as environment,
        environment.begin() as transaction,
    ):
        for key, value in transaction.cursor():
            yield key, caffe_pb2.Datum.FromString(value)


def differing(one: Path, other: Path) -> tuple[int, int, int]:
    """Pixels that differ, all pixels, and the largest difference between two LMDBs."""
    different = total = largest = 0
    for (key, value), (other_key, other_value) in zip(records(one), records(other), strict=True):
        if key != other_key or value.label != other_value.label:
            sys.exit(f"records differ: {key!r} and {other_key!r}")
        ours, theirs = (
            np.frombuffer(datum.data, np.uint8).astype(np.int16) for datum in (value, other_value)
        )
        distance = np.abs(ours - theirs)
        different += int(np.count_nonzero(distance))
        total += distance.size
        largest = max(largest, int(distance.max()))
    return different, total, largest


def main() -> None:
    parser = argparse.ArgumentParser(description="Conversion speed beside convert_imageset.")
    parser.add_argument("--pictures", type=int, default=4000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--work", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = given.work or Path(scratch)
        pictures = work / "pictures"
        write_pictures(pictures, given.pictures)
        names = sorted(str(path.relative_to(pictures)) for path in pictures.rglob("*.jpg"))
        names = names[: given.pictures]
        listing = work / "list.txt"
        listing.write_text("".join(f"{name} {name[5]}\n" for name in names))
        theirs = get_convert_imageset(work / "tools")
        ours = [sys.executable, "-m", "caffe_batch", "data", str(listing), "--root", str(pictures)]
        ours += ["--resize", str(SIZE), "--no-shuffle", "--test-share", "0", "--out"]
        theirs += [
            f"--resize_height={SIZE}",
            f"--resize_width={SIZE}",
            f"{pictures}/",
            str(listing),
        ]
        print(f"{len(names):,} pictures, {len(os.sched_getaffinity(0))} processors")
        for _ in range(given.repeat):
            seconds = []
            for command, out in ((theirs, work / "theirs"), (ours, work / "ours")):
                shutil.rmtree(out, ignore_errors=True)
                seconds.append(timed([*command, str(out)]))
            (theirs_s, theirs_cpu_s), (ours_s, ours_cpu_s) = seconds
            for name, clock_s, cpu_s in (
                ("convert_imageset", theirs_s, theirs_cpu_s),
                ("caffe-batch data", ours_s, ours_cpu_s),
            ):
                print(
                    f"{name}: {60 * len(names) / clock_s:,.0f} a minute, "
                    f"{60 * len(names) / cpu_s:,.0f} per minute of a processor"
                )
            print(f"ratio: {theirs_s / ours_s:.2f} by the clock, {theirs_cpu_s / ours_cpu_s:.2f}")
        different, total, largest = differing(work / "ours" / "train_lmdb", work / "theirs")
        print(f"{different:,} of {total:,} values differ, by at most {largest}")


if __name__ == "__main__":
    main()

"""A worker without Caffe that misbehaves on demand: FAKE_WORKER says how."""

import json
import os
import re
import signal
import sys
import time
from pathlib import Path

from caffe_batch.schema import caffe_pb2

settings = json.loads(sys.argv[1])


def send(event: str, **content: object) -> None:
    line = json.dumps({"event": event, **content}) + "\n"
    os.write(settings["events"], line.encode())


def start() -> None:
    send("started", engine_version="0", python_version="0", device="GPU 0", choices=[])
    send("built", update=0)
    send("updated", update=3, seconds=0.5, records=[[3, 1.25, 0.5]])


def log(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def out_of_gpu_memory() -> None:
    """As a GPU build of Caffe ends when cudaMalloc fails (syncedmem.cpp, device_alternate.hpp)."""
    start()
    log(
        "F0412 09:00:00.123456    77 syncedmem.cpp:71] Check failed: error == cudaSuccess "
        "(2 vs. 0)  out of memory\n*** Check failure stack trace: ***\n"
        "    @     0x7f1c2d5a50cd  google::LogMessage::Fail()"
    )
    os.abort()


def small_gpu() -> None:
    """A GPU that holds micro-batches of FAKE_ROOM samples."""
    folder = Path(settings["solver"]).parent
    solver = Path(settings["solver"]).read_text()
    net = folder / Path(re.findall(r'^net: "(.*)"', solver, re.MULTILINE)[0]).name
    if int(re.findall(r"batch_size: (\d+)", net.read_text())[0]) > int(os.environ["FAKE_ROOM"]):
        out_of_gpu_memory()
    start()
    update = int(re.findall(r"max_iter: (\d+)", solver)[0])
    state = caffe_pb2.SolverState(iter=update, current_step=0)
    stem = Path(settings["snapshots"]) / f"tiny_iter_{update}"
    stem.with_suffix(".caffemodel").write_bytes(
        caffe_pb2.NetParameter(name="x").SerializeToString()
    )
    stem.with_suffix(".solverstate").write_bytes(state.SerializeToString())
    send("updated", update=update, seconds=1.0, records=[])
    send("finished", update=update)


def hang() -> None:
    """Deaf to everything but SIGKILL."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    start()
    log("I am busy")
    while True:
        time.sleep(60)


def killed() -> None:
    start()
    os.kill(os.getpid(), signal.SIGKILL)


def leave() -> None:
    start()


def garble() -> None:
    os.write(settings["events"], b"loss = 0.5\n")
    time.sleep(60)


def burst() -> None:
    """More last words than a pipe holds."""
    start()
    records = [[update, 1.0 / update, 0.0] for update in range(4, 10_001)]
    send("updated", update=10_000, seconds=1.0, records=records)
    send("finished", update=10_000)


globals()[os.environ["FAKE_WORKER"]]()

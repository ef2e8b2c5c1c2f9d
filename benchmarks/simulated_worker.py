"""A worker that trains nothing, but reports and logs a long run as the real worker and Caffe do.

Started by the supervisor for supervisor_memory.py.
"""

import json
import os
import re
import sys
import time
from pathlib import Path

DISPLAY, TEST, SNAPSHOT, REPORT = 20, 1000, 10_000, 5000
#: About three times as fast as the fastest nets.
UPDATES_PER_S = 40_000

settings = json.loads(sys.argv[1])
updates = int(re.findall(r"max_iter: (\d+)", Path(settings["solver"]).read_text())[0])


def send(event: str, **content: object) -> None:
    line = (json.dumps({"event": event, **content}) + "\n").encode()
    while line:
        line = line[os.write(settings["events"], line) :]


def log(text: str) -> None:
    sys.stderr.write(f"I1124 11:40:33.123456  4242 solver.cpp:239] {text}\n")


send("started", engine_version="1.0.0", python_version="3.9.2", device="CPU", choices=[])
send("built", update=0)
records = []
started = time.monotonic()
for update in range(1, updates + 1):
    loss, seconds = 2.3 - update / updates, update * 1e-4
    if update % DISPLAY == 0:
        log(f"Iteration {update} (9871.23 iter/s, 0.002s/20 iters), loss = {loss:.6g}")
        log(f"    Train net output #0: loss = {loss:.6g} (* 1 = {loss:.6g} loss)")
        log(f"Iteration {update}, lr = 0.01")
    if update % TEST == 0:
        log(f"Iteration {update}, Testing net (#0)")
        log("    Test net output #0: accuracy = 0.5")
        log(f"    Test net output #1: loss = {loss:.6g} (* 1 = {loss:.6g} loss)")
    if update % settings["record_every"] == 0:
        records.append((update, loss, seconds))
    if update % REPORT == 0 or update == updates:
        send("updated", update=update, seconds=seconds, records=records)
        records = []
        time.sleep(max(0.0, update / UPDATES_PER_S - (time.monotonic() - started)))
    if update % SNAPSHOT == 0:
        state = f"{settings['snapshots']}/tiny_iter_{update}.solverstate"
        send("snapshot", update=update, state=state)
send("finished", update=updates)

"""Trains a job for some updates in GPU mode, in the runtime's own Python, and is looked at.

    python train_worker.py SETTINGS

SETTINGS is a JSON object: solver (a file, or null to make no net), directory (where paths in the
net start), mode ("cpu" or "gpu"), gpu, and turns (updates to time, a number for each turn). Prints
a line of JSON: the seconds of each turn. Then it keeps what it has of the GPU until standard input
closes. Where Caffe aborts, no line is printed. Runs on Python 3.6 and newer.
"""

import json
import os
import sys
import time


def main(settings):
    os.chdir(settings["directory"])
    import caffe

    if settings["mode"] == "gpu":
        caffe.set_device(settings["gpu"])
        caffe.set_mode_gpu()
    else:
        caffe.set_mode_cpu()
    seconds = []
    if settings["solver"] is not None:
        solver = caffe.get_solver(settings["solver"])
        weights = next(iter(solver.net.params.values()))[0]
        for updates in settings["turns"]:
            start = time.perf_counter()
            solver.step(updates)
            weights.data.sum()  # comes from the GPU once all is done there
            seconds.append(time.perf_counter() - start)
    print(json.dumps({"seconds": seconds}), flush=True)
    sys.stdin.read()
    os._exit(0)  # without waiting for prefetch threads


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

"""Trains a net on pycaffe, some updates at a time, for benchmarks/engines.py.

    python caffe_worker.py SOLVER INPUTS

INPUTS is an .npz with what goes into the input blobs. Each line on stdin is a number of updates;
the answer is a JSON object with the seconds that they took and the loss after them. Runs in the
runtime's own Python (3.6 or newer).
"""

import json
import os
import resource
import sys
import time

import caffe
import numpy as np


def processor_s():
    """The processor time of all threads so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main():
    caffe.set_mode_cpu()
    solver = caffe.get_solver(sys.argv[1])
    given = np.load(sys.argv[2])
    for name in given:
        solver.net.blobs[name].data[...] = given[name]
    answers = os.fdopen(os.dup(1), "w", 1)
    for line in sys.stdin:
        wall, processor = time.perf_counter(), processor_s()
        solver.step(int(line))
        found = {
            "wall_s": time.perf_counter() - wall,
            "processor_s": processor_s() - processor,
            "loss": float(solver.net.blobs["loss"].data),
        }
        answers.write(json.dumps(found) + "\n")


main()

# mypy: ignore-errors
# (caffe has no types.)
"""Trains for a few updates, says how long they took, and keeps its memory; started by trainer.py.

    python train_worker.py MODE SOLVER WARM_UP TURNS UPDATES

MODE is "cpu" or "gpu" (the first one that CUDA shows). WARM_UP updates, then TURNS times UPDATES
updates. Prints a line of JSON with "pid" and the "seconds" of each turn, and lives until its stdin
is closed.

This file runs on Python 3.6 and newer and needs nothing but caffe.
"""

import json
import os
import sys
import time


def finish(net):
    """Waits for the GPU: reading the last parameter waits for everything started before."""
    return float(list(net.params.values())[-1][-1].data.flat[0])


def main(mode, solver_file, warm_up, turns, updates):
    import resource

    import caffe

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if mode == "gpu":
        caffe.set_device(0)
        caffe.set_mode_gpu()
    else:
        caffe.set_mode_cpu()
    solver = caffe.get_solver(solver_file)
    solver.step(warm_up)
    seconds = []
    for _ in range(turns):
        finish(solver.net)
        start = time.perf_counter()
        solver.step(updates)
        finish(solver.net)
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"pid": os.getpid(), "seconds": seconds}), flush=True)
    sys.stdin.read()
    os._exit(0)  # without waiting for prefetch threads


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:]))

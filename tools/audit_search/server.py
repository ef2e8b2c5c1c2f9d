"""Measures one training a line: runs in the runtime's Python, which has imported caffe.

    python server.py SCRIPT

SCRIPT is the engine's verify.py. Each line of stdin is a JSON object: "settings" as the script
takes them, without "events"; "cwd"; and "log" for the outputs. A forked child runs all variants,
one after the other; its exit status goes to stdout.
"""

import ctypes
import json
import os
import resource
import sys
import traceback
import types

import caffe
import numpy as np

#: Trainings of one child.
MOST = 25
#: Its exit status where another one is to go on.
GOES_ON = 42


def direct(work, caffe, settings, variant):
    """In place of in_child: in this process, which a failed check of Caffe ends.

    HDF5Data shuffles with the C library's numbers, which a new process begins anew.
    """
    ctypes.CDLL(None).srand(1)
    work(caffe, settings, variant)
    return 0


class Kept(dict):
    """Arrays by name, as np.load gives them."""

    files = property(list)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


def in_memory():
    """numpy, but what is saved stays in this process: files cost more than the nets."""
    kept = {}

    def savez(path, *arrays, **named):
        numbered = {"arr_" + str(number): array for number, array in enumerate(arrays)}
        kept[path] = Kept((n, np.array(a)) for n, a in dict(numbered, **named).items())
        open(path, "w").close()

    numpy = types.ModuleType("numpy")
    numpy.__dict__.update(np.__dict__)
    numpy.savez, numpy.load = savez, kept.__getitem__
    return numpy


def once(draw):
    """Draws the numbers of a blob once for all variants."""
    drawn = {}

    def cached(feed, number, update):
        key = (feed["top"], number, update)
        if key not in drawn:
            drawn[key] = draw(feed, number, update)
        return drawn[key]

    return cached


def jolted(start):
    """Starts a run; where the variant asks for it, its weights and samples are moved a little."""

    def started(caffe, solver_file, settings, variant):
        run = start(caffe, solver_file, settings, variant)
        if "jolt" in variant:
            by, seed = variant["jolt"]
            random = np.random.RandomState(seed)

            def moved(values):
                return values * (1 + by * random.standard_normal(np.shape(values)))

            for _, _, blob in run.blobs():
                blob.data[...] = moved(blob.data)

            def jolt(layer):
                """As the rounding of a layer: all that it gives, but for whole numbers."""
                for blob in (run.net._blobs[top] for top in run.net._top_ids(layer)):
                    if (blob.data != np.round(blob.data)).any():
                        blob.data[...] = moved(blob.data)

            def jolt_back(layer):
                """The same for the gradients that a layer hands on."""
                for blob in (run.net._blobs[bottom] for bottom in run.net._bottom_ids(layer)):
                    blob.diff[...] = moved(blob.diff)

            run.net.after_forward(jolt)
            run.net.after_backward(jolt_back)
        return run

    return started


def nothing(*given):
    """In place of what is done once."""


def measured(worker, draw, request):
    """Measures one training in this process; its exit status."""
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    os.chdir(request["cwd"])
    worker["np"], worker["draw"] = in_memory(), once(draw)
    nobody = os.open(os.devnull, os.O_WRONLY)  # listens to its events
    try:
        worker["main"](dict(request["settings"], events=nobody))
        return 0
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        os.close(nobody)
        caffe.init_log = nothing  # once a process
        sys.stdout.flush()
        sys.stderr.flush()


def serve(worker, answers):
    """Measures one training a line in this (forked) process, and never returns.

    A new process takes over after MOST trainings, after an error, and where one is asked for.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    draw, path = worker["draw"], list(sys.path)
    for _ in range(MOST):
        line = sys.stdin.readline()
        if not line:
            os._exit(0)
        request = json.loads(line)
        sys.path[:] = path  # the worker looks in its working directory as well
        ends = "settings" not in request
        status = 0 if ends else measured(worker, draw, request)
        answers.write(str(status) + "\n")
        answers.flush()
        if status or ends:
            break
    os._exit(GOES_ON)


def main(path):
    sys.path.insert(0, os.path.dirname(path))  # what it imports lies beside it
    worker = {"__name__": "verify", "__file__": path}
    with open(path) as file:
        exec(compile(file.read(), path, "exec"), worker)  # noqa: S102  # its own file
    worker["in_child"], worker["start"] = direct, jolted(worker["start"])
    caffe.set_mode_cpu()
    answers = os.fdopen(os.dup(1), "w")
    while True:
        child = os.fork()
        if child == 0:
            serve(worker, answers)
        status = os.waitpid(child, 0)[1]
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == GOES_ON:
            continue
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
            return
        answers.write("134\n")  # Caffe has aborted it
        answers.flush()


if __name__ == "__main__":
    main(sys.argv[1])

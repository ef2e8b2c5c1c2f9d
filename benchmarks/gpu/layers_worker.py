# mypy: ignore-errors
# (caffe has no types.)
"""Runs one-layer nets forward and backward and saves all numbers; started by layers.py.

    python layers_worker.py CASES MODE FOLDER

CASES is a JSON file, a list of objects:

    name     of the case
    net      text of the net: a layer "l" that reads the blobs "b0", "b1", ...
    phase    TRAIN or TEST
    bottoms  an object for each bottom: "kind" (see draw), "shape", "below"
    params   the kind of numbers in the parameters
    backward whether there is a gradient

MODE is "cpu" or "gpu" (the first one that CUDA shows). For each case FOLDER/NUMBER.npz gets the
arrays "top NAME" (data), "bottom NAME" (diff), "param NUMBER" (diff) and "value NUMBER" (data of
the parameter after the forward pass). Each case runs in its own child process, since Caffe aborts
when a check fails; its log is FOLDER/NUMBER.log.

All numbers come from numpy's legacy RandomState, whose streams are frozen: every build of Caffe
gets the same ones. This file runs on Python 3.6 and newer and needs nothing but caffe and numpy.
"""

import json
import os
import sys
import traceback

import numpy as np


def draw(random, kind, shape, below=0):
    """The numbers for one blob."""
    if kind == "normal":
        return random.standard_normal(shape)
    if kind == "positive":
        return random.uniform(0.5, 1.5, shape)
    if kind == "index":  # integers below a limit
        return random.randint(below, size=shape)
    if kind == "sign":  # 1 and -1
        return random.randint(2, size=shape) * 2 - 1
    if kind == "begin":  # each stream begins, and the first one once more
        values = np.ones(shape)
        values[0] = 0
        values[shape[0] // 2, 0] = 0
        return values
    if kind == "distribution":  # along axis 1
        values = random.uniform(0.5, 1.5, shape)
        return values / values.sum(axis=1, keepdims=True)
    raise ValueError(kind)


def compute(caffe, case, folder, number):
    """The arrays that a case produces."""
    path = os.path.join(folder, f"{number}.prototxt")
    with open(path, "w") as file:
        file.write(case["net"])
    net = caffe.Net(path, getattr(caffe, case["phase"]))
    random = np.random.RandomState(1)
    bottoms = [f"b{index}" for index in range(len(case["bottoms"]))]
    for name, bottom in zip(bottoms, case["bottoms"]):
        held = net.params[name][0] if name in net.params else net.blobs[name]
        held.data[...] = draw(random, **bottom)
    params = list(net.params.get("l", []))
    for blob in params:
        blob.data[...] = draw(random, case["params"], blob.data.shape)
    net.forward()
    tops = [name for name in net.outputs if name not in bottoms]
    # BatchNorm's averages are parameters that the forward pass writes.
    found = {f"value {index}": blob.data.copy() for index, blob in enumerate(params)}
    found.update(("top " + name, net.blobs[name].data.copy()) for name in tops)
    if case["backward"]:
        for name in bottoms:  # Caffe overwrites it, or leaves it if there is no gradient
            net.blobs[name].diff[...] = 1
        for name in tops:
            blob = net.blobs[name]
            blob.diff[...] = draw(random, "normal", blob.diff.shape)
        net.backward()
        found.update(("bottom " + name, net.blobs[name].diff) for name in bottoms)
        found.update((f"param {index}", blob.diff) for index, blob in enumerate(params))
    return found


def in_child(caffe, mode, case, folder, number):
    """Runs a case in a child process and waits for it."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    status = 1
    try:
        log = os.path.join(folder, f"{number}.log")
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        if mode == "gpu":
            caffe.set_device(0)
            caffe.set_mode_gpu()
        else:
            caffe.set_mode_cpu()
        found = compute(caffe, case, folder, number)
        np.savez(os.path.join(folder, f"{number}.npz"), **found)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def main(cases_file, mode, folder):
    with open(cases_file) as file:
        cases = json.load(file)
    import resource

    import caffe

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number, case in enumerate(cases):
        in_child(caffe, mode, case, folder, number)


if __name__ == "__main__":
    main(*sys.argv[1:])

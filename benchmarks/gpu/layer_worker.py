"""Forward and backward pass of small nets, in the runtime's own Python.

    python layer_worker.py SETTINGS

SETTINGS is a JSON file:

    mode     "cpu" or "gpu"
    gpu      number of the GPU
    cases    [{"name", "net": path, "phase": "TRAIN" or "TEST", "seed",
               "inputs": {blob: [least, most]}, "first": index of the first layer to run,
               "blobs": [blob], "diffs": [blob]}]
    folder   where to write NAME.npz for each case

All values that go in come from numpy's RandomState, so that two builds of Caffe get the same: the
inputs (uniform, whole numbers where both bounds are), the parameters, and nothing else. An .npz
holds blob/NAME, diff/NAME and param/LAYER/INDEX (its gradient). A case that Caffe aborts leaves
no file. Runs on Python 3.6 and newer.
"""

import json
import os
import sys


def values(random, shape, bounds):
    import numpy as np

    least, most = bounds
    if isinstance(least, int) and isinstance(most, int):
        return random.randint(least, most + 1, size=shape).astype(np.float32)
    return random.uniform(least, most, size=shape).astype(np.float32)


def run(caffe, case, settings):
    import numpy as np

    net = caffe.Net(case["net"], getattr(caffe, case["phase"]))
    random = np.random.RandomState(case["seed"])
    for name in sorted(case["inputs"]):
        blob = net.blobs[name]
        blob.data[...] = values(random, blob.data.shape, case["inputs"][name])
    for layer in sorted(net.params):
        for blob in net.params[layer]:
            blob.data[...] = random.uniform(-0.5, 0.5, size=blob.data.shape)
            blob.diff[...] = 0
    last = len(net.layers) - 1
    net._forward(case["first"], last)
    found = {"blob/" + name: net.blobs[name].data.copy() for name in case["blobs"]}
    net._backward(last, case["first"])
    found.update({"diff/" + name: net.blobs[name].diff.copy() for name in case["diffs"]})
    for layer, blobs in net.params.items():
        for index, blob in enumerate(blobs):
            found[f"param/{layer}/{index}"] = blob.diff.copy()
    np.savez(os.path.join(settings["folder"], case["name"] + ".npz"), **found)


def main(path):
    with open(path) as file:
        settings = json.load(file)
    import caffe

    for case in settings["cases"]:
        child = os.fork()  # Caffe aborts where it can't go on
        if child == 0:
            if settings["mode"] == "gpu":
                caffe.set_device(settings["gpu"])
                caffe.set_mode_gpu()
            else:
                caffe.set_mode_cpu()
            run(caffe, case, settings)
            os._exit(0)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main(sys.argv[1])

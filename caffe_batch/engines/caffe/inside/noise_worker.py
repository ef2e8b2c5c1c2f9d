"""Measures gradients inside the runtime's Python, for caffe_batch/experiments/noise.py.

    python noise_worker.py SETTINGS

SETTINGS is a JSON object:

    net              the net prototxt
    level, stages    of the state that its TRAIN net is built for
    weights          .caffemodel files, loaded one after the other
    frozen           (name of the layer, index) of each parameter whose lr_mult is 0
    seed             for Caffe's random numbers, or -1 to let Caffe draw one
    device, gpu      as for worker.py
    groups, passes   groups of micro-batches, and micro-batches of each
    events           number of the file descriptor for events

Nothing is updated: all groups are measured at the same weights, on one batch of the data after the
other. Events and log are as those of worker.py, whose helpers it uses; the
"started" event comes when the net is built and the weights are loaded.

This file runs on Python 3.6 and newer and needs nothing but caffe and what caffe itself needs.
"""

import json
import os
import platform
import sys


def main(settings):
    from micro_gradients import MicroGradients
    from trained_weights import load_weights, without_weights
    from worker import Events, choose_device

    del sys.modules["worker"]  # a Python layer's module may be called so
    sys.path[0] = os.getcwd()
    import caffe
    from caffe.proto import caffe_pb2

    if hasattr(caffe, "init_log"):
        caffe.init_log(0, True)
    events = Events(settings["events"])
    try:
        gpu, _ = choose_device(caffe, caffe_pb2.SolverParameter(), settings)
        net = build(caffe, gpu, settings)
        fresh = load_weights(net, settings["weights"])
    except LookupError as error:
        events.send("refused", why=str(error))
        return 1
    events.send(
        "started",
        caffe_version=getattr(caffe, "__version__", "unknown"),
        python_version=platform.python_version(),
        device="CPU" if gpu is None else f"GPU {gpu}",
        choices=[without_weights(fresh)] if settings["weights"] and fresh else [],
    )
    gradients = MicroGradients(net, settings["frozen"])
    last = len(net.layers) - 1
    for group in range(1, settings["groups"] + 1):
        net.clear_param_diffs()
        gradients.begin()
        for _ in range(settings["passes"]):
            net._forward(0, last)
            net._backward(last, 0)
            gradients.add()
        events.send("gradients", update=group, **gradients.norms())
    events.send("finished", update=0)
    return 0


def build(caffe, gpu, settings):
    """The TRAIN net, on that GPU or on the CPU."""
    if gpu is None:
        caffe.set_mode_cpu()
    else:
        caffe.set_device(gpu)
        caffe.set_mode_gpu()
    if settings["seed"] >= 0:
        caffe.set_random_seed(settings["seed"])
    return caffe.Net(
        settings["net"], caffe.TRAIN, level=settings["level"], stages=settings["stages"]
    )


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))

"""Measures gradients inside the runtime's Python, for caffe_batch/experiments/noise.py.

    python noise.py SETTINGS

SETTINGS is a JSON object; beside what worker.py lists it has

    net              the net prototxt
    level, stages    the state that its TRAIN net is built for
    weights          .caffemodel files, loaded one after the other
    frozen           (name of the layer, index) of each parameter whose lr_mult is 0
    seed             for Caffe's random numbers, or -1 to let Caffe draw one
    groups, passes   groups of micro-batches, and micro-batches of each

Nothing is updated: all groups are measured at the same weights, on consecutive batches of the data.
The "started" event comes when the net is built and the weights are loaded. A closed event pipe ends
the measurement.

This file runs on Python 3.6 and newer and needs nothing but caffe and what caffe itself needs.
"""

import json
import sys

from micro_gradients import MicroGradients
from trained_weights import load_weights, without_weights
from worker import Events, choose_device, start_caffe, use_device


def main(settings):
    caffe = start_caffe()
    events = Events(settings)
    try:
        gpu, _ = choose_device(caffe, settings)
        use_device(caffe, gpu)
        if settings["seed"] >= 0:
            caffe.set_random_seed(settings["seed"])
        net = caffe.Net(
            settings["net"], caffe.TRAIN, level=settings["level"], stages=settings["stages"]
        )
        fresh = load_weights(net, settings["weights"])
    except LookupError as error:
        events.send("refused", why=str(error), wants="device")
        return 1
    events.started(caffe, gpu, [without_weights(fresh)] if settings["weights"] and fresh else [])
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
        if events.closed:
            return 1
    events.send("finished", update=0)
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))

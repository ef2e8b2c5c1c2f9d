"""Runs nets forward inside the runtime's Python, for caffe_batch/experiments/inference.py.

    python inference.py SETTINGS

SETTINGS is a JSON object; beside what worker.py lists it has

    seed      for Caffe's random numbers, or -1 to let Caffe draw one
    parts     nets to run one after the other: JSON objects with
                net            the net prototxt
                level, stages  the state that its TEST net is built for
                weights        .caffemodel files, loaded one after the other
                feed           a file of arrays by input (.npz), as many samples as the batch in
                               each of its passes; null for a net that reads its own data
                passes         how many passes
                collect        what becomes of the blobs (inference_results.py)
                result         where that is written, as .npz

Each pass is followed by an event "passed". A closed event pipe ends the run.

This file runs on Python 3.6 and newer and needs nothing but caffe and what caffe itself needs.
"""

import json
import sys

from inference_results import Collection, Feed
from trained_weights import load_weights, without_weights
from worker import Events, choose_device, start_caffe, use_device


def run(net, part, after_pass):
    """Run a net's passes, and write what is collected."""
    collection = Collection(part["collect"])
    feed = Feed(part["feed"]) if part["feed"] else None
    tops = [[net._blob_names[top] for top in net._top_ids(i)] for i in range(len(net.layers))]
    for number in range(part["passes"]):
        if feed is not None:
            for name, values in feed.batch(number, part["passes"]):
                net.blobs[name].data[...] = values
        inputs = {}
        for layer, names in enumerate(tops):
            net._forward(layer, layer)
            for name in names:
                if name in collection.inputs and name not in inputs:
                    inputs[name] = net.blobs[name].data.copy()
        collection.add(inputs, {name: net.blobs[name].data for name in collection.blobs})
        if not after_pass():
            return False
    collection.save(part["result"])
    return True


def main(settings):
    caffe = start_caffe()
    events = Events(settings)
    passed = [0]

    def after_pass():
        passed[0] += 1
        events.send("passed", number=passed[0])
        return not events.closed

    try:
        gpu, _ = choose_device(caffe, settings)
        use_device(caffe, gpu)
        for number, part in enumerate(settings["parts"]):
            if settings["seed"] >= 0:
                caffe.set_random_seed(settings["seed"])
            net = caffe.Net(part["net"], caffe.TEST, level=part["level"], stages=part["stages"])
            fresh = load_weights(net, part["weights"])
            if number == 0:
                events.started(caffe, gpu, [without_weights(fresh)] if fresh else [])
            if not run(net, part, after_pass):
                return 1
            del net
    except LookupError as error:
        events.send("refused", why=str(error), wants="device")
        return 1
    events.send("finished", update=0)
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))

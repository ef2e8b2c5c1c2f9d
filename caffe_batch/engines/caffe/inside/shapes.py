"""Builds a net inside the runtime's Python and says which shapes its blobs have.

    python shapes.py SETTINGS

SETTINGS is a JSON object; beside what worker.py lists it has

    net              the net prototxt
    phase            "TRAIN" or "TEST"
    level, stages    the state that the net is built for
    result           where to write the shapes, as JSON: {blob: [dims]}

Nothing runs but what building does: the setup and reshape of Python layers.

This file runs on Python 3.6 and newer and needs nothing but caffe and what caffe itself needs.
"""

import json
import sys

from worker import Events, start_caffe


def main(settings):
    caffe = start_caffe()
    events = Events(settings)
    events.started(caffe, None)
    caffe.set_mode_cpu()
    net = caffe.Net(
        settings["net"],
        getattr(caffe, settings["phase"]),
        level=settings["level"],
        stages=settings["stages"],
    )
    shapes = {name: list(blob.shape) for name, blob in net.blobs.items()}
    with open(settings["result"], "w") as file:
        json.dump(shapes, file)
    events.send("finished", update=0)
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))

"""Reads a net's data on pycaffe, some batches at a time, for benchmarks/input.py.

    python caffe_feeder.py NET

The net has a data layer only. Each line on stdin is a number of batches. The answer is a JSON
object with the processor time since the line before it, in which the threads that read ahead
caught up.
"""

import json
import os
import resource
import sys

import caffe


def processor_s():
    """The processor time of all threads so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main():
    caffe.set_mode_cpu()
    net = caffe.Net(sys.argv[1], caffe.TRAIN)
    answers = os.fdopen(os.dup(1), "w", 1)
    before = processor_s()
    for line in sys.stdin:
        now = processor_s()
        spent, before = now - before, now
        for _ in range(int(line)):
            net.forward()
        found = {"processor_s": spent, "sum": float(net.blobs["data"].data.sum())}
        answers.write(json.dumps(found) + "\n")


main()

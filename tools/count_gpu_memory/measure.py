"""Counts the device memory of jobs, in the Python of Caffe's CUDA build with gpu.c preloaded.

    python measure.py FOLDER...

Each FOLDER holds a solver.prototxt and becomes the working directory. Prints a line of JSON for
each, in bytes: what the solver's nets take when they are built, the peak after one update and after
two, and what cudaMalloc's granularity adds to the last. The line is null if Caffe aborted; its log
is on stderr.

Needs nothing but the standard library and caffe.
"""

import ctypes
import json
import os
import sys


def measure(folder):
    os.chdir(folder)
    import caffe

    counted = ctypes.CDLL(None)
    for name in ("counted_peak", "counted_peak_rounding"):
        getattr(counted, name).restype = ctypes.c_size_t
    caffe.set_device(0)
    caffe.set_mode_gpu()
    solver = caffe.get_solver("solver.prototxt")
    found = {"after_build": counted.counted_peak()}
    solver.step(1)
    found["after_one_update"] = counted.counted_peak()
    solver.step(1)
    found["after_two_updates"] = counted.counted_peak()
    found["rounding"] = counted.counted_peak_rounding()
    return found


def main(folders):
    for folder in folders:
        # One child each: Caffe never releases what it holds, and aborts on errors.
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            with os.fdopen(writing, "w") as answer:
                answer.write(json.dumps(measure(folder)))
            os._exit(0)  # without waiting for prefetch threads
        os.close(writing)
        with os.fdopen(reading) as answer:
            text = answer.read()
        os.waitpid(child, 0)
        print(text or "null", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

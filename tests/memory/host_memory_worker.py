# mypy: ignore-errors
# (caffe has no types.)
"""Trains solvers and says how much host memory Caffe took; started by host_memory.py.

Runs under the runtime's own Python: the standard library and caffe only. ``sys.argv[1:]`` are
folders with a solver.prototxt. Each is trained for two updates in a process of its own, forked when
caffe is imported, and answered by a line of JSON: a dictionary of bytes, or null if Caffe aborted.
With counter.c preloaded it says what was counted, without it what was resident.
"""

import ctypes
import gc
import json
import os
import re
import sys
import tempfile
import time

import caffe

#: Layer shapes at which BLAS takes the buffers that it keeps.
SMALL_NET = """
layer {
  name: "data" type: "DummyData" top: "data" top: "label"
  dummy_data_param {
    shape { dim: 64 dim: 1 dim: 48 dim: 48 } shape { dim: 64 }
    data_filler { type: "gaussian" } data_filler { value: 1 }
  }
}
layer {
  name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 16 kernel_size: 5 stride: 2 weight_filler { type: "xavier" } }
}
layer {
  name: "wide" type: "InnerProduct" bottom: "conv" top: "wide"
  inner_product_param { num_output: 2048 weight_filler { type: "xavier" } }
}
layer {
  name: "ip" type: "InnerProduct" bottom: "wide" top: "ip"
  inner_product_param { num_output: 10 weight_filler { type: "xavier" } }
}
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""

#: What Linux says of a process (proc(5)): resident, the most that was, and what belongs to files.
RESIDENT, MOST_RESIDENT, FILES = "VmRSS", "VmHWM", "RssFile"


def wait_for_prefetching():
    """Return when the threads of the data layers have read the batches that they keep ahead.

    They sleep then; one that reads runs, waits for a processor or for the disk.
    """
    quiet = 0
    while quiet < 10:
        states = []
        for task in os.listdir("/proc/self/task"):
            if int(task) != os.getpid():
                with open("/proc/self/task/" + task + "/stat") as file:
                    states.append(file.read().rpartition(")")[2].split()[0])
        quiet = quiet + 1 if all(state == "S" for state in states) else 0
        time.sleep(0.02)


#: A blob has at most 32 axes, and an array of ints with its shape.
LARGEST_SHAPE_BYTES = 4 * 32


def count(library):
    """What libcaffe asks the allocator for."""
    for name in ("counter_peak", "counter_sizes"):
        getattr(library, name).restype = ctypes.c_size_t
    with open("/proc/self/maps") as maps:
        places = re.findall(r"^(\w+)-(\w+) .*/libcaffe\.so", maps.read(), re.MULTILINE)
    start, end = min(int(a, 16) for a, _ in places), max(int(b, 16) for _, b in places)
    library.counter_watch(ctypes.c_size_t(start), ctypes.c_size_t(end))
    solver = caffe.get_solver("solver.prototxt")
    built = library.counter_peak()
    solver.step(2)
    sizes = (ctypes.c_size_t * (1 << 16))()
    number = library.counter_sizes(sizes, ctypes.c_size_t(len(sizes)))
    return {
        "after_build": built,
        "peak": library.counter_peak(),
        "small": sum(size for size in sizes[:number] if size <= LARGEST_SHAPE_BYTES),
    }


def weigh():
    """How the resident set grows, from that of a process that has trained another net."""
    with tempfile.TemporaryDirectory() as folder:
        net, solver = os.path.join(folder, "net"), os.path.join(folder, "solver")
        with open(net, "w") as file:
            file.write(SMALL_NET)
        with open(solver, "w") as file:
            file.write(f'net: "{net}" base_lr: 0 lr_policy: "fixed"')
        caffe.get_solver(solver).step(2)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # VmHWM starts again from VmRSS
    before, files_before = resident(RESIDENT), resident(FILES)
    solver = caffe.get_solver("solver.prototxt")
    solver.step(2)
    wait_for_prefetching()
    files = resident(FILES) - files_before
    return {"peak": resident(MOST_RESIDENT) - before - files, "files": files}


def resident(what):
    """A figure of this process, in bytes."""
    with open("/proc/self/status") as status:
        return 1024 * int(re.search(what + r":\s+(\d+) kB", status.read()).group(1))


def main():
    """Answers for each folder in turn."""
    library = ctypes.CDLL(None)
    counts = hasattr(library, "counter_watch")
    for folder in sys.argv[1:]:
        child = os.fork()
        if child == 0:
            os.chdir(folder)
            sys.stdout.write(json.dumps(count(library) if counts else weigh()) + "\n")
            sys.stdout.flush()
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            sys.stdout.write("null\n")
            sys.stdout.flush()


main()

"""What every worker starts with: its events, its modules, Caffe, and the device.

A worker is started as ``python SCRIPT SETTINGS``, where SETTINGS is a JSON object. Besides what the
script's own docstring lists, it has

    events           number of the file descriptor for events
    device           "auto", "cpu" or "gpu"
    gpu              number of the GPU; null for the solver's device_id

Events are JSON lines; caffe_batch/engines/events.py describes them. stdout and stderr belong to
Caffe's own log.

This file runs on Python 3.6 and newer and needs nothing but caffe and what caffe itself needs.
"""

import json
import os
import platform
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


class Events:
    """The pipe to the process that started this worker.

    Attributes:
        closed: Whether it is no longer read.
    """

    def __init__(self, settings):
        self.descriptor = settings["events"]
        self.closed = False

    def send(self, event, **content):
        """Write one event. If the reader is gone, that is noted, not raised."""
        line = memoryview((json.dumps(dict(content, event=event)) + "\n").encode("ascii"))
        try:
            while line:
                line = line[os.write(self.descriptor, line) :]
        except BrokenPipeError:
            self.closed = True

    def started(self, caffe, gpu, choices=()):
        """Report that Caffe is imported and the device is chosen."""
        self.send(
            "started",
            engine_version=getattr(caffe, "__version__", "unknown"),
            python_version=platform.python_version(),
            device="CPU" if gpu is None else f"GPU {gpu}",
            choices=list(choices),
        )


#: How glog writes: what is read from its log needs every line and its beginning. glog takes this
#: from the environment when it is loaded, where the user may have silenced it.
GLOG = {"GLOG_log_prefix": "1", "GLOG_log_utc_time": "0", "GLOG_minloglevel": "0"}


def start_caffe():
    """The module ``caffe``, logging to stderr. All modules of this folder must be imported before.

    From here on modules are no longer looked for in this folder, and none of its modules is known
    by name: the modules of Python layers may have the same names. They are looked for in the
    working directory instead, where they often are, but there last, so that a random.py or numpy.py
    in it replaces no module.
    """
    from lean_import import import_caffe

    os.environ.update(GLOG)
    del sys.path[0]
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None) or ""
        if name != "__main__" and os.path.dirname(os.path.abspath(file)) == HERE:
            del sys.modules[name]
    caffe = import_caffe()
    sys.path.append(
        os.getcwd()
    )  # a module there wins over a package without __init__, such as google
    map_blas_buffers()
    if hasattr(caffe, "init_log"):
        caffe.init_log(0, True)
    return caffe


def map_blas_buffers():
    """Let OpenBLAS map its work buffers while there is memory.

    It does so at the first product of two matrices, and jumps to address 0 if it can't. Caffe
    allocates at its first pass: if the buffers are already there, it is Caffe that runs out of
    memory, and it says so. numpy and Caffe share the library; with another BLAS this does no harm.
    """
    import numpy

    ones = numpy.ones((64, 64), numpy.float32)
    numpy.dot(ones, ones + 1)


def choose_device(caffe, settings, solver=None):
    """Where to compute: ((number of the GPU, or None for the CPU), why if not as expected).

    Args:
        caffe: The module.
        settings: The worker's.
        solver: A SolverParameter, which decides if the settings leave it open.

    Raises:
        LookupError: A GPU was asked for and can't be had.
    """
    wanted, gpu = settings["device"], settings["gpu"]
    if gpu is None and solver is not None:
        gpu = solver.device_id
    obstacle = None
    if not hasattr(caffe._caffe.Blob, "_gpu_data_ptr"):
        obstacle = "this Caffe is built without GPU code"
    elif not (os.path.exists("/dev/nvidiactl") or os.path.exists("/dev/dxg")):
        obstacle = "this machine has no NVIDIA driver"
    if wanted == "gpu":
        if obstacle:
            raise LookupError(f"training on GPU {gpu} is not possible: {obstacle}")
        return gpu, None
    if wanted == "cpu":
        return None, None
    if solver is not None and solver.HasField("solver_mode") and solver.solver_mode == solver.CPU:
        return None, "Training on the CPU: solver.prototxt says solver_mode: CPU."
    if obstacle:
        return None, f"Training on the CPU: {obstacle}."
    return gpu, None


def use_device(caffe, gpu):
    """Let Caffe compute on that GPU, or on the CPU for None."""
    if gpu is None:
        caffe.set_mode_cpu()
    else:
        caffe.set_device(gpu)
        caffe.set_mode_gpu()

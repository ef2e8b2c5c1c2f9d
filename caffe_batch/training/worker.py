"""Runs one training inside the runtime's Python, for the supervisor.

    python worker.py SETTINGS

SETTINGS is a JSON object:

    solver           the job's solver.prototxt
    worker_solver    where to write the solver that Caffe reads
    job              the job directory; nets named in the solver are looked for in it first
    snapshots        folder of the snapshots
    resume           solverstate to go on from, or null
    resume_copy      where to write that solverstate if its weights have moved
    device           "auto", "cpu" or "gpu"
    gpu              number of the GPU, or null for the solver's device_id
    weights          .caffemodel files for update 0, loaded one after the other
    log, log_bytes   where stdout and stderr lead, and from which size on another file follows
    record_every     updates per loss record
    frozen           with the noise scale: (name of the layer, index) of each parameter whose
                     lr_mult is 0; null without (micro_gradients.py)
    events           number of the file descriptor for events

Events are JSON lines; caffe_batch/training/events.py describes them. stdout and stderr belong to
Caffe's own log. Caffe's Solve() does the training, with everything that belongs to it (tests,
snapshots, displayed loss); hooks on its nets sum the loss of every micro-batch, which costs about
a microsecond each, and give Python's signal handlers a chance to run.

SIGINT and SIGTERM: finish the update, take a snapshot, exit with INTERRUPTED_STATUS. A closed
event pipe (the supervisor is gone) does the same. SIGHUP: take a snapshot and go on.

This file runs on Python 3.6 and newer and needs nothing but caffe and what caffe itself needs.
"""

import json
import os
import platform
import signal
import sys
import time
import weakref

from trained_weights import load_weights, without_weights
from worker_log import WorkerLog

INTERRUPTED_STATUS = 40
FLUSH_S = 0.2


class Stop(Exception):  # noqa: N818  (it is no error)
    """Leaves Solve() between two updates or in a test."""


class Events:
    """The pipe to the supervisor."""

    def __init__(self, descriptor):
        self.descriptor = descriptor
        self.closed = False

    def send(self, event, **content):
        """Write one event. A supervisor that is gone is noted, not raised."""
        line = memoryview((json.dumps(dict(content, event=event)) + "\n").encode("ascii"))
        try:
            while line:
                line = line[os.write(self.descriptor, line) :]
        except BrokenPipeError:
            self.closed = True


class Requests:
    """What signals have asked for."""

    def __init__(self):
        self.stop = False
        self.snapshot = False

    def listen(self):
        """Install the handlers; glog's own handler for SIGTERM must be installed before."""
        signal.signal(signal.SIGINT, self._on_stop)
        signal.signal(signal.SIGTERM, self._on_stop)
        signal.signal(signal.SIGHUP, self._on_snapshot)

    def _on_stop(self, number, frame):
        self.stop = True

    def _on_snapshot(self, number, frame):
        self.snapshot = True


class Training:
    """One run of Caffe's solver, observed.

    Caffe keeps the hooks, and they keep this object. It holds the solver weakly, so that the
    caller can end the solver's life: its prefetch threads and the files of its layers.
    """

    def __init__(self, solver, message, events, requests, settings, first_update):
        self.solver = weakref.proxy(solver)
        self.message = message
        self.iter_size = message.iter_size
        self.snapshot_every = message.snapshot
        self.test_every = message.test_interval
        self.last_update = message.max_iter
        self.events = events
        self.requests = requests
        self.log = WorkerLog(settings["log"], settings["log_bytes"])
        self.record_every = settings["record_every"]
        self.snapshot_at = first_update  # updates done in the newest snapshot
        self.loss = 0.0  # summed over the micro-batches of this update
        self.total = 0.0  # mean losses summed over the updates since the last record
        self.count = 0
        self.records = []
        self.started = self.flushed = time.monotonic()
        net = solver.net
        self.last_layer = len(net.layers) - 1
        weighted = [
            (weight, net.blobs[name]) for name, weight in net.blob_loss_weights.items() if weight
        ]
        self.scalars = [(weight, blob) for weight, blob in weighted if blob.count == 1]
        self.others = [(weight, blob) for weight, blob in weighted if blob.count != 1]
        net.after_forward(self.after_layer)
        solver.add_callback(self.before_update, self.after_gradients)
        for test_net in solver.test_nets:
            test_net.before_forward(self.in_test)

    def solve(self, resume):
        """Train to the end. True, or False if a request stopped it."""
        try:
            if resume is None:
                self.solver.solve()
            else:
                self.solver.solve(resume)
        except Stop:
            self.record(self.solver.iter)
            self.flush(self.solver.iter)
            if self.snapshot_at != self.solver.iter or not self.has_snapshot():
                self.take_snapshot()
            return False
        self.flush(self.solver.iter)
        if self.snapshot_at != self.solver.iter and self.has_snapshot():
            self.announce_snapshot()
        return True

    def before_update(self):
        """Caffe's on_start: the update before is applied and its snapshot written."""
        every = self.snapshot_every
        if every and self.solver.iter % every == 0 and self.snapshot_at != self.solver.iter:
            self.announce_snapshot()
        if self.requests.snapshot:
            self.requests.snapshot = False
            self.take_snapshot()
        self.stop_if_asked()
        self.loss = 0.0

    def after_layer(self, layer):
        """Called after each layer's forward pass; the last one ends a micro-batch."""
        if layer == self.last_layer:
            for weight, blob in self.scalars:
                self.loss += weight * float(blob.data)
            for weight, blob in self.others:
                self.loss += weight * float(blob.data.sum())

    def after_gradients(self):
        """Caffe's on_gradients_ready: all micro-batches of the update are done."""
        update = self.solver.iter + 1
        self.total += self.loss / self.iter_size
        self.count += 1
        pause = (self.snapshot_every and update % self.snapshot_every == 0) or (
            self.test_every and update % self.test_every == 0
        )
        if pause or update % self.record_every == 0 or update == self.last_update:
            self.record(update)
        if pause or time.monotonic() - self.flushed > FLUSH_S:
            self.flush(update)

    def in_test(self, layer):
        """Called before each layer of a test net: a long test must not delay a stop."""
        self.stop_if_asked()

    def stop_if_asked(self):
        if self.requests.stop or self.events.closed:
            raise Stop()

    def record(self, update):
        if self.count:
            self.records.append((update, self.total / self.count, time.monotonic() - self.started))
            self.total, self.count = 0.0, 0

    def flush(self, update):
        self.log.rotate_if_large()
        self.flushed = time.monotonic()
        self.events.send(
            "updated", update=update, seconds=self.flushed - self.started, records=self.records
        )
        self.records = []

    def take_snapshot(self):
        self.record(self.solver.iter)
        self.flush(self.solver.iter)
        self.solver.snapshot()
        self.announce_snapshot()

    def announce_snapshot(self):
        self.snapshot_at = self.solver.iter
        self.events.send("snapshot", update=self.solver.iter, state=self.state_file())

    def has_snapshot(self):
        return os.path.isfile(self.state_file())

    def state_file(self):
        extension = ".h5" if self.message.snapshot_format == self.message.HDF5 else ""
        return f"{self.message.snapshot_prefix}_iter_{self.solver.iter}.solverstate{extension}"


def read_solver(settings):
    """The solver as Caffe shall read it: nets and snapshots in the job directory."""
    from caffe.proto import caffe_pb2
    from google.protobuf import text_format

    message = caffe_pb2.SolverParameter()
    with open(settings["solver"], encoding="utf-8-sig") as file:
        text_format.Merge(file.read(), message)

    def here(path):
        inside = os.path.join(settings["job"], os.path.basename(path))
        return inside if os.path.isfile(inside) else path

    if message.HasField("net"):
        message.net = here(message.net)
    if message.HasField("train_net"):
        message.train_net = here(message.train_net)
    message.test_net[:] = [here(path) for path in message.test_net]
    stem = os.path.basename(message.snapshot_prefix) or "snapshot"
    message.snapshot_prefix = os.path.join(settings["snapshots"], stem)
    return message


def write_solver(message, path):
    from google.protobuf import text_format

    with open(path, "w", encoding="utf-8") as file:
        file.write(text_format.MessageToString(message))


def choose_device(caffe, message, settings):
    """Where to train: ((number of the GPU, or None for the CPU), why if not as expected).

    Raises:
        LookupError: A GPU was asked for and can't be had.
    """
    wanted = settings["device"]
    has_code = hasattr(caffe._caffe.Blob, "_gpu_data_ptr")
    has_driver = os.path.exists("/dev/nvidiactl") or os.path.exists("/dev/dxg")
    gpu = message.device_id if settings["gpu"] is None else settings["gpu"]
    obstacle = None
    if not has_code:
        obstacle = "this Caffe is built without GPU code"
    elif not has_driver:
        obstacle = "this machine has no NVIDIA driver"
    if wanted == "gpu":
        if obstacle:
            raise LookupError(f"training on GPU {gpu} is not possible: {obstacle}")
        return gpu, None
    if wanted == "cpu":
        return None, None
    if message.HasField("solver_mode") and message.solver_mode == message.CPU:
        return None, "Training on the CPU: solver.prototxt says solver_mode: CPU."
    if obstacle:
        return None, f"Training on the CPU: {obstacle}."
    return gpu, None


def prepare_resume(settings):
    """(solverstate to restore or None, updates done in it).

    A solverstate names its weights by their absolute path. If the job directory has moved since,
    a copy with the new path is written.
    """
    from caffe.proto import caffe_pb2

    path = settings["resume"]
    if path is None:
        return None, 0
    if path.endswith(".h5"):
        return path, int(path.rsplit("_iter_", 1)[1].split(".")[0])
    state = caffe_pb2.SolverState()
    with open(path, "rb") as file:
        state.ParseFromString(file.read())
    weights = path[: -len(".solverstate")] + ".caffemodel"
    if state.learned_net != weights:
        state.learned_net = weights
        path = settings["resume_copy"]
        with open(path, "wb") as file:
            file.write(state.SerializeToString())
    return path, state.iter


def main(settings):
    events = Events(settings["events"])
    requests = Requests()
    requests.listen()
    if settings["frozen"] is not None:
        from micro_gradients import NoiseSampler
    # From here on the folder of this script is no place to look for modules; the working directory
    # is, as the modules of Python layers often lie there.
    sys.path[0] = os.getcwd()
    import caffe

    if hasattr(caffe, "init_log"):
        caffe.init_log(0, True)
    requests.listen()
    message = read_solver(settings)
    try:
        gpu, choice = choose_device(caffe, message, settings)
    except LookupError as error:
        events.send("refused", why=str(error))
        return 1
    if gpu is None:
        caffe.set_mode_cpu()
        message.solver_mode = message.CPU
    else:
        caffe.set_device(gpu)
        caffe.set_mode_gpu()
        message.solver_mode = message.GPU
        message.device_id = gpu
    write_solver(message, settings["worker_solver"])
    events.send(
        "started",
        caffe_version=getattr(caffe, "__version__", "unknown"),
        python_version=platform.python_version(),
        device="CPU" if gpu is None else f"GPU {gpu}",
        choices=[choice] if choice else [],
    )
    resume, first_update = prepare_resume(settings)
    solver = caffe.get_solver(settings["worker_solver"])
    choices = []
    if resume is None and settings["weights"]:
        try:
            fresh = load_weights(solver.net, settings["weights"])
        except LookupError as error:
            events.send("refused", why=str(error))
            return 1
        for test_net in solver.test_nets:  # layers of its own; Caffe shares the others
            for path in settings["weights"]:
                test_net.copy_from(path)
        choices = [without_weights(fresh)] if fresh else []
    events.send("built", update=first_update, choices=choices)
    training = Training(solver, message, events, requests, settings, first_update)
    if settings["frozen"] is not None:
        NoiseSampler(solver, settings["frozen"], settings["record_every"], events.send)
    finished = training.solve(resume)
    update = solver.iter
    del solver
    events.send("finished" if finished else "stopped", update=update)
    return 0 if finished else INTERRUPTED_STATUS


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))

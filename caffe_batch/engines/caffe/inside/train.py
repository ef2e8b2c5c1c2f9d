"""Runs one training inside the runtime's Python, for the supervisor.

    python train.py SETTINGS

SETTINGS is a JSON object; beside what worker.py lists it has

    solver           the job's solver.prototxt
    worker_solver    where to write the solver that Caffe reads
    job              the job directory; nets named in the solver are looked for in it first
    snapshots        folder of the snapshots
    resume           solverstate to continue from, or null
    resume_copy      where to write that solverstate if its weights have moved
    weights          .caffemodel files for update 0, loaded one after the other
    log, log_bytes   where stdout and stderr go, and at which size a new file is started
    record_every     updates per loss record
    frozen           with the noise scale: (name of the layer, index) of each parameter whose
                     lr_mult is 0; null without (micro_gradients.py)
    max_loss         a loss above it counts as diverged, as nan and inf always do; or null
    snapshot_at_tests  whether to take a snapshot of the weights of each test
    averaging_types  the layer types whose parameters include moving averages
    nets             {"train": file, "tests": [files]} instead of the solver's own, or null
    go_on            {type of data layer: [how many times each advances before it reads, in the
                     order in which Caffe creates them]} (record_seeker.py)
    read             [(0 for the train net or 1 + number of the test net, name of a data layer,
                     batches that it reads before the training)]

Caffe's Solve() does the training, observed through its hooks (solver_hooks.py).

SIGINT, SIGTERM, SIGUSR1: take a snapshot, exit with INTERRUPTED_STATUS. A closed event pipe (the
supervisor is gone) does the same. SIGHUP: take a snapshot and continue. None of them waits for the
end of an update of many micro-batches: until it is applied, the weights and the solver's history
are those of the previous update.

This file runs on Python 3.6 and newer and needs nothing but caffe and what caffe itself needs.
"""

import json
import os
import signal
import sys

from record_seeker import RecordSeeker
from solver_hooks import DivergedError, Training
from trained_weights import load_weights, without_weights
from worker import Events, choose_device, start_caffe, use_device
from worker_log import WorkerLog

INTERRUPTED_STATUS = 40
DIVERGED_STATUS = 41


class Requests:
    """What signals have asked for.

    Attributes:
        pending: Whether a request for a snapshot hasn't been answered yet.
        stop: Whether to stop after it.
    """

    def __init__(self):
        self.pending = False
        self.stop = False

    def listen(self):
        """Install the handlers; glog's own handler for SIGTERM must be installed before."""
        signal.signal(signal.SIGINT, self._on_stop)
        signal.signal(signal.SIGTERM, self._on_stop)
        signal.signal(signal.SIGUSR1, self._on_stop)
        signal.signal(signal.SIGHUP, self._on_snapshot)

    def ask_to_stop(self):
        self.stop = self.pending = True

    def _on_stop(self, number, frame):
        self.ask_to_stop()

    def _on_snapshot(self, number, frame):
        self.pending = True


def read_solver(settings):
    """The solver as Caffe should read it: nets and snapshots in the job directory."""
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
    if settings["nets"]:
        for field in ("net", "net_param", "train_net_param", "test_net_param"):
            message.ClearField(field)
        message.train_net = settings["nets"]["train"]
        message.test_net[:] = settings["nets"]["tests"]
    stem = os.path.basename(message.snapshot_prefix) or "snapshot"
    message.snapshot_prefix = os.path.join(settings["snapshots"], stem)
    return message


def write_solver(message, path):
    from google.protobuf import text_format

    with open(path, "w", encoding="utf-8") as file:
        file.write(text_format.MessageToString(message))


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


def read_on(solver, batches):
    """Let data layers read batches that aren't used (see ``read`` above)."""
    nets = [solver.net, *solver.test_nets]
    for net, name, count in batches:
        layer = list(nets[net]._layer_names).index(name)
        for _ in range(count):
            nets[net]._forward(layer, layer)


def large_outputs(test_nets):
    """[number of the test net, output, its elements] of each output with several elements."""
    return [
        [number, name, net.blobs[name].count]
        for number, net in enumerate(test_nets)
        for name in net.outputs
        if net.blobs[name].count > 1
    ]


def main(settings):
    requests = Requests()
    requests.listen()
    if settings["frozen"] is not None:
        from micro_gradients import NoiseSampler  # imports numpy, which takes a while
    caffe = start_caffe()
    requests.listen()
    events = Events(settings)
    message = read_solver(settings)
    try:
        gpu, choice = choose_device(caffe, settings, message)
    except LookupError as error:
        events.send("refused", why=str(error), wants="device")
        return 1
    use_device(caffe, gpu)
    message.solver_mode = message.CPU if gpu is None else message.GPU
    if gpu is not None:
        message.device_id = gpu
    choices = [choice] if choice else []
    batches = settings["read"]
    try:
        seeker = RecordSeeker(caffe, settings["go_on"])
    except LookupError as error:
        choices.append(f"The data starts at its first record again: {error}.")
        seeker, batches = RecordSeeker(caffe, {}), []
    write_solver(message, settings["worker_solver"])
    events.started(caffe, gpu, choices)
    resume, first_update = prepare_resume(settings)
    with seeker.active():
        solver = caffe.get_solver(settings["worker_solver"])
    choices = []
    if resume is None and settings["weights"]:
        try:
            fresh = load_weights(solver.net, settings["weights"])
        except LookupError as error:
            events.send("refused", why=str(error), wants="weights")
            return 1
        for test_net in solver.test_nets:  # its own layers; Caffe shares the others
            for path in settings["weights"]:
                test_net.copy_from(path)
        choices = [without_weights(fresh)] if fresh else []
    read_on(solver, batches)
    large = large_outputs(solver.test_nets)
    events.send("built", update=first_update, choices=choices, large_outputs=large)
    log = WorkerLog(settings["log"], settings["log_bytes"])
    training = Training(solver, message, events, requests, settings, first_update, log)
    if settings["frozen"] is not None:
        NoiseSampler(solver, settings["frozen"], settings["record_every"], events.send)
    try:
        finished = training.solve(resume)
    except DivergedError as found:
        events.send("diverged", update=training.update, loss=found.loss)
        return DIVERGED_STATUS
    update = solver.iter
    del solver
    events.send("finished" if finished else "stopped", update=update)
    return 0 if finished else INTERRUPTED_STATUS


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))

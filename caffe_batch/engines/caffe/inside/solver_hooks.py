"""Observes Caffe's solver while it trains, through its hooks; for the runtime's own Python.

Caffe's Solve() does the training, including tests, snapshots and the displayed loss. The hooks sum
the loss of every micro-batch and give Python's signal handlers a chance to run: once per update if
that is one micro-batch, otherwise at every layer (Caffe has no other hook between two
micro-batches).

This file runs on Python 3.6 and newer and needs nothing but caffe.
"""

import contextlib
import os
import sys
import time
import weakref

#: About how often progress is reported.
FLUSH_S = 0.2


class Stop(Exception):  # noqa: N818  (it isn't an error)
    """Leaves Solve() between two micro-batches or during a test."""


class DivergedError(Exception):
    """The loss after the updates done so far has diverged, or (None) the weights have."""

    def __init__(self, loss):
        super().__init__(loss)
        self.loss = loss


class Statistics:
    """The running statistics of a net's layers, which every forward pass changes.

    They are the only thing in a snapshot that an unfinished update has touched.

    Args:
        net: The train net.
        types: The layer types that have such statistics.
    """

    def __init__(self, net, types):
        self.blobs = [blob for layer in net.layers if layer.type in types for blob in layer.blobs]
        self.kept = []  # empty while no update is unfinished

    def read(self):
        return [blob.data.copy() for blob in self.blobs]

    def write(self, values):
        for blob, value in zip(self.blobs, values):
            blob.data[...] = value

    def keep(self):
        """Note them, at the beginning of an update."""
        self.kept = self.read()

    def forget(self):
        """Drop them: the update is applied, and the running statistics are valid."""
        self.kept = []

    @contextlib.contextmanager
    def as_kept(self):
        """The context in which the net has those from the beginning of an unfinished update."""
        now = self.read()
        self.write(self.kept)
        yield
        self.write(now)


class Training:
    """One run of Caffe's solver, observed.

    Caffe keeps the hooks, and they keep this object. It has only a weak reference to the solver, so
    that the caller can end the solver's life, with its prefetch threads and its layers' files.

    A diverged loss ends the training before anything is updated with it, without a snapshot; so do
    weights that are not finite, before a snapshot of them is announced.
    """

    def __init__(self, solver, message, events, requests, settings, first_update, log):
        self.solver = weakref.proxy(solver)
        self.message = message
        self.iter_size = message.iter_size
        self.snapshot_every = message.snapshot
        self.test_every = message.test_interval
        self.snapshot_at_tests = settings["snapshot_at_tests"]
        self.last_update = message.max_iter
        self.events = events
        self.requests = requests
        self.log = log
        self.record_every = settings["record_every"]
        bound = settings["max_loss"]
        self.max_loss = sys.float_info.max if bound is None else bound
        self.update = first_update  # updates done
        self.snapshot_at = first_update  # updates done in the newest snapshot
        self.loss = 0.0  # summed over the micro-batches of this update
        self.total = 0.0  # mean losses summed over the updates since the last record
        self.count = 0
        self.records = []
        self.started = self.flushed = time.monotonic()
        net = solver.net
        self.statistics = Statistics(net, settings["averaging_types"])
        weighted = [
            (weight, net.blobs[name]) for name, weight in net.blob_loss_weights.items() if weight
        ]
        self.scalars = [(weight, blob) for weight, blob in weighted if blob.count == 1]
        self.others = [(weight, blob) for weight, blob in weighted if blob.count != 1]
        self.on_cpu = message.solver_mode == message.CPU
        self.values = []  # of the scalars
        if self.iter_size > 1:  # such a hook is called for every layer
            net.after_forward(self.at_layer(len(net.layers) - 1))
        solver.add_callback(self.before_update, self.after_gradients)
        for test_net in solver.test_nets:
            test_net.before_forward(self.in_test)

    def solve(self, resume):
        """Train to the end; returns True, or False if a request stopped it.

        Raises:
            DivergedError: The training is lost.
        """
        try:
            if resume is None:
                self.solver.solve()
            else:
                self.solver.solve(resume)
        except Stop:
            return False
        self.flush()
        if self.snapshot_at != self.update and self.has_snapshot():
            self.announce_snapshot()
        return True

    def before_update(self):
        """Caffe's on_start: the previous update is applied and its snapshot written."""
        every = self.snapshot_every
        if every and self.update % every == 0 and self.snapshot_at != self.update:
            self.announce_snapshot()
        tested = self.update and self.test_every and self.update % self.test_every == 0
        if tested and self.snapshot_at_tests and self.snapshot_at != self.update:
            self.requests.pending = True  # Caffe has just tested these weights
        self.attend()
        if self.iter_size > 1:
            self.statistics.keep()

    def at_layer(self, last):
        """A hook that calls :meth:`after_pass` at the last layer; cheap at the others."""

        def after_layer(layer):
            if layer == last:
                self.after_pass()

        return after_layer

    def after_pass(self):
        """Called after the forward pass of each micro-batch, if an update has several."""
        self.add_loss()
        if self.update < self.last_update:  # Solve() ends with a pass without an update
            self.attend()

    def after_gradients(self):
        """Caffe's on_gradients_ready: all micro-batches of the update are done."""
        if self.iter_size == 1:
            self.add_loss()
        else:
            self.statistics.forget()
        loss = self.loss / self.iter_size
        self.total += loss
        self.count += 1
        self.loss = 0.0
        update = self.update + 1
        if not loss <= self.max_loss:  # nan compares false
            self.record(update)
            self.flush()
            raise DivergedError(loss)
        self.update = update
        pause = (self.snapshot_every and update % self.snapshot_every == 0) or (
            self.test_every and update % self.test_every == 0
        )
        if pause or update % self.record_every == 0 or update == self.last_update:
            self.record(update)
        if pause:
            self.flush()

    def in_test(self, layer):
        """Called before each layer of a test net: a long test must not delay the answer."""
        self.attend()

    def add_loss(self):
        """Add the loss of the micro-batch whose forward pass has just ended."""
        values = self.values or [(weight, blob.data) for weight, blob in self.scalars]
        for weight, value in values:
            self.loss += weight * value.item()
        for weight, blob in self.others:
            self.loss += weight * float(blob.data.sum())
        if self.on_cpu:  # asking for them costs more than reading them, and on a GPU brings them
            self.values = values

    def attend(self):
        """Called whenever Caffe lets us: report from time to time, answer requests."""
        if time.monotonic() - self.flushed > FLUSH_S:
            self.flush()
        if self.requests.pending:
            self.answer()

    def answer(self):
        """Take a snapshot; leave if that was requested."""
        self.requests.pending = False
        if self.snapshot_at != self.update or not self.has_snapshot():
            self.record(self.update)
            self.flush()
            if self.update < self.last_update or not self.has_snapshot():  # otherwise Solve() has
                with self.statistics.as_kept():
                    self.solver.snapshot()
            self.announce_snapshot()
        if self.requests.stop:
            raise Stop()

    def record(self, update):
        if self.count:
            now = time.monotonic() - self.started
            self.records.append((update, self.total / self.count, now))
            self.total, self.count = 0.0, 0

    def flush(self):
        self.log.rotate_if_large()
        self.flushed = time.monotonic()
        seconds = self.flushed - self.started
        self.events.send("updated", update=self.update, seconds=seconds, records=self.records)
        self.records = []
        if self.events.closed:  # the supervisor is gone
            self.requests.ask_to_stop()

    def announce_snapshot(self):
        from numpy import isfinite

        self.snapshot_at = self.update
        for blobs in self.solver.net.params.values():
            if not all(isfinite(blob.data).all() for blob in blobs):
                raise DivergedError(None)
        self.events.send("snapshot", update=self.update, state=self.state_file())

    def has_snapshot(self):
        return os.path.isfile(self.state_file())

    def state_file(self):
        extension = ".h5" if self.message.snapshot_format == self.message.HDF5 else ""
        return f"{self.message.snapshot_prefix}_iter_{self.update}.solverstate{extension}"

"""The gradients of single micro-batches, from Caffe's running sums; for the runtime's own Python.

Caffe adds the gradient of every micro-batch to the diffs of the parameters, so the gradient of the
last one is what was added since the one before. Measuring it takes a copy of all gradients in host
memory and about five passes over them; in GPU mode the diffs also go to the host and back.

This file runs on Python 3.6 and newer and needs nothing but numpy.
"""

import time
import weakref

import numpy

#: NoiseSampler takes at most about this share of the time.
SHARE = 0.02


class MicroGradients:
    """The squared norms of the gradients of micro-batches.

    Only trained parameters count, each of them once: those that share their memory are one.

    Args:
        net: A caffe.Net.
        frozen: (name of the layer, index) of each parameter whose lr_mult is 0.
    """

    def __init__(self, net, frozen):
        left_out = {(layer, index) for layer, index in frozen}
        blobs = {}
        for name, layer in zip(net._layer_names, net.layers):
            for index, blob in enumerate(layer.blobs):
                blobs.setdefault(blob.diff.ctypes.data, ((name, index), blob))
        self.blobs = [blob for key, blob in blobs.values() if key not in left_out]
        self.before = [numpy.zeros(blob.diff.size, numpy.float32) for blob in self.blobs]
        self.squares = 0.0
        self.passes = 0

    def begin(self):
        """Start a group: the diffs are zero now."""
        for before in self.before:
            before.fill(0)
        self.squares = 0.0
        self.passes = 0

    def add(self):
        """Take in a micro-batch whose backward pass has just ended."""
        for blob, before in zip(self.blobs, self.before):
            total = blob.diff.reshape(-1)
            numpy.subtract(total, before, out=before)
            self.squares += squared_norm(before)
            before[:] = total
        self.passes += 1

    def norms(self):
        """The group so far, as the content of an event."""
        total = sum(map(squared_norm, self.before))
        return {
            "passes": self.passes,
            "micro_norm_squared": self.squares / self.passes,
            "mean_norm_squared": total / self.passes**2,
        }


class NoiseSampler:
    """Reports the micro-batches of some of a solver's updates, without extra passes.

    An update is sampled when all sampling so far has taken less than SHARE of the time; the first
    one always is. Other updates cost a call of a hook for each layer.

    Args:
        solver: A caffe solver; only a weak reference is kept.
        frozen: See MicroGradients.
        every: At most one in this many updates is sampled.
        send: Takes the name and the content of an event.
    """

    def __init__(self, solver, frozen, every, send):
        self.solver = weakref.proxy(solver)
        self.gradients = MicroGradients(solver.net, frozen)
        self.every = every
        self.send = send
        self.sampling = False
        self.spent = 0.0
        self.started = time.monotonic()
        solver.net.after_backward(self.after_layer)
        solver.add_callback(self.before_update, self.after_gradients)

    def before_update(self):
        """Caffe's on_start: it has set the diffs to zero."""
        start = time.monotonic()
        due = (self.solver.iter + 1) % self.every == 0
        self.sampling = due and self.spent <= SHARE * (start - self.started)
        if self.sampling:
            self.gradients.begin()
            self.spent += time.monotonic() - start

    def after_layer(self, layer):
        """Called after each layer in the backward pass, including those without a gradient."""
        if self.sampling and layer == 0:
            start = time.monotonic()
            self.gradients.add()
            self.spent += time.monotonic() - start

    def after_gradients(self):
        """Caffe's on_gradients_ready: all micro-batches of the update are done."""
        if self.sampling:
            start = time.monotonic()
            self.send("gradients", update=self.solver.iter + 1, **self.gradients.norms())
            self.spent += time.monotonic() - start


def squared_norm(values):
    """The sum of the squares, in double precision."""
    return float(numpy.einsum("i,i->", values, values, dtype=numpy.float64))

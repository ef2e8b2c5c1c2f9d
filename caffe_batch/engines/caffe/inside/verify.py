"""Runs the variants of one training inside the runtime's Python and compares the results.

    python verify.py SETTINGS

SETTINGS is a JSON object; beside what worker.py lists it has

    variants       objects: "folder" with gradient_solver.prototxt and solver.prototxt,
                   "iter_size", "disturbance", by how much its gradients are disturbed (see
                   Run.disturb), 0 for not at all, "base", the number of the variant that it is
                   compared with, and "feeds", blobs to fill in each pass (see made_data.py)
    floor          the share of the net's RMS by which an array's gradient is at least disturbed
    updates        updates to train
    average_loss   updates that the smoothed loss is the mean of
    result         where to write what was found, as JSON

Each part runs in its own child process (Caffe aborts its process if a check fails), with its log
in FOLDER/caffe.log. In the result, "statuses" has the exit status of each variant. If the first one
ran, "losses" has the smoothed loss of each, and "first_losses" that of the first update;
"loss_sizes" has for both the sum of the absolute values of all terms, in the first variant.
"gradient" (clipped, of the first update), "weights" (after the updates) and "statistics" (averages
of BatchNorm layers) have a row for each array: "name" (layer and index), "shape", and for each
variant the L2 norm of its base's array in "norms" and that of the difference from it in
"differences"; it is null if a variant failed, or is disturbed and so has no gradient worth
comparing.

This file runs on Python 3.6 and newer and needs nothing but caffe and numpy.
"""

import json
import os
import sys
import traceback

import numpy as np
from verify_results import comparison, draw, first_and_smoothed, rms, save
from worker import Events, start_caffe, use_device


class Run:
    """A solver under observation: it gets its samples, and its losses are summed."""

    def __init__(self, caffe, solver_file, settings, variant):
        self.solver = caffe.get_solver(solver_file)
        self.net = self.solver.net
        self.iter_size = variant["iter_size"]
        self.disturbance = variant["disturbance"]
        self.floor = settings["floor"]
        self.passes = 0
        self.losses = []  # of each pass
        self.sizes = []  # of each pass: the sum of the absolute values of the loss's terms
        weighted = zip(self.net._blobs, self.net._blob_loss_weights)
        self.weighted = [(blob, weight) for blob, weight in weighted if weight]
        self.feeds = {}  # number and feed, by layer
        names = list(self.net._layer_names)
        for number, feed in enumerate(variant["feeds"]):
            self.feeds.setdefault(names.index(feed["layer"]), []).append((number, feed))
        self.last_layer = len(self.net.layers) - 1
        self.net.before_forward(self.before_layer)
        self.net.after_forward(self.after_layer)
        if self.disturbance:
            self.net.after_backward(self.disturb)

    def before_layer(self, layer):
        if not layer:
            self.passes += 1

    def after_layer(self, layer):
        update, part = divmod(self.passes - 1, self.iter_size)
        for number, feed in self.feeds.get(layer, ()):
            values = draw(feed, number, update)
            if feed["axis"] is not None:
                values = np.split(values, self.iter_size, feed["axis"])[part]
            self.net.blobs[feed["top"]].data[...] = values
        if layer == self.last_layer:
            self.losses.append(
                sum(weight * float(blob.data.sum()) for blob, weight in self.weighted)
            )
            self.sizes.append(
                sum(abs(weight) * float(abs(blob.data).sum()) for blob, weight in self.weighted)
            )

    def disturb(self, layer):
        """Disturbs the finished gradient of an update, as rounding does but by more.

        Each array is scaled by 1 + d or 1 - d, and each element moves by a normal deviate of d
        times the array's RMS (which counts as at least a share of the net's, as in the errors).
        Zeros stay zero, as they do in rounding. With -d all of that has the opposite sign.
        """
        if layer:  # the first layer is the last one of a backward pass
            return
        random = np.random.RandomState([2, self.passes])
        gradients = [blob.diff for _, _, blob in self.learnable()]
        floor = self.floor * rms(gradients)
        for each in gradients:
            scatter = random.standard_normal(each.shape)
            scatter *= self.disturbance * max(rms([each]), floor)
            scatter[each == 0] = 0
            each *= 1 + self.disturbance * random.choice([-1, 1])
            each += scatter

    def blobs(self):
        """(layer, number, blob) of each parameter, shared ones once."""
        seen = set()
        for layer, blobs in self.net.params.items():
            for number, blob in enumerate(blobs):
                place = blob.data.__array_interface__["data"][0]
                if place not in seen:
                    seen.add(place)
                    yield layer, number, blob

    def learnable(self):
        """The blobs that the solver updates: all but the averages of BatchNorm layers."""
        averaged = [name for (name, _), _ in self.averages()]
        return [row for row in self.blobs() if row[0] not in averaged]

    def averages(self):
        """Mean (0) and variance (1) of each BatchNorm layer as a TEST net would use them."""
        for name, layer in zip(self.net._layer_names, self.net.layers):
            if layer.type == "BatchNorm":
                mean, variance, weight = (blob.data for blob in layer.blobs)
                yield (name, 0), mean / (weight[0] or 1)
                yield (name, 1), variance / (weight[0] or 1)


def start(caffe, solver_file, settings, variant):
    """A run with the weights that all variants start from; the first run sets them."""
    path = os.path.join(variant["folder"], solver_file)
    run = Run(caffe, path, settings, variant)
    blobs = [blob for _, _, blob in run.blobs()]
    initial = os.path.join(settings["variants"][0]["folder"], "initial.npz")
    if not os.path.exists(initial):
        np.savez(initial, *(blob.data for blob in blobs))
    with np.load(initial) as arrays:
        for blob, name in zip(blobs, arrays.files):
            blob.data[...] = arrays[name]
    return run


def show_gradient(caffe, settings, variant):
    """One step of the solver whose update is the gradient, which is then in the diffs."""
    run = start(caffe, "gradient_solver.prototxt", settings, variant)
    run.solver.step(1)
    save(variant["folder"], "gradient", [((n, i), blob.diff) for n, i, blob in run.learnable()])


def train(caffe, settings, variant):
    """Some steps of the recipe's own solver."""
    run = start(caffe, "solver.prototxt", settings, variant)
    run.solver.step(settings["updates"])
    save(variant["folder"], "weights", [((n, i), blob.data) for n, i, blob in run.learnable()])
    save(variant["folder"], "statistics", run.averages())
    with open(os.path.join(variant["folder"], "losses.json"), "w") as file:
        json.dump(
            [
                first_and_smoothed(values, run.iter_size, settings["average_loss"])
                for values in (run.losses, run.sizes)
            ],
            file,
        )


def in_child(work, caffe, settings, variant):
    """Exit status of a child that does one part of the work; negative if a signal ended it."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            log = os.path.join(variant["folder"], "caffe.log")
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            work(caffe, settings, variant)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    ended = os.waitpid(child, 0)[1]
    return -os.WTERMSIG(ended) if os.WIFSIGNALED(ended) else os.WEXITSTATUS(ended)


def main(settings):
    caffe = start_caffe()
    events = Events(settings)
    use_device(caffe, None)
    events.started(caffe, None)
    variants = settings["variants"]
    parts = [[train] if each["disturbance"] else [show_gradient, train] for each in variants]
    statuses = [
        next(filter(None, (in_child(part, caffe, settings, variant) for part in own)), 0)
        for own, variant in zip(parts, variants)
    ]
    with open(settings["result"], "w") as file:
        json.dump(comparison(variants, statuses), file)
    events.send("finished", update=settings["updates"])
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))

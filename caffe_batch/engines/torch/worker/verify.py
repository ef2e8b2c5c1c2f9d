"""Runs the variants of one training and compares the results, as the script of that name in
engines/caffe/inside does; its docstring describes the settings and what is written.

The device is the CPU, and each part writes its log to FOLDER/caffe.log. Beside what that script
reads, a variant has "double", whether it is calculated in double precision, "rounding", a seed by
which its operations round as single precision does (see rounding.py), or 0, and "ran", whether
another engine has run it. If FOLDER of the first one has initial.npz, its weights are those.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from caffe_batch.engines.caffe.inside.verify_results import (
    comparison,
    draw,
    first_and_smoothed,
    rms,
    save,
)
from caffe_batch.engines.torch.data.opening import Opener
from caffe_batch.engines.torch.fillers import Draws
from caffe_batch.engines.torch.layers.base import Tensors, TorchLayer
from caffe_batch.engines.torch.layers.python import with_python
from caffe_batch.engines.torch.net import LayerBlobs
from caffe_batch.engines.torch.rounding import round_as_single
from caffe_batch.engines.torch.update import Update
from caffe_batch.engines.torch.worker.devices import set_precision
from caffe_batch.engines.torch.worker.nets import HERE, FedNet, graphs_of
from caffe_batch.engines.torch.worker.requests import Requests
from caffe_batch.engines.torch.worker.speech import Events, fatal
from caffe_batch.engines.torch.worker.starting import started
from caffe_batch.errors import CaffeBatchError
from caffe_batch.layers.loading import installed_rules
from caffe_batch.net.reading import follow_solver
from caffe_batch.prototxt import read_solver
from caffe_batch.solver.updates import passes

Arrays = Iterator[tuple[tuple[str, int], Any]]


class Run:
    """A solver under observation: it gets its samples, and its losses are summed.

    Attributes:
        losses, sizes: Of each pass: the loss, and the sum of the absolute values of its terms.
    """

    def __init__(
        self, solver: Path, settings: Mapping[str, Any], variant: Mapping[str, Any]
    ) -> None:
        recipe = follow_solver(
            read_solver(solver, allow_unknown_fields=True),
            solver,
            allow_unknown_fields=True,
            rules=with_python(installed_rules()),
        )
        self.solver = recipe.solver
        draws = Draws(self.solver.random_seed)
        torch.manual_seed(draws.seed)
        (graph,) = graphs_of([recipe.train])
        self._opener = Opener(draws, HERE.find)
        self._variant, self._floor, self._passes = variant, settings["floor"], 0
        self.fed = FedNet(
            recipe.train,
            graph,
            self._opener,
            device=torch.device("cpu"),
            draws=draws,
            precision="float32" if variant["double"] else settings["precision"],
            filling=self._fill,
            dtype=torch.float64 if variant["double"] else torch.float32,
        )
        self.net = self.fed.net
        self._filled: dict[str, torch.Tensor] = {}
        for layer in self.net.running:
            self._give_numbers(layer)
        if variant["rounding"]:
            round_as_single(self.net, variant["rounding"])
        self._weights = {
            graph.blobs[top].name: weight
            for node in graph.nodes
            for top, weight in zip(node.tops, node.loss, strict=True)
            if weight
        }
        self.update = Update(self.solver, self.net.params, fused=False)
        self.losses: list[float] = []
        self.sizes: list[float] = []
        learnable = {(param.layer, param.index): param.value for param in self.net.params}
        averaged = {layer.name for layer in self._batch_norms()}
        self.blobs = learnable
        self.learnable = {key: value for key, value in learnable.items() if key[0] not in averaged}

    def step(self, updates: int) -> None:
        """Make some updates."""
        for done in range(updates):
            self.net.clear_gradients()
            for _ in range(passes(self.solver)):
                self._pass()
            self.update.apply(done)

    def close(self) -> None:
        """Release its data: neither library opens a database twice."""
        self.fed.close()
        self._opener.close()

    def _pass(self) -> None:
        self._passes += 1
        done = self.fed.forward(keep=self._weights)
        self.losses.append(float(done.loss))
        self.sizes.append(
            sum(
                abs(weight) * float(done.blobs[name].detach().abs().sum())
                for name, weight in self._weights.items()
            )
        )
        self.net.backward(done)
        if self._variant["disturbance"]:
            self._disturb()

    def _give_numbers(self, layer: TorchLayer) -> None:
        """Let a layer that draws its tops give what they are filled with instead."""
        fed = [each["top"] for each in self._variant["feeds"] if each["layer"] == layer.place.name]
        if not fed:
            return
        own, graph = layer.forward, self.net.net
        names = [graph.blobs[top].name for top in layer.place.node.tops]

        def forward(bottoms: Tensors, blobs: Tensors) -> Tensors:
            tops = own(bottoms, blobs)
            return [
                self._filled[name] if name in fed else top
                for name, top in zip(names, tops, strict=True)
            ]

        layer.forward = forward  # type: ignore[method-assign]

    def _fill(self) -> dict[str, torch.Tensor]:
        size: int = self._variant["iter_size"]
        update, part = divmod(self._passes - 1, size)
        found = {}
        for number, feed in enumerate(self._variant["feeds"]):
            values = draw(feed, number, update)
            if feed["axis"] is not None:
                values = np.split(values, size, feed["axis"])[part]
            found[feed["top"]] = torch.from_numpy(np.asarray(values, np.float32)).to(self.net.dtype)
        self._filled = found
        return found

    def _disturb(self) -> None:
        """Disturbs the gradients of a pass as the other script's method of that name does."""
        disturbance = self._variant["disturbance"]
        random = np.random.RandomState([2, self._passes])
        gradients = [
            np.zeros(tuple(value.shape), np.float32) if value.grad is None else value.grad.numpy()
            for value in self.learnable.values()
        ]
        floor = self._floor * rms(gradients)
        for each in gradients:
            scatter = random.standard_normal(each.shape)
            scatter *= disturbance * max(rms([each]), floor)
            scatter[each == 0] = 0
            each *= 1 + disturbance * random.choice([-1, 1])
            each += scatter

    def _batch_norms(self) -> list[LayerBlobs]:
        return [layer for layer in self.net.layer_blobs if layer.averages]

    def averages(self) -> Arrays:
        """Mean (0) and variance (1) of each BatchNorm layer as a TEST net would use them."""
        for layer in self._batch_norms():
            mean, variance, weight = (blob.numpy() for blob in layer.blobs)
            yield (layer.name, 0), mean / (weight[0] or 1)
            yield (layer.name, 1), variance / (weight[0] or 1)


@contextmanager
def started_run(
    solver: str, settings: Mapping[str, Any], variant: Mapping[str, Any]
) -> Iterator[Run]:
    """A run with the weights that all variants start from; the first run sets them."""
    run = Run(Path(variant["folder"]) / solver, settings, variant)
    initial = Path(settings["variants"][0]["folder"]) / "initial.npz"
    values = [value.detach() for value in run.blobs.values()]
    if not initial.exists():
        np.savez(initial, *(value.numpy() for value in values))
    with np.load(initial) as arrays:
        for value, name in zip(values, arrays.files, strict=True):
            value.copy_(torch.from_numpy(arrays[name]))
    try:
        yield run
    finally:
        run.close()


def show_gradient(settings: Mapping[str, Any], variant: Mapping[str, Any]) -> None:
    """One update of the solver whose step is the gradient, which is then in its history."""
    with started_run("gradient_solver.prototxt", settings, variant) as run:
        run.step(1)
    steps = dict(zip(run.blobs, run.update.history, strict=True))
    save(variant["folder"], "gradient", [(key, steps[key].numpy()) for key in run.learnable])


def train(settings: Mapping[str, Any], variant: Mapping[str, Any]) -> None:
    """Some updates of the recipe's own solver."""
    with started_run("solver.prototxt", settings, variant) as run:
        run.step(settings["updates"])
    weights = [(key, value.detach().numpy()) for key, value in run.learnable.items()]
    save(variant["folder"], "weights", weights)
    save(variant["folder"], "statistics", run.averages())
    losses = [
        first_and_smoothed(values, passes(run.solver), settings["average_loss"])
        for values in (run.losses, run.sizes)
    ]
    Path(variant["folder"], "losses.json").write_text(json.dumps(losses))


def main(settings: Mapping[str, Any], events: Events, requests: Requests) -> int:
    """Run all variants; returns the worker's exit status."""
    set_precision(settings["precision"], torch.device("cpu"))
    started(events, "CPU", ())
    events.built = True
    variants = settings["variants"]
    statuses = [_run(settings, variant) for variant in variants]
    Path(settings["result"]).write_text(json.dumps(comparison(variants, statuses)))
    events.send("finished", update=settings["updates"])
    return 0


def _run(settings: Mapping[str, Any], variant: Mapping[str, Any]) -> int:
    """Run a variant; returns what would be the exit status of its process."""
    with _logged(Path(variant["folder"]) / "caffe.log"):
        try:
            if variant["ran"]:
                return 0
            if not variant["disturbance"]:
                show_gradient(settings, variant)
            train(settings, variant)
        except CaffeBatchError as error:
            fatal(error.message)
            return 1
        except Exception:
            traceback.print_exc()
            return 1
    return 0


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """The context in which stdout and stderr go to a log."""
    kept: Sequence[int] = [os.dup(number) for number in (1, 2)]
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        for number in (1, 2):
            os.dup2(descriptor, number)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, old in zip((1, 2), kept, strict=True):
            os.dup2(old, number)
            os.close(old)
        os.close(descriptor)

"""Runs nets forward, for experiments/inference.py. Beside what main.py lists, the settings have

    seed      for Caffe's random numbers, or -1 to draw one
    rules     the files with rules for other layer types
    parts     as for caffe/inside/inference.py

A closed event pipe ends the run.
"""  # noqa: D400, D415  # a list

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from caffe_batch.engines.caffe.inside.inference_results import Collection, Feed
from caffe_batch.engines.caffe.inside.trained_weights import without_weights
from caffe_batch.engines.torch.data.opening import Opener
from caffe_batch.engines.torch.fillers import Draws
from caffe_batch.engines.torch.layers.python import with_python
from caffe_batch.engines.torch.worker.devices import (
    NoDeviceError,
    choose_device,
    device_name,
    set_precision,
)
from caffe_batch.engines.torch.worker.nets import HERE, FedNet, graphs_of
from caffe_batch.engines.torch.worker.requests import Requests
from caffe_batch.engines.torch.worker.speech import Events
from caffe_batch.engines.torch.worker.starting import started
from caffe_batch.engines.torch.worker.train import start_from
from caffe_batch.errors import InputError
from caffe_batch.layers.loading import rules_with
from caffe_batch.net.filtering import net_state
from caffe_batch.net.recipe import NetFile
from caffe_batch.prototxt import read_net
from caffe_batch.schema import caffe_pb2


def main(settings: Mapping[str, Any], events: Events, requests: Requests) -> int:
    """Run all parts; returns the worker's exit status."""
    passed = 0

    def after_pass() -> bool:
        nonlocal passed
        passed += 1
        events.send("passed", number=passed)
        return not (events.closed or requests.stop)

    wants = "device"
    try:
        device, _ = choose_device(settings, caffe_pb2.SolverParameter())
        set_precision(settings["precision"], device)
        for number, part in enumerate(settings["parts"]):
            wants = "net"
            path = Path(part["net"])
            message = read_net(path, allow_unknown_fields=True)
            given = caffe_pb2.NetState(level=part["level"], stage=part["stages"])
            rules = with_python(rules_with(settings["rules"]))
            file = NetFile(message, path, net_state("TEST", message, given), rules)
            draws = Draws(settings["seed"])
            torch.manual_seed(draws.seed)
            (graph,) = graphs_of([file])
            feed = _Fed(part, device) if part["feed"] else None
            opener = Opener(draws, HERE.find)
            net = FedNet(
                file,
                graph,
                opener,
                device=device,
                draws=draws,
                precision=settings["precision"],
                filling=feed,
            )
            wants = "weights"
            with closing(opener), closing(net):
                fresh = start_from([Path(name) for name in part["weights"]], [net])
                if number == 0:
                    choices = [without_weights(fresh)] if fresh else []
                    started(events, device_name(device), choices)
                    events.built = True
                if not _run(net, part, after_pass):
                    return 1
    except (NoDeviceError, InputError) as error:
        if events.built:
            raise
        events.send("refused", why=error.message, wants=wants)
        return 1
    events.send("finished", update=0)
    return 0


class _Fed:
    """Fills the inputs of a net from a file."""

    def __init__(self, part: Mapping[str, Any], device: torch.device) -> None:
        self._feed, self._passes, self._device = Feed(part["feed"]), part["passes"], device
        self._number = 0

    def __call__(self) -> dict[str, torch.Tensor]:
        batch = self._feed.batch(self._number, self._passes)
        self._number += 1
        return {name: torch.from_numpy(values).to(self._device) for name, values in batch}


def _run(net: FedNet, part: Mapping[str, Any], after_pass: Callable[[], bool]) -> bool:
    """Run a net's passes, and write what is collected; False if nobody reads it."""
    collection = Collection(part["collect"])
    for _ in range(part["passes"]):
        tops = net.next_tops()
        inputs = {
            name: top.cpu().numpy().copy()
            for name, top in tops.items()
            if name in collection.inputs
        }
        made = collection.inputs - inputs.keys()  # by a DummyData layer, say
        with net.calculating():
            done = net.net.forward(tops, collection.blobs | made)
        kept = {**done.outputs, **done.blobs}
        inputs |= {name: kept[name].float().cpu().numpy() for name in made}
        collection.add(
            inputs,
            {name: kept[name].detach().float().cpu().numpy() for name in collection.blobs},
        )
        if not after_pass():
            return False
    collection.save(part["result"])
    return True

"""Measures gradients, for experiments/noise.py. Beside what main.py lists, the settings have

    net              the net prototxt
    level, stages    the state that its TRAIN net is built for
    weights          .caffemodel files, loaded one after the other
    frozen           (name of the layer, index) of each parameter whose lr_mult is 0
    seed             for Caffe's random numbers, or -1 to draw one
    solver_cpu       whether the recipe's solver says solver_mode: CPU
    groups, passes   groups of micro-batches, and micro-batches of each

Nothing is updated: all groups are measured at the same weights, on consecutive batches of the data.
A closed event pipe ends the measurement.
"""  # noqa: D400, D415  # a list

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

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
from caffe_batch.engines.torch.worker.micro_gradients import MicroGradients
from caffe_batch.engines.torch.worker.nets import HERE, FedNet, graphs_of
from caffe_batch.engines.torch.worker.requests import Requests
from caffe_batch.engines.torch.worker.speech import Events
from caffe_batch.engines.torch.worker.starting import started
from caffe_batch.engines.torch.worker.train import start_from
from caffe_batch.errors import InputError
from caffe_batch.layers.loading import installed_rules
from caffe_batch.net.filtering import net_state
from caffe_batch.net.recipe import NetFile
from caffe_batch.prototxt import read_net
from caffe_batch.schema import caffe_pb2


def main(settings: Mapping[str, Any], events: Events, requests: Requests) -> int:
    """Measure; returns the worker's exit status."""
    solver = caffe_pb2.SolverParameter()
    if settings["solver_cpu"]:
        solver.solver_mode = solver.CPU
    wants = "device"
    try:
        device, _ = choose_device(settings, solver)
        set_precision(settings["precision"], device)
        path = Path(settings["net"])
        message = read_net(path, allow_unknown_fields=True)
        given = caffe_pb2.NetState(level=settings["level"], stage=settings["stages"])
        rules = with_python(installed_rules())
        file = NetFile(message, path, net_state("TRAIN", message, given), rules)
        draws = Draws(settings["seed"])
        torch.manual_seed(draws.seed)
        (graph,) = graphs_of([file])
        opener = Opener(draws, HERE.find)
        net = FedNet(
            file, graph, opener, device=device, draws=draws, precision=settings["precision"]
        )
        wants = "weights"
        fresh = start_from([Path(name) for name in settings["weights"]], [net])
    except (NoDeviceError, InputError) as error:
        events.send("refused", why=error.message, wants=wants)
        return 1
    started(events, device_name(device), [without_weights(fresh)] if fresh else [])
    events.built = True
    gradients = MicroGradients(net.net, [(name, i) for name, i in settings["frozen"]])
    with closing(opener), closing(net):  # a thread that still reads can keep Python from ending
        for group in range(1, settings["groups"] + 1):
            net.net.clear_gradients()
            gradients.begin()
            for _ in range(settings["passes"]):
                net.net.backward(net.forward())
                gradients.add()
            events.send("gradients", update=group, **gradients.norms())
            if events.closed or requests.stop:
                return 1
    events.send("finished", update=0)
    return 0

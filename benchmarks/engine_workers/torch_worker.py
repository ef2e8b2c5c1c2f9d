"""Trains a net on the PyTorch engine, some updates at a time, for benchmarks/engines.py.

    python torch_worker.py SOLVER INPUTS

As caffe_worker.py, with the loop, the net and the update that a training has.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch

from caffe_batch.engines.torch.data.opening import Opener
from caffe_batch.engines.torch.fillers import Draws
from caffe_batch.engines.torch.ranks.group import Alone
from caffe_batch.engines.torch.update import Update
from caffe_batch.engines.torch.worker.moments import Surroundings
from caffe_batch.engines.torch.worker.nets import HERE, FedNet, graphs_of
from caffe_batch.engines.torch.worker.requests import Requests
from caffe_batch.engines.torch.worker.solving import Rates, Trained, Training
from caffe_batch.engines.torch.worker.speech import Events
from caffe_batch.net.reading import read_recipe


def processor_s() -> float:
    """The processor time of all threads so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    recipe = read_recipe(Path(sys.argv[1]))
    with np.load(sys.argv[2]) as file:
        inputs = {name: torch.from_numpy(file[name]) for name in file.files}
    device, draws = torch.device("cpu"), Draws(1)
    opener = Opener(draws, HERE.find)
    (graph,) = graphs_of([recipe.train])
    fed = FedNet(
        recipe.train, graph, opener, device=device, draws=draws, precision="float32",
        filling=lambda: inputs,
    )  # fmt: skip
    solver = recipe.solver
    solver.max_iter = 0
    made = Trained(
        solver, fed, [], Update(solver, fed.net.params), Rates(solver),
        Surroundings(draws, opener, [fed], device), Alone(),
    )  # fmt: skip
    null = os.open(os.devnull, os.O_RDWR)
    settings = {
        "log": os.devnull, "log_bytes": 1 << 30, "record_every": 1 << 30, "max_loss": None,
        "snapshot_at_tests": False,
    }  # fmt: skip
    training = Training(made, Events(null), Requests(), settings, 0, None)
    answers = os.fdopen(os.dup(1), "w", 1)
    os.dup2(null, 1)
    for line in sys.stdin:
        solver.max_iter += int(line)
        wall, processor = time.perf_counter(), processor_s()
        training.solve()
        found = {
            "wall_s": time.perf_counter() - wall,
            "processor_s": processor_s() - processor,
            "loss": float(fed.forward().loss),
        }
        answers.write(json.dumps(found) + "\n")


main()

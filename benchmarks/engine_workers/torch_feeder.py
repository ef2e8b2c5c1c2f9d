"""Reads a net's data on the PyTorch engine, some batches at a time, for benchmarks/input.py.

python torch_feeder.py NET
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

from caffe_batch.engines.torch.data.opening import Opener
from caffe_batch.engines.torch.fillers import Draws
from caffe_batch.engines.torch.worker.nets import HERE, FedNet, graphs_of
from caffe_batch.net.reading import read_recipe


def processor_s() -> float:
    """The processor time of all threads so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    recipe = read_recipe(Path(sys.argv[1]))
    draws = Draws(1)
    (graph,) = graphs_of([recipe.train])
    opener = Opener(draws, HERE.find)
    net = FedNet(
        recipe.train, graph, opener, device=torch.device("cpu"), draws=draws, precision="float32"
    )
    answers = os.fdopen(os.dup(1), "w", 1)
    before = processor_s()
    for line in sys.stdin:
        now = processor_s()
        spent, before = now - before, now
        for _ in range(int(line)):
            tops = net.next_tops()
        found = {"processor_s": spent, "sum": float(tops["data"].double().sum())}
        answers.write(json.dumps(found) + "\n")
    net.close()
    opener.close()


main()

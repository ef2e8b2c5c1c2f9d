"""Counts nets twice: with tensors that have no numbers, and with real ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from google.protobuf import text_format

from caffe_batch.engines.torch.memory.trace import Trace
from caffe_batch.engines.torch.worker.memory import FileAndNet, counted
from caffe_batch.layers import BUILT_IN
from caffe_batch.layers.base import Phase, Shape
from caffe_batch.net.batch import with_batch_size
from caffe_batch.net.filtering import net_state
from caffe_batch.net.recipe import NetFile
from caffe_batch.net.sources import Sources
from caffe_batch.schema import caffe_pb2

SOLVER = 'base_lr: 0.1 lr_policy: "fixed" momentum: 0.9 weight_decay: 0.01 max_iter: 9'


def solver_of(text: str = SOLVER) -> caffe_pb2.SolverParameter:
    """A solver."""
    return text_format.Parse(text, caffe_pb2.SolverParameter())


def net_of(
    text: str,
    size: int | None = None,
    *,
    phase: Phase = "TRAIN",
    shapes: Mapping[str, Shape] | None = None,
    stages: tuple[str, ...] = (),
) -> FileAndNet:
    """A net as text, built at a batch size."""
    message = text_format.Parse(text, caffe_pb2.NetParameter())
    state = net_state(phase, message, caffe_pb2.NetState(stage=stages))
    file = NetFile(message, None, state, BUILT_IN)
    layers = file.layers(Sources(input_shapes=shapes))
    return FileAndNet(file, file.build(layers if size is None else with_batch_size(layers, size)))


def fake_and_real(*nets: FileAndNet, solver: str = SOLVER) -> tuple[Trace, Trace]:
    """The traces of a training of these nets: counted without numbers, and with them."""
    torch.set_num_threads(1)
    nowhere = Sources((Path("/nonexistent"),)).find
    fake, real = (counted(solver_of(solver), nets, nowhere, fake=fake) for fake in (True, False))
    return fake, real

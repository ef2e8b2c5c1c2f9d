"""Hostile values of options and of environment variables, over all commands."""

from __future__ import annotations

import random
from functools import cache

import click

from caffe_batch.cli.main import COMMANDS, cli
from tools.fuzz.trials import Trial
from tools.fuzz.words import ARGUMENTS

_NET = b"""\
layer { name: "data" type: "DummyData" top: "data" top: "label"
  dummy_data_param { shape { dim: 12 dim: 1 dim: 8 dim: 8 } shape { dim: 12 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
#: Commands that only read and calculate, with what they are given besides.
_BASES = {
    "plan": ("net.prototxt", "--gpu-memory", "64MiB"),
    "memory": ("net.prototxt",),
    "strategies": ("net.prototxt", "--gpu-memory", "64MiB"),
    "render": ("lenet_digits",),
    "status": ("job",),
    "stop": ("job", "--timeout", "0"),
    "report": ("job", "--out", "report.html"),
    "train": ("job",),
}
#: Options that make a run longer than a trial may take, or show help.
_LEFT_OUT = {"--help", "--detach"}
_VARIABLES = (
    "CAFFE_BATCH_HOME", "CAFFE_BATCH_RUNTIME", "CUDA_VISIBLE_DEVICES", "HOME", "TMPDIR",
    "COLUMNS", "XDG_DATA_HOME", "NO_COLOR", "TERM", "PYTHONPATH", "LANG",
)  # fmt: skip


def draw_options(seed: int) -> Trial:
    """The trial of a seed."""
    draw = random.Random(f"options {seed}")  # noqa: S311  # the same from the same seed
    command = draw.choice(sorted(_BASES))
    given = list(_BASES[command])
    for _ in range(draw.choice((1, 1, 2, 3))):
        option = draw.choice(_options(command))
        given.append(option.opts[-1])
        if not option.is_flag:
            given.append(_value(draw, option))
    environment = {}
    if draw.random() < 0.3:
        value = draw.choice([each for each in ARGUMENTS if "\0" not in each])
        environment[draw.choice(_VARIABLES)] = value
    files = {"net.prototxt": _NET}
    return Trial(((command, *given),), files, "finished", environment=environment)


def _value(draw: random.Random, option: click.Option) -> str:
    if isinstance(option.type, click.Choice) and draw.random() < 0.7:
        return str(draw.choice(list(option.type.choices)))
    return draw.choice(ARGUMENTS)


@cache
def _options(command: str) -> list[click.Option]:
    found = cli.get_command(click.Context(cli), command)
    if found is None or command not in COMMANDS:
        raise ValueError(command)
    options = [each for each in found.params if isinstance(each, click.Option)]
    return [each for each in options if not _LEFT_OUT & set(each.opts)]

"""The options of ``train`` beside those of ``plan``, in groups, and what becomes of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from caffe_batch.cli.options import Command
from caffe_batch.errors import InputError

if TYPE_CHECKING:
    from caffe_batch.training import Options


def machine_options(command: Command) -> Command:
    """The options that say what to train on."""
    for option in (
        click.option(
            "--threads",
            type=click.IntRange(min=1),
            default=1,
            show_default=True,
            help="CPU threads of the matrix products; more than one helps large nets only.",
        ),
        click.option("--gpu", type=click.IntRange(min=0), metavar="ID", help="Train on this GPU."),
        click.option("--cpu", is_flag=True, help="Train on the CPU even if there is a GPU."),
        click.option(
            "--runtime", "spec", metavar="RUNTIME", help="The Python with caffe to train on."
        ),
    ):
        command = option(command)
    return command


def start_options(command: Command) -> Command:
    """The options that say what the first update begins with."""
    for option in (
        click.option(
            "--restart", is_flag=True, help="Throw away an earlier run; start from update 0."
        ),
        click.option(
            "--snapshot",
            type=click.Path(path_type=Path),
            metavar="FILE.solverstate",
            help="Go on from this snapshot of another run; its weights lie beside it.",
        ),
        click.option(
            "--weights",
            metavar="FILE[,FILE...]",
            help="Fine-tune: begin with these weights (.caffemodel), by the names of the layers.",
        ),
    ):
        command = option(command)
    return command


def view_options(command: Command) -> Command:
    """The options that say how the run is shown and recorded."""
    for option in (
        click.option("-q", "--quiet", is_flag=True, help="Show notes and the result only."),
        click.option(
            "--detach", is_flag=True, help="Train in the background, also without the terminal."
        ),
        click.option(
            "--follow", is_flag=True, help="Look on at a run that goes on in DIR; Ctrl-C leaves it."
        ),
        click.option(
            "--tensorboard",
            is_flag=True,
            help="Write the curves for TensorBoard as well, to DIR/tensorboard.",
        ),
        click.option(
            "--noise-scale",
            is_flag=True,
            help="Measure the gradient noise scale on the way, from the micro-batches of some "
            "updates.",
        ),
    ):
        command = option(command)
    return command


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """How to train and to show it, as the options came in."""

    spec: str | None
    cpu: bool
    gpu: int | None
    threads: int
    weights: str | None
    snapshot: Path | None
    restart: bool
    noise_scale: bool
    tensorboard: bool
    follow: bool
    detach: bool
    quiet: bool

    def check(self) -> None:
        """Refuses options that contradict each other."""
        if self.cpu and self.gpu is not None:
            raise InputError("--cpu and --gpu exclude each other", hint="Give one of them.")

    def options(self) -> Options:
        """What the library is told."""
        from caffe_batch.training import Device, Options

        return Options(
            device=Device.CPU if self.cpu else Device.AUTO if self.gpu is None else Device.GPU,
            gpu=self.gpu,
            threads=self.threads,
            restart=self.restart,
            noise_scale=self.noise_scale,
            weights=tuple(Path(name) for name in self.weights.split(",")) if self.weights else (),
            snapshot=self.snapshot,
        )

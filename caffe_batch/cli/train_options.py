"""The options of ``train`` beside those of ``plan``, in groups, and what becomes of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from caffe_batch.cli.options import option_group
from caffe_batch.errors import InputError

if TYPE_CHECKING:
    from caffe_batch.training import Options


#: The options that say what to train on.
machine_options = option_group(
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
        "--runtime",
        "spec",
        metavar="RUNTIME",
        help="The Python with caffe to train on, or a container image: docker[:IMAGE],"
        " podman[:IMAGE].",
    ),
)


#: The options that say what the first update begins with.
start_options = option_group(
    click.option("--restart", is_flag=True, help="Throw away an earlier run; start from update 0."),
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
)


#: The options that say how the run is shown and recorded.
view_options = option_group(
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
        help="Measure the gradient noise scale on the way, from the micro-batches of some updates.",
    ),
)


POSITIVE = click.IntRange(min=1)


class OnDivergence(click.ParamType):  # type: ignore[type-arg]  # not generic in older clicks
    """``stop``, or ``rollback:FACTOR``; becomes None or the factor."""

    name = "stop|rollback:FACTOR"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float | None:
        word, _, number = str(value).partition(":")
        if value == "stop":
            return None
        try:
            factor = float(number)
        except ValueError:
            factor = math.nan
        if word != "rollback" or not 0 < factor < 1:
            self.fail(f"{value!r} is neither stop nor such as rollback:0.5, below 1", param, ctx)
        return factor


#: What becomes of snapshots, of a loss that diverges and of a worker that hangs.
fault_options = option_group(
    click.option(
        "--stall-timeout",
        "stall_timeout_s",
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
        help="Stop if there is no progress for so long.  [default: 600, or 20 times the "
        "longest silence so far]",
    ),
    click.option(
        "--on-divergence",
        "rollback",
        type=OnDivergence(),
        default="stop",
        show_default=True,
        help="When the loss has diverged: stop, or go on from the last good snapshot with "
        "base_lr times FACTOR, at most three times.",
    ),
    click.option(
        "--max-loss",
        type=float,
        metavar="LOSS",
        help="A loss above it has diverged, as nan and inf always have.",
    ),
    click.option(
        "--keep-every",
        type=POSITIVE,
        metavar="UPDATES",
        help="Of each so many updates, keep the first snapshot as well.",
    ),
    click.option(
        "--keep-last",
        type=POSITIVE,
        metavar="N",
        help="Keep the newest N snapshots.  [default: all; with --keep-every, 1]",
    ),
)


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
    keep_last: int | None
    keep_every: int | None
    max_loss: float | None
    rollback: float | None
    stall_timeout_s: float | None

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
            keep_last=self.keep_last,
            keep_every=self.keep_every,
            max_loss=self.max_loss,
            rollback=self.rollback,
            stall_timeout_s=self.stall_timeout_s,
        )

"""The options of ``train`` that say what it keeps and what it does when something goes wrong."""

from __future__ import annotations

import math
from typing import Any

import click

from caffe_batch.cli.options import Command

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


def fault_options(command: Command) -> Command:
    """What becomes of snapshots, of a loss that diverges and of a worker that hangs."""
    for option in (
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
    ):
        command = option(command)
    return command


def taken_out(options: dict[str, Any]) -> dict[str, Any]:
    """Those of :func:`fault_options`, taken out of all; as ``training.Options`` names them."""
    names = ("keep_last", "keep_every", "max_loss", "rollback", "stall_timeout_s")
    return {name: options.pop(name) for name in names}

"""The options of ``train`` beside those of ``plan``, in groups."""

from __future__ import annotations

from pathlib import Path

import click

from caffe_batch.cli.data_options import data_option
from caffe_batch.cli.options import option_group

#: The options of ``train`` that say how (api.train_options), by name.
RUN_OPTIONS = (
    "cpu", "gpu", "threads", "weights", "snapshot", "restart", "noise_scale", "keep_last",
    "keep_every", "max_loss", "on_divergence", "stall_timeout", "check_data",
)  # fmt: skip


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
        metavar="RUNTIME",
        help="The Python with caffe to train on, or a container image: docker[:IMAGE],"
        " podman[:IMAGE].",
    ),
)


#: The options that say what the first update begins with.
start_options = option_group(
    data_option,
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
        help="Fine-tune: begin with these weights (.caffemodel), by the names of the layers; for a "
        "layer that several files have, the last one wins.",
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


#: What becomes of snapshots, of a loss that diverges and of a worker that hangs.
fault_options = option_group(
    click.option(
        "--stall-timeout",
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
        help="Stop if there is no progress for so long.  [default: 600, or 20 times the "
        "longest silence so far]",
    ),
    click.option(
        "--on-divergence",
        metavar="stop|rollback:FACTOR",
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

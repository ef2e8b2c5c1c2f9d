"""The options of ``train`` in addition to those of ``plan``, in groups."""

from __future__ import annotations

from pathlib import Path

import click

from caffe_batch.cli.data_options import data_option
from caffe_batch.cli.options import PRECISIONS, engine_section, option_group, section

#: The options of ``train`` that are passed to api.train_options, by name.
RUN_OPTIONS = (
    "cpu", "gpu", "threads", "weights", "snapshot", "restart", "try_larger", "noise_scale",
    "keep_last", "keep_every", "keep_best", "max_loss", "on_divergence", "stall_timeout",
    "check_data",
    "precision",
    "updates",
)  # fmt: skip

_start_section = section("Start of the run")
_view_section = section("Display")
_faults_section = section("Snapshots and faults")


#: The options for what to train on.
machine_options = option_group(
    engine_section(
        "--threads",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="CPU threads for the matrix products; more than one helps only large nets.",
    ),
    engine_section("--gpu", type=click.IntRange(min=0), metavar="ID", help="Train on this GPU."),
    engine_section(
        "--precision",
        type=click.Choice(PRECISIONS),
        help="PyTorch only: the precision of its arithmetic; tf32 and bf16 are faster on GPUs, "
        "but not the same training as Caffe's.  [default: as planned]",
    ),
    engine_section("--cpu", is_flag=True, help="Train on the CPU even if there is a GPU."),
    engine_section(
        "--runtime",
        metavar="RUNTIME",
        help="The Python with caffe to train on, or a container image: docker[:IMAGE],"
        " podman[:IMAGE].",
    ),
)


#: The options for what the first update begins with.
start_options = option_group(
    data_option,
    _start_section(
        "--updates",
        metavar="+N|N",
        help="Train the job DIR for N updates more than its solver says, or for N updates in all.",
    ),
    _start_section(
        "--restart",
        is_flag=True,
        help="Start from update 0; the earlier run is deleted once this one has a good snapshot.",
    ),
    _start_section(
        "--try-larger",
        is_flag=True,
        help="If an out-of-memory has made the split smaller, return to the planned one, from "
        "the newest snapshot; --restart does so by itself.",
    ),
    _start_section(
        "--snapshot",
        type=click.Path(path_type=Path),
        metavar="FILE.solverstate",
        help="Continue from this snapshot of another run; its weights must be beside it.",
    ),
    _start_section(
        "--weights",
        metavar="FILE[,FILE...]",
        help="Fine-tune: begin with these weights (.caffemodel), matched by layer name; if "
        "several files contain a layer, the last one wins.",
    ),
)


#: The options for how the run is shown and recorded.
view_options = option_group(
    _view_section("-q", "--quiet", is_flag=True, help="Show only notes and the result."),
    _view_section(
        "--detach", is_flag=True, help="Train in the background, independent of the terminal."
    ),
    _view_section(
        "--follow",
        is_flag=True,
        help="Watch the run in progress in DIR; Ctrl-C stops only the watching.",
    ),
    _view_section(
        "--tensorboard",
        is_flag=True,
        help="Also write the curves for TensorBoard, to DIR/tensorboard.",
    ),
    _view_section(
        "--on-end",
        metavar="COMMAND",
        help="Run this shell command after the training, however it ended. CAFFE_BATCH_JOB, "
        "CAFFE_BATCH_REASON and CAFFE_BATCH_EXIT_CODE in its environment say which job ended, and "
        "how.",
    ),
    _view_section(
        "--noise-scale",
        is_flag=True,
        help="Also measure the gradient noise scale, from the micro-batches of some updates.",
    ),
)


POSITIVE = click.IntRange(min=1)


#: The options for snapshots, a loss that diverges and a worker that hangs.
fault_options = option_group(
    _faults_section(
        "--stall-timeout",
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
        help="Stop if there is no progress for this long.  [default: 600, or 20 times the "
        "longest pause so far]",
    ),
    _faults_section(
        "--on-divergence",
        metavar="stop|rollback:FACTOR",
        default="stop",
        show_default=True,
        help="If the loss diverges: stop, or continue from the last good snapshot with base_lr "
        "times FACTOR, at most three times.",
    ),
    _faults_section(
        "--max-loss",
        type=float,
        metavar="LOSS",
        help="Treat a loss above this as diverged; nan and inf always are.",
    ),
    _faults_section(
        "--keep-every",
        type=POSITIVE,
        metavar="UPDATES",
        help="Also keep the first snapshot of every UPDATES updates.",
    ),
    _faults_section(
        "--keep-last",
        type=POSITIVE,
        metavar="N",
        help="Keep the newest N snapshots.  [default: all, or 1 with --keep-every or --keep-best]",
    ),
    _faults_section(
        "--keep-best",
        metavar="METRIC",
        help="Take a snapshot at each test, and keep the best one by this output of the test net, "
        "such as accuracy (or 1:accuracy, that of test net 1): the highest, or the lowest for a "
        "loss. A run that continues remembers it; none ends that.",
    ),
)

"""The options of the commands that use what a job has trained."""

from __future__ import annotations

from pathlib import Path

import click

from caffe_batch.cli.options import EngineName, engine_section, option_group, section

_snapshot_section = section("Snapshot")

#: Which weights.
snapshot_options = option_group(
    _snapshot_section(
        "--best",
        is_flag=True,
        help="The snapshot with the best test: the highest accuracy or other score, or else the "
        "lowest loss.  [default: the newest]",
    ),
    _snapshot_section(
        "--snapshot",
        type=click.Path(path_type=Path, readable=False),
        metavar="FILE",
        help="These weights: a .caffemodel, or a .solverstate with its weights beside it.",
    ),
)

threads_option = engine_section(
    "--threads",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="CPU threads for the matrix products.",
)
runtime_option = engine_section(
    "--runtime", metavar="RUNTIME", help="The Python with the engine to run on."
)
job_engine_option = engine_section(
    "--engine",
    type=EngineName(),
    help="What computes.  [default: what trained last]",
)

#: What computes, and where.
computing_options = option_group(
    threads_option,
    engine_section("--gpu", type=click.IntRange(min=0), metavar="ID", help="Run on this GPU."),
    engine_section("--cpu", is_flag=True, help="Run on the CPU even if there is a GPU."),
    runtime_option,
    job_engine_option,
)

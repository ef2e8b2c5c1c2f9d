"""The options that describe a plan, in groups, for every command that plans."""

from __future__ import annotations

import click

from caffe_batch.cli.options import (
    PRECISIONS,
    build_options,
    engine_section,
    net_options,
    no_compensate_option,
    option_group,
    section,
)

POSITIVE = click.IntRange(min=1)

_split_section = section("Batch and split")
_schedule_section = section("Schedule")
_memory_section = section("Memory budget")
_records_section = section("Data")

effective_batch_option = _split_section(
    "--effective-batch",
    type=int,
    metavar="N",
    help="Samples per update that the recipe needs.  [default: the files' own]",
)
recipe_batch_option = _schedule_section(
    "--recipe-batch",
    type=POSITIVE,
    metavar="N",
    help="Samples per update that the files' schedule was written for.  [default: the files' own "
    "batch]",
)
test_every_option = _schedule_section(
    "--test-every", metavar="EPOCHS", help="Epochs between tests."
)
epochs_option = _schedule_section(
    "--epochs", metavar="EPOCHS", help="Train for this many epochs.  [default: the recipe's]"
)


#: The options that say how much memory there is, and whose.
budget_options = option_group(
    _memory_section(
        "--reserve",
        metavar="SIZE",
        envvar="CAFFE_BATCH_RESERVE",
        show_envvar=True,
        help="The part of the budget that is kept for the CUDA context, or in CPU mode for the "
        "process itself and the copies that a snapshot makes.  [default: what `doctor` measured "
        "on this GPU, or else 512MiB; in CPU mode 96MiB and the copies]",
    ),
    _memory_section(
        "--mode",
        type=click.Choice(["gpu", "cpu"]),
        default="gpu",
        show_default=True,
        help="Which memory the budget is for: the GPU's, or the host's in CPU mode.",
    ),
    _memory_section(
        "--gpu-memory",
        metavar="SIZE|auto|P%",
        help="The memory that a run may use: a size (8GiB, 11000MiB), auto (all that is free), or "
        "a share of what is free (80%).",
    ),
)


gpu_option = _memory_section(
    "--gpu",
    type=click.IntRange(min=0),
    metavar="ID",
    help="The GPU to train on later; auto and P% refer to it.  [default: the solver's device_id]",
)

precision_option = engine_section(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="float32",
    show_default=True,
    help="PyTorch only: the precision of its arithmetic; tf32 and bf16 are faster on GPUs, but "
    "not the same training as Caffe's.",
)


#: The options for the number of records.
records_options = option_group(
    _records_section(
        "--test-records",
        type=POSITIVE,
        multiple=True,
        help="Number of test records, if they can't be counted; once for each test net.",
    ),
    _records_section(
        "--train-records",
        type=POSITIVE,
        help="Number of training records, if they can't be counted.",
    ),
)


#: The options for the split itself.
split_options = option_group(
    _split_section(
        "--prefer-multiple-of",
        type=POSITIVE,
        default=1,
        metavar="M",
        help="Prefer a batch_size that is a multiple of M if one fits.",
    ),
    _split_section("--iter-size", type=POSITIVE, metavar="K", help="Use exactly this iter_size."),
    _split_section("--batch-size", type=POSITIVE, metavar="B", help="Use exactly this batch_size."),
    _split_section(
        "--tolerance",
        default="0%",
        metavar="P%",
        help="How far the effective batch may differ from N if that saves passes per update.",
    ),
    _split_section(
        "--gpus", type=int, default=1, show_default=True, help="GPUs that share each update."
    ),
    effective_batch_option,
)


#: The options for the schedule and the compensations.
schedule_options = option_group(
    no_compensate_option,
    _schedule_section(
        "--max-batch",
        type=POSITIVE,
        metavar="N",
        help="The largest effective batch that growth may reach.  [default: a tenth of the "
        "training records]",
    ),
    _schedule_section(
        "--schedule",
        type=click.Choice(["decay", "grow", "hybrid"]),
        default="decay",
        show_default=True,
        help="Where the recipe drops the learning rate: decay it, grow the batch instead, or grow "
        "the batch once and then decay.",
    ),
    _schedule_section(
        "--keep-tests", is_flag=True, help="Don't change test batches and test_iter."
    ),
    _schedule_section(
        "--shrink-tests",
        is_flag=True,
        help="Take the split with the fewest passes, even if a smaller test batch changes a score.",
    ),
    _schedule_section("--keep-schedule", is_flag=True, help="Don't change any interval."),
    recipe_batch_option,
    _schedule_section(
        "--lr-scaling",
        type=click.Choice(["none", "linear", "sqrt"]),
        default="none",
        show_default=True,
        help="How base_lr follows the effective batch.",
    ),
    _schedule_section("--snapshot-every", metavar="EPOCHS", help="Epochs between snapshots."),
    test_every_option,
    epochs_option,
)


#: The options for what several GPUs count together.
shared_options = option_group(
    _split_section(
        "--sync-valid",
        is_flag=True,
        help="PyTorch on several GPUs: losses divide by the labels that count on all of them, not "
        "each by its own (normalization: VALID with an ignore_label).",
    ),
    _split_section(
        "--sync-batch-norm",
        is_flag=True,
        help="PyTorch on several GPUs: BatchNorm normalises over the samples of all of them, not "
        "each over its own.",
    ),
)


#: The options for how the plan scales over GPUs.
scaling_options = option_group(
    _split_section(
        "--samples-per-s",
        type=float,
        metavar="N",
        help="With --link: samples that one GPU trains per second, as train shows them.",
    ),
    _split_section(
        "--link",
        metavar="RATE",
        help="Also show how long an update takes on 1 to 1,024 GPUs, each of which sends this much "
        "to the next one: 25GB/s.",
    ),
)


#: All options that describe a plan.
plan_options = option_group(
    build_options,
    records_options,
    net_options,
    schedule_options,
    shared_options,
    split_options,
    budget_options,
)

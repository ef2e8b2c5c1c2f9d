"""A gradient noise scale on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from caffe_batch.errors import InputError
from caffe_batch.experiments.noise import Measurement
from caffe_batch.jobs.metrics import GradientMetrics
from caffe_batch.planning.noise import Advice, advise, estimate_noise_scale
from caffe_batch.reporting.console import PlainTable

#: The effective batches to compare, as multiples of the present one.
FACTORS = (Fraction(1, 4), Fraction(1, 2), Fraction(1), Fraction(2), Fraction(4))


def noise_view(measured: Measurement, effective_batch: int) -> RenderableType:
    """The noise scale, other effective batches compared with the present one, and the advice."""
    advice = advise(measured.noise, effective_batch)
    options = measured.options
    names = ", ".join(path.name for path in options.weights)
    where = f"at the weights of {names}" if names else "at the weights that the fillers give"
    parts: list[RenderableType] = [
        Text(f"noise scale {measured.noise} {where}", style="bold"),
        f"measured on the {measured.device}: {options.groups} groups of {options.passes} "
        f"micro-batches of {measured.batch_size} samples",
        "",
    ]
    if not advice.is_bound:
        parts += [_batches(advice), ""]
    return Group(*parts, Text(advice.text))


def training_noise(lines: Sequence[GradientMetrics], effective_batch: int) -> str:
    """The noise scale from the updates that a training has measured, in two lines.

    The noise scale changes while a net learns, mostly upwards, so the two halves of the updates are
    reported separately. The advice is based on the second half.
    """
    observations = [line.observation for line in lines]
    middle = len(observations) // 2
    try:
        before = estimate_noise_scale(observations[:middle])
        after = estimate_noise_scale(observations[middle:])
    except InputError as error:
        return f"unknown after {len(lines)} measured updates: {error.message}"
    return (
        f"{after} from update {lines[middle].update:,} on; before that {before} "
        f"({len(lines):,} updates measured)\n       {advise(after, effective_batch).text}"
    )


def _batches(advice: Advice) -> Table:
    table = PlainTable(box=None, header_style="dim", pad_edge=False)
    for header in ("", "effective batch", "updates", "samples"):
        table.add_column(header, justify="right", no_wrap=True)
    for factor in FACTORS:
        batch = factor * advice.effective_batch
        if batch.denominator == 1:
            updates, samples = advice.change(float(factor))
            table.add_row(
                "->" if factor == 1 else "",
                f"{int(batch):,}",
                f"x {updates:.2f}",
                f"x {samples:.2f}",
                style="bold" if factor == 1 else "",
            )
    return table

"""The memory of a net as JSON and as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table

from caffe_batch.memory.base import Prediction
from caffe_batch.memory.build import Build
from caffe_batch.memory.ledger import LayerBytes, Part
from caffe_batch.net.assumed import Assumption, assumptions
from caffe_batch.net.batch import batch_size
from caffe_batch.net.graph import Net
from caffe_batch.prototxt import SkippedField, skipped_text
from caffe_batch.reporting.console import PlainTable
from caffe_batch.sizes import format_size

#: The columns of the table, in order.
COLUMNS = {
    Part.ACTIVATIONS: "activ.",
    Part.GRADIENTS: "grad.",
    Part.PARAMETERS: "params",
    Part.SOLVER_STATE: "state",
    Part.LAYER_BUFFERS: "buffers",
    Part.DATA_PREFETCH: "prefetch",
}


#: The width of the columns that are always shown, at their narrowest, and of one part's column.
_FIXED_WIDTH, _PART_WIDTH = 36, 10


def memory_json(train: Net, tests: Sequence[Net], prediction: Prediction) -> dict[str, Any]:
    """The JSON of ``caffe-batch memory``; other programs may rely on its keys.

    Raises:
        NetError: The data layers disagree on the batch size, or there are none.
    """
    layers = [node.layer for node in train.nodes]
    return {
        "mode": prediction.mode,
        "engine": prediction.engine,
        "build": prediction.build.value,
        "batch_size": batch_size(layers),
        "device_bytes": {
            "after_build": prediction.after_build_bytes,
            "peak": prediction.after_two_updates_bytes,
            "peak_with_tests": prediction.peak_bytes,
            "peak_lower": prediction.after_two_updates_bytes - prediction.uncertain_bytes,
            "rounding": prediction.rounding_bytes,
        },
        "log_memory_required_for_data": train.log_memory_required_for_data,
        "log_memory_required_for_data_tests": [net.log_memory_required_for_data for net in tests],
        "parts": {part.key: size for part, size in prediction.parts.items()},
        "blobs": {name: list(shape) for name, shape in train.blob_shapes.items()},
        "params": {
            layer: [list(shape) for shape in shapes] for layer, shapes in train.param_shapes.items()
        },
        "layers": [
            {
                "net": layer.net,
                "name": layer.name,
                "type": layer.type,
                "bytes": layer.bytes,
                **{part.key: layer.parts.get(part, 0) for part in COLUMNS},
            }
            for layer in prediction.layers
        ],
        "assumptions": [each.json() for each in assumptions(layers)],
        "unknown_layers": list(prediction.unknown_layers),
        "upper_bound_layers": list(prediction.upper_bound_layers),
        "lower_bound": bool(prediction.unknown_layers),
    }


def memory_table(
    prediction: Prediction, *, by_type: bool = False, top: int | None = None, width: int
) -> Table:
    """One row for each layer with its bytes by part and its share; the last row is the total.

    Args:
        prediction: What to show.
        by_type: One row for each layer type instead, largest first.
        top: Show only this many rows, largest first; the others are summed in one row.
        width: Characters per line; if they are few, the smallest parts share one column.
    """
    rows = _rows_by_type(prediction) if by_type else _rows_by_layer(prediction)
    if by_type or top is not None:
        rows.sort(key=lambda row: sum(layer.bytes for layer in row[2]), reverse=True)
    shown, others = rows[:top], rows[len(rows) if top is None else top :]
    columns = _columns(prediction, (width - _FIXED_WIDTH) // _PART_WIDTH)
    table = PlainTable(box=None, header_style="bold", pad_edge=False)
    table.add_column("layer", overflow="ellipsis", min_width=10)
    table.add_column("type", overflow="ellipsis", min_width=6)
    for title in columns:
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("sum", justify="right", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)

    def add(name: str, kind: str, layers: list[LayerBytes], **style: str) -> None:
        size = sum(layer.bytes for layer in layers)
        cells = [
            sum(layer.parts.get(part, 0) for layer in layers for part in parts)
            for parts in columns.values()
        ]
        share = size / prediction.peak_bytes if prediction.peak_bytes else 0.0
        table.add_row(
            name,
            kind,
            *(format_size(cell) if cell else "" for cell in cells),
            format_size(size),
            f"{share:.1%}",
            **style,
        )

    for row in shown:
        add(*row)
    if others:
        rest = [layer for _, _, layers in others for layer in layers]
        add(f"{len(others)} more", "types" if by_type else "layers", rest)
    add("total", "", list(prediction.layers), style="bold")
    return table


Row = tuple[str, str, list[LayerBytes]]
"""Two labels, and the layers whose bytes the row adds up."""


def _rows_by_layer(prediction: Prediction) -> list[Row]:
    return [
        (layer.name if layer.net == "train" else f"{layer.name} ({layer.net})", layer.type, [layer])
        for layer in prediction.layers
    ]


def _rows_by_type(prediction: Prediction) -> list[Row]:
    groups: dict[str, list[LayerBytes]] = {}
    for layer in prediction.layers:
        groups.setdefault(layer.type, []).append(layer)
    return [(f"{len(layers)} layers", kind, layers) for kind, layers in groups.items()]


def _columns(prediction: Prediction, room: int) -> dict[str, list[Part]]:
    """The parts of each column: one part each, but the smallest share one if there is no room."""
    used = [part for part in COLUMNS if any(layer.parts.get(part) for layer in prediction.layers)]
    if len(used) <= room:
        return {COLUMNS[part]: [part] for part in used}
    if room < 1:
        return {}
    totals = {part: sum(layer.parts.get(part, 0) for layer in prediction.layers) for part in used}
    kept = sorted(used, key=totals.__getitem__, reverse=True)[: room - 1]
    columns = {COLUMNS[part]: [part] for part in used if part in kept}
    return {**columns, "others": [part for part in used if part not in kept]}


def memory_sentences(
    prediction: Prediction,
    *,
    tested: bool,
    assumed: Sequence[Assumption] = (),
    skipped: Sequence[SkippedField] = (),
) -> Iterator[str]:
    """Sentences about a prediction: the total, and how exact it is.

    Args:
        prediction: The memory.
        tested: Whether it includes test nets.
        assumed: What is assumed of layers without a rule.
        skipped: Fields that were skipped because Caffe 1.0 doesn't know them.
    """
    place = "device" if prediction.mode == "gpu" else "host"
    bound = "at least " if prediction.unknown_layers else ""
    if prediction.uncertain_bytes:
        bound = f"{format_size(prediction.lower_peak_bytes)} to "
    if prediction.engine != "caffe":
        yield from _counted_sentences(prediction, tested=tested)
        return
    yield (
        f"Caffe requests {bound}{format_size(prediction.peak_bytes)} of {place} memory "
        f"({prediction.peak_bytes:,} bytes{', including a test' if tested else ''}), "
        f"{format_size(prediction.after_build_bytes)} of it while it builds the nets."
    )
    if prediction.rounding_bytes:
        yield (
            f"cudaMalloc rounds that up by {format_size(prediction.rounding_bytes)} "
            f"({prediction.rounding_bytes:,} bytes)."
        )
    if prediction.build is Build.CUDNN and prediction.uncertain_bytes:
        yield "The upper figure includes the most that cuDNN's workspaces can take: Caffe's limit."
    if prediction.upper_bound_layers:
        names = ", ".join(prediction.upper_bound_layers)
        yield f"The upper figure includes the most that {names} can take: it depends on the data."
    if prediction.build is Build.NVCAFFE:
        yield (
            "For NVCaffe all figures are estimates. They don't include the workspace that its "
            "convolutions share, which takes what is free, up to half of the GPU's memory."
        )
    yield from (each.text for each in assumed)
    if prediction.unknown_layers:
        names = ", ".join(prediction.unknown_layers)
        yield f"This is a lower bound: not all memory of {names} is known."
    if lacking := skipped_text(skipped):
        yield lacking


def _counted_sentences(prediction: Prediction, *, tested: bool) -> Iterator[str]:
    """The same about a memory that was counted in a run of the engine without numbers."""
    gpu = prediction.mode == "gpu"
    yield (
        f"PyTorch takes {format_size(prediction.lower_peak_bytes)} to "
        f"{format_size(prediction.peak_bytes)} of {'device' if gpu else 'host'} memory "
        f"({prediction.peak_bytes:,} bytes{', including a test' if tested else ''}). The tensors "
        f"are counted to the byte; what {'the libraries take' if gpu else 'its kernels take'} "
        f"beside them is an estimate of up to {format_size(prediction.uncertain_bytes)}."
    )
    if prediction.rounding_bytes:
        yield (
            f"Its allocator reserves {format_size(prediction.rounding_bytes)} more "
            f"({prediction.rounding_bytes:,} bytes), by simulation: it rounds, and it can't always "
            "use again what is free."
        )

"""The memory of a net as data for other programs and as a table for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.table import Table

from caffe_batch.memory.ledger import LayerBytes, Part
from caffe_batch.memory.model import Prediction
from caffe_batch.net.batch import batch_size
from caffe_batch.net.graph import Net
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


def memory_json(train: Net, tests: Sequence[Net], prediction: Prediction) -> dict[str, Any]:
    """The JSON of ``caffe-batch memory`` (keys as in the design)."""
    return {
        "mode": prediction.mode,
        "batch_size": batch_size([node.layer for node in train.nodes]),
        "device_bytes": {
            "after_build": prediction.after_build_bytes,
            "peak": prediction.after_two_updates_bytes,
            "peak_with_tests": prediction.peak_bytes,
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
        "unknown_layers": list(prediction.unknown_layers),
        "lower_bound": bool(prediction.unknown_layers),
    }


def largest(layers: Iterable[LayerBytes], number: int) -> list[LayerBytes]:
    """The layers that cost most, largest first."""
    return sorted(layers, key=lambda layer: layer.bytes, reverse=True)[:number]


def memory_table(prediction: Prediction, *, top: int | None = None) -> Table:
    """One row a layer with its bytes by part and its share; the last row is the total.

    Args:
        prediction: What to show.
        top: Show only so many layers, the largest first; the others add up in one row.
    """
    rows = list(prediction.layers)
    shown = rows if top is None else largest(rows, top)
    used = [part for part in COLUMNS if any(layer.parts.get(part) for layer in rows)]
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("layer", overflow="ellipsis", min_width=10)
    table.add_column("type", overflow="ellipsis", min_width=6)
    for part in used:
        table.add_column(COLUMNS[part], justify="right", no_wrap=True)
    table.add_column("sum", justify="right", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)

    def add(name: str, kind: str, layers: list[LayerBytes], **style: str) -> None:
        size = sum(layer.bytes for layer in layers)
        cells = [sum(layer.parts.get(part, 0) for layer in layers) for part in used]
        share = size / prediction.peak_bytes if prediction.peak_bytes else 0.0
        table.add_row(
            name,
            kind,
            *(format_size(cell) if cell else "" for cell in cells),
            format_size(size),
            f"{share:.1%}",
            **style,  # type: ignore[arg-type]  # rich types its keywords one by one
        )

    for layer in shown:
        label = layer.name if layer.net == "train" else f"{layer.name} ({layer.net})"
        add(label, layer.type, [layer])
    others = [layer for layer in rows if layer not in shown]
    if others:
        add(f"{len(others)} more layers", "", others)
    add("total", "", rows, style="bold")
    return table

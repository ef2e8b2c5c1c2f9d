"""What is shown of a trace: a few numbers, small enough to be kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from caffe_batch.engines.torch.memory.allocator import simulated
from caffe_batch.engines.torch.memory.trace import Stage, Trace
from caffe_batch.memory.ledger import LayerBytes, Part

#: The name of the row of what belongs to no layer.
NO_LAYER = "(update and snapshot)"


def counted(value: Any) -> int:
    """A number of bytes that was kept.

    Raises:
        OverflowError, TypeError, ValueError: It isn't one.
    """
    size = int(value)
    if size < 0:
        raise ValueError(f"not a number of bytes: {size}")
    return size


@dataclass(frozen=True)
class Figures:
    """The memory of a training with PyTorch, in bytes.

    Attributes:
        peak: The most that tensors take at once.
        build: The same until the nets and the solver are built.
        allocated: The most that the caching allocator has handed out.
        reserved: The most that it has from the driver.
        layers: What the peak consists of.
    """

    peak: int
    build: int
    allocated: int
    reserved: int
    layers: tuple[LayerBytes, ...]

    @classmethod
    def of(cls, trace: Trace) -> Figures:
        """Those of a trace."""
        parts: list[dict[Part, int]] = [{} for _ in trace.places]
        for tensor in trace.at_peak():
            mine = parts[tensor.place]
            mine[tensor.part] = mine.get(tensor.part, 0) + tensor.bytes
        layers = [
            LayerBytes(
                "train" if place.net == 0 else f"test{place.net - 1}",
                place.name or NO_LAYER,
                place.type,
                sum(mine.values()),
                mine,
            )
            for place, mine in zip(trace.places, parts, strict=True)
            if place.name or mine
        ]
        found = simulated(trace)
        return cls(
            sum(layer.bytes for layer in layers),
            trace.peak_bytes([Stage.BUILD]),
            found.allocated_bytes,
            found.reserved_bytes,
            tuple(layers),
        )

    def json(self) -> dict[str, Any]:
        """A value that :meth:`of_json` reads."""
        return {
            "bytes": [self.peak, self.build, self.allocated, self.reserved],
            "layers": [
                [each.net, each.name, each.type, {int(part): n for part, n in each.parts.items()}]
                for each in self.layers
            ],
        }

    @classmethod
    def of_json(cls, value: Mapping[str, Any]) -> Figures:
        """The figures of a value that :meth:`json` gave.

        Raises:
            AttributeError, KeyError, OverflowError, TypeError, ValueError: It isn't one.
        """
        peak, build, allocated, reserved = map(counted, value["bytes"])
        layers = []
        for net, name, kind, parts in value["layers"]:
            mine = {Part(int(part)): counted(size) for part, size in parts.items()}
            layers.append(LayerBytes(net, name, kind, sum(mine.values()), mine))
        return cls(peak, build, allocated, reserved, tuple(layers))

"""A random training as plain data: layers, solver and split, and their text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

#: The batch in the files: a size that no split of the search has.
FILE_BATCH = 5


@dataclass(frozen=True)
class Spec:
    """One ``param`` of a layer; None and "" stand for what isn't written."""

    name: str = ""
    lr_mult: float | None = None
    decay_mult: float | None = None

    def text(self) -> str:
        parts = [f'name: "{self.name}"'] if self.name else []
        if self.lr_mult is not None:
            parts.append(f"lr_mult: {self.lr_mult}")
        if self.decay_mult is not None:
            parts.append(f"decay_mult: {self.decay_mult}")
        return f"param {{ {' '.join(parts)} }}"


@dataclass(frozen=True)
class DrawnLayer:
    """One layer; ``settings`` is the text of its own messages, ``rules`` of include and exclude."""

    name: str
    type: str
    bottoms: tuple[str, ...] = ()
    tops: tuple[str, ...] = ()
    settings: str = ""
    loss_weights: tuple[float, ...] = ()
    propagate_down: tuple[bool, ...] = ()
    params: tuple[Spec, ...] = ()
    rules: str = ""

    @property
    def in_place(self) -> bool:
        return any(a == b for a, b in zip(self.bottoms, self.tops, strict=False))

    def text(self) -> str:
        parts = [f'name: "{self.name}" type: "{self.type}"']
        parts += [f'bottom: "{bottom}"' for bottom in self.bottoms]
        parts += [f'top: "{top}"' for top in self.tops]
        parts += [f"loss_weight: {weight}" for weight in self.loss_weights]
        parts += [f"propagate_down: {str(down).lower()}" for down in self.propagate_down]
        parts += [spec.text() for spec in self.params]
        parts += [text for text in (self.rules, self.settings) if text]
        return f"layer {{ {' '.join(parts)} }}"


@dataclass(frozen=True)
class Case:
    """One training at one split of its batch.

    Attributes:
        layers: In order.
        solver: Fields as they are written.
        batch_size, iter_size: The split.
        net: Fields of the net beside its layers.
    """

    layers: tuple[DrawnLayer, ...]
    solver: Mapping[str, str]
    batch_size: int
    iter_size: int
    net: Mapping[str, str] = field(default_factory=dict)

    def net_text(self) -> str:
        fields = [f"{name}: {value}" for name, value in self.net.items()]
        return "\n".join([*fields, *(layer.text() for layer in self.layers), ""])

    def solver_text(self) -> str:
        return "".join(f"{name} {value}\n" for name, value in self.solver.items())

    def json(self) -> dict[str, Any]:
        return asdict(self)

"""Split insertion: a blob that several layers read gets one copy for each reader.

Source: util/insert_splits.cpp. The names are Caffe's own, so that logs and snapshots match.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from caffe_batch.errors import MissingBottomError, did_you_mean
from caffe_batch.layers.base import Layer

Place = tuple[int, int]
"""(index of a layer, index of one of its tops)."""


def insert_splits(layers: Sequence[Layer]) -> list[Layer]:
    """The layers with a Split after each producer whose top has more than one reader.

    An explicit loss weight counts as one more reader of the top, the loss; the weight then moves to
    the Split's first top.

    Raises:
        MissingBottomError: No earlier layer produces a bottom.
    """
    source_of, readers, loss_weight = _count_readers(layers)
    taken: dict[Place, int] = {}
    out: list[Layer] = []
    for i, layer in enumerate(layers):
        bottoms = list(layer.bottoms)
        for j, blob in enumerate(bottoms):
            place = source_of[i, j]
            if readers[place] > 1:
                bottoms[j] = _top_name(layers, place, blob, taken.get(place, 0))
                taken[place] = taken.get(place, 0) + 1
        splits: list[Layer] = []
        for j, blob in enumerate(layer.tops):
            place = (i, j)
            if readers.get(place, 0) > 1:
                weight = loss_weight.get(place, 0.0)
                splits.append(_split(layers, place, blob, readers[place], weight))
                if weight:
                    layer = replace(layer, loss_weights=())
                    taken[place] = taken.get(place, 0) + 1
        if tuple(bottoms) != layer.bottoms:
            layer = replace(layer, bottoms=tuple(bottoms))
        out.append(layer)
        out.extend(splits)
    return out


def _count_readers(
    layers: Sequence[Layer],
) -> tuple[dict[Place, Place], dict[Place, int], dict[Place, float]]:
    last: dict[str, Place] = {}
    source_of: dict[Place, Place] = {}
    readers: dict[Place, int] = {}
    loss_weight: dict[Place, float] = {}
    for i, layer in enumerate(layers):
        for j, blob in enumerate(layer.bottoms):
            place = last.get(blob)
            if place is None:
                raise MissingBottomError(
                    f"bottom {blob!r} isn't produced by any earlier layer",
                    blob=blob,
                    layer=layer.name,
                    hint=_missing_hint(blob, list(last), layers[i + 1 :]),
                )
            source_of[i, j] = place
            readers[place] = readers.get(place, 0) + 1
        for j, blob in enumerate(layer.tops):
            last[blob] = (i, j)
        for blob, weight in zip(layer.tops, layer.loss_weights, strict=False):
            place = last[blob]
            loss_weight[place] = weight
            if weight:
                readers[place] = readers.get(place, 0) + 1
    return source_of, readers, loss_weight


def _missing_hint(blob: str, known: Sequence[str], after: Sequence[Layer]) -> str | None:
    for layer in after:
        if blob in layer.tops:
            return (
                f"Layer {layer.name!r} produces it, but comes later: Caffe builds layers in the "
                "order of the file."
            )
    return did_you_mean(blob, known)


def _split_name(layers: Sequence[Layer], place: Place, blob: str) -> str:
    return f"{blob}_{layers[place[0]].name}_{place[1]}_split"


def _top_name(layers: Sequence[Layer], place: Place, blob: str, nth: int) -> str:
    return f"{_split_name(layers, place, blob)}_{nth}"


def _split(layers: Sequence[Layer], place: Place, blob: str, readers: int, weight: float) -> Layer:
    return Layer(
        name=_split_name(layers, place, blob),
        type="Split",
        bottoms=(blob,),
        tops=tuple(_top_name(layers, place, blob, nth) for nth in range(readers)),
        loss_weights=(weight, *([0.0] * (readers - 1))) if weight else (),
    )

"""The batch size of a net: reading it from the layers, and changing it.

Data layers have a ``batch_size``. Input and DummyData layers have whole shapes, whose batch axis
is the first one, or the second where the blob feeds a recurrent layer (there, time comes first). A
Reshape may have the batch size written out as the first number of its shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from caffe_batch.errors import NetError
from caffe_batch.layers.base import Layer, Shape
from caffe_batch.layers.unknown import UNKNOWN
from caffe_batch.net.graph import rule_of


@dataclass(frozen=True, slots=True)
class BatchSite:
    """One number in a net that is its batch size.

    Attributes:
        layer: Index of the layer in the given sequence.
        shape: Which of the layer's shapes; None for the layer's batch_size.
        axis: Which axis of that shape.
    """

    layer: int
    shape: int | None = None
    axis: int = 0


def batch_size(layers: Sequence[Layer]) -> int:
    """The batch size of the net.

    Raises:
        NetError: No layer has one, or two data layers disagree.
    """
    batched = [layer for layer in layers if rule_of(layer).has_batch_size]
    if batched:
        first = batched[0]
        for other in batched[1:]:
            if other.settings.batch_size != first.settings.batch_size:
                raise NetError(
                    f"data layers {first.name!r} and {other.name!r} of one phase have batch_size "
                    f"{first.settings.batch_size} and {other.settings.batch_size}",
                    hint="Give both the same batch_size: a batch takes samples from each of them.",
                )
        return int(first.settings.batch_size)
    sites = shaped_sites(layers)
    unknown = unknown_source(layers)
    if unknown is not None:
        raise NetError(
            f"produces the data, and how a {unknown.type} layer sets its batch size is not known",
            layer=unknown.name,
            hint="To plan, replace it with an Input layer that has its shapes.",
        )
    if not sites:
        raise NetError(
            "no layer reads or produces data, so there is no batch size",
            hint="A net needs a Data, ImageData, HDF5Data, WindowData, MemoryData, DummyData or "
            "Input layer in this phase.",
        )
    return site_size(layers, sites[0])


def site_size(layers: Sequence[Layer], site: BatchSite) -> int:
    """The number at that site."""
    layer = layers[site.layer]
    if site.shape is None:
        return int(layer.settings.batch_size)
    return _literal_shapes(layer)[site.shape][site.axis]


def unknown_source(layers: Sequence[Layer]) -> Layer | None:
    """The layer without a rule that produces the data, if no other layer has a batch size."""
    if batch_sites(layers):
        return None
    return next(
        (layer for layer in layers if not layer.bottoms and rule_of(layer) is UNKNOWN), None
    )


def with_batch_size(layers: Sequence[Layer], size: int) -> tuple[Layer, ...]:
    """The layers with another batch size; everything else stays as it was.

    A Reshape with the batch size written out copies the batch axis from then on, whatever its size.
    """
    out = list(layers)
    for site in batch_sites(layers):
        layer = out[site.layer]
        if site.shape is None:
            settings = replace(layer.settings, batch_size=size)
        else:
            rule = rule_of(layer)
            shapes = list(_literal_shapes(layer))
            shape = list(shapes[site.shape])
            shape[site.axis] = size if rule.copied_axis is None else rule.copied_axis
            shapes[site.shape] = tuple(shape)
            settings = rule.with_literal_shapes(layer.settings, tuple(shapes))
        out[site.layer] = replace(layer, settings=settings)
    return tuple(out)


def reads_batches(layers: Sequence[Layer]) -> bool:
    """Whether a data layer reads the batches, so that no literal shapes give their size."""
    return any(rule_of(layer).has_batch_size for layer in layers)


def with_divided_batches(layers: Sequence[Layer], parts: int) -> tuple[Layer, ...]:
    """The layers with the batch_size of data layers divided, rounding up; the others unchanged."""
    return tuple(
        replace(layer, settings=replace(settings, batch_size=-(-settings.batch_size // parts)))
        if rule_of(layer).has_batch_size
        else layer
        for layer, settings in ((layer, layer.settings) for layer in layers)
    )


def batch_sites(layers: Sequence[Layer]) -> list[BatchSite]:
    """Every number in the net that is its batch size.

    Literal shapes count if their batch agrees with that of the first one; others (a constant
    input, say) stay as they are.
    """
    batched = [BatchSite(i) for i, layer in enumerate(layers) if rule_of(layer).has_batch_size]
    sites = batched or shaped_sites(layers)
    return [*sites, *copying_sites(layers, sites)]


def copying_sites(layers: Sequence[Layer], sites: Sequence[BatchSite]) -> list[BatchSite]:
    """The layers that could copy the batch axis but have the batch size written out (Reshape).

    A 1 isn't taken for a batch size: it may just as well be a time step or a channel.
    """
    size = site_size(layers, sites[0]) if sites else 1
    return [
        BatchSite(i, j)
        for i, layer in enumerate(layers)
        if rule_of(layer).copied_axis is not None and size > 1
        for j, shape in enumerate(_literal_shapes(layer))
        if shape[:1] == (size,)
    ]


def written_out(layers: Sequence[Layer]) -> list[str]:
    """Sizes along the first axis that layers spell out, and that don't follow the batch size.

    Those of Slice layers, and those of Reshape layers that aren't taken for the batch size itself.

    Returns:
        One phrase for each, with layer, field and value.
    """
    taken = {site.layer for site in batch_sites(layers)}
    found = [
        (layer.name, field, size)
        for i, layer in enumerate(layers)
        if i not in taken
        for field, size in rule_of(layer).sizes_on_first_axis(layer.settings)
    ]
    return [f"layer {name!r} {field}: {value}" for name, field, value in found]


def shaped_sites(layers: Sequence[Layer]) -> list[BatchSite]:
    """The batch sizes among literal shapes (see :func:`batch_sites`)."""
    time = _time_and_batch(layers)
    hidden = {blob for layer in _recurrent(layers) for blob in _first_states(layer)}
    sites: list[BatchSite] = []
    size: int | None = None if time is None else time[1]
    for i, layer in enumerate(layers):
        if not rule_of(layer).declares_shapes:
            continue
        for j, shape in enumerate(_literal_shapes(layer)):
            first_state = j < len(layer.tops) and layer.tops[j] in hidden and shape[:1] == (1,)
            if time is not None and (shape[:2] == time or (first_state and shape[1:2] == time[1:])):
                sites.append(BatchSite(i, j, 1))
            elif shape and (size is None or shape[0] == size):
                size = shape[0]
                sites.append(BatchSite(i, j, 0))
    return sites


def _literal_shapes(layer: Layer) -> tuple[Shape, ...]:
    return rule_of(layer).literal_shapes(layer.settings)


def _first_states(layer: Layer) -> list[str]:
    """The bottoms of a recurrent layer that are its first hidden states."""
    numbers = rule_of(layer).state_bottoms(layer.settings, len(layer.bottoms))
    return [layer.bottoms[i] for i in numbers]


def _time_and_batch(layers: Sequence[Layer]) -> Shape | None:
    """(T, N) of the sequences that the net's recurrent layers read; None if there are none.

    Their second bottom, of shape (T, N), marks where sequences begin.
    """
    markers = {layer.bottoms[1] for layer in _recurrent(layers) if len(layer.bottoms) > 1}
    for layer in layers:
        if rule_of(layer).declares_shapes:
            shapes = _literal_shapes(layer)
            for j, top in enumerate(layer.tops):
                shape = shapes[min(j, len(shapes) - 1)] if shapes else ()
                if top in markers and len(shape) > 1:
                    return shape[:2]
    return None


def _recurrent(layers: Iterable[Layer]) -> list[Layer]:
    return [layer for layer in layers if rule_of(layer).recurrent]

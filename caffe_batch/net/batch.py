"""The batch size of a net: reading it from the layers, and changing it.

Data layers have a ``batch_size``. Input and DummyData layers have whole shapes, whose batch axis
is the first one, or the second where the blob feeds a recurrent layer (there, time comes first). A
Reshape may have the batch size written out as the first number of its shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations, islice
from math import gcd

from caffe_batch.errors import Call, NetError, Option, ShapeError
from caffe_batch.layers.base import Layer, Shape
from caffe_batch.net.graph import Net, build, rule_of
from caffe_batch.net.samples import follow

#: How many ways to leave the same number of layers unchanged are tried.
_MOST_TRIED = 20


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
    """The batch size of the net: that of the first layer that holds samples.

    Raises:
        NetError: It has no layer with one, or data layers of different batches that fit together
            in this one way only.
    """
    unknown = unknown_source(layers)
    if unknown is not None:
        raise NetError(
            f"it makes the data, but how many samples a {unknown.type} layer makes in a pass isn't "
            "written in it",
            layer=unknown.name,
            hint=["Say it: ", Option("batch_size", "N"), "."],
        )
    sites = batch_sites(layers)
    if not sites:
        raise NetError(
            "no layer reads or produces data, so there is no batch size",
            hint="A net needs a Data, ImageData, HDF5Data, WindowData, MemoryData, DummyData or "
            "Input layer in this phase.",
        )
    _check_proportion(layers, sites)
    size, layer = site_size(layers, sites[0]), layers[sites[0].layer]
    if size < 1:
        raise NetError(
            f"{rule_of(layer).message} has a batch of {size}, and a batch has at least 1 sample",
            layer=layer.name,
            hint="Write the batch size as the first number of its shape.",
        )
    return size


def batch_unit(layers: Sequence[Layer]) -> int:
    """Every batch size of the net is a multiple of this; 1 unless data layers have different ones.

    >>> batch_unit(())
    1
    """
    sites = batch_sites(layers)
    sizes = [site_size(layers, site) for site in sites]
    return sizes[0] // gcd(*sizes) if sizes and min(sizes) > 0 else 1


def _check_proportion(layers: Sequence[Layer], sites: Sequence[BatchSite]) -> None:
    """Refuses data layers of different batches that can't be changed in proportion."""
    batched = [layers[site.layer] for site in sites if site.shape is None]
    if len({layer.settings.batch_size for layer in batched}) < 2:
        return
    first, size = batched[0], batched[0].settings.batch_size
    other = next(layer for layer in batched if layer.settings.batch_size != size)
    try:
        _mixing(layers, sites)
    except NetError as error:
        raise NetError(
            f"data layers {first.name!r} and {other.name!r} have batch_size {size} and "
            f"{other.settings.batch_size}, and the net takes no other batch of both in this "
            f"proportion: {error.message}",
            hint=[
                "The batch can only be planned where all data layers count samples. A constant "
                "belongs in a DummyData layer or, for an InfogainLoss, in "
                "infogain_loss_param.source. Where one of them counts time steps and the other "
                "streams, the streams lie in the rows of the data: ",
                Call("`caffe-batch train NET --as-is`", "caffe_batch.as_is(NET)"),
                " trains such a net as it is.",
            ],
        ) from error


def site_size(layers: Sequence[Layer], site: BatchSite) -> int:
    """The number at that site."""
    layer = layers[site.layer]
    if site.shape is None:
        return int(layer.settings.batch_size)
    return _literal_shapes(layer)[site.shape][site.axis]


def unknown_source(layers: Sequence[Layer]) -> Layer | None:
    """The layer without a rule that makes the data, where no other layer holds samples.

    What a DummyData layer beside it makes is taken for no samples.
    """
    holding = [rule_of(layers[site.layer]) for site in batch_sites(layers)]
    if any(rule.makes_data and not rule.fills_tops for rule in holding):
        return None
    return next(
        (layer for layer in layers if not layer.bottoms and rule_of(layer).assumes_batch), None
    )


def with_batch_size(layers: Sequence[Layer], size: int) -> tuple[Layer, ...]:
    """The layers with another batch size; everything else as it was.

    A Reshape with the batch written out copies it from then on, whatever it is.

    Raises:
        ShapeError: Data layers of different batches can't keep their proportion.
    """
    return _resized(layers, batch_sites(layers), size)


def _resized(layers: Sequence[Layer], sites: Sequence[BatchSite], size: int) -> tuple[Layer, ...]:
    """The layers with another number at each site, the first one's being ``size``."""
    out = list(layers)
    for site in sites:
        layer = out[site.layer]
        number = size_at(layers, site, sites[0], size)
        if site.shape is None:
            settings = replace(layer.settings, batch_size=number)
        else:
            rule = rule_of(layer)
            shapes = list(_literal_shapes(layer))
            shape = list(shapes[site.shape])
            shape[site.axis] = number if rule.copied_axis is None else rule.copied_axis
            shapes[site.shape] = tuple(shape)
            settings = rule.with_literal_shapes(layer.settings, tuple(shapes))
        out[site.layer] = replace(layer, settings=settings)
    taken = {site.layer for site in sites}
    return tuple(
        replace(layer, settings=replace(layer.settings, batch_size=size))
        if rule_of(layer).assumes_batch and i not in taken
        else layer
        for i, layer in enumerate(out)
    )


def size_at(layers: Sequence[Layer], site: BatchSite, first: BatchSite, size: int) -> int:
    """The number at a site once the one at the first site is ``size``.

    Raises:
        ShapeError: It isn't whole.
    """
    own, reference = site_size(layers, site), site_size(layers, first)
    if own == reference:
        return size
    number, rest = divmod(size * own, reference)
    if rest:
        raise ShapeError(
            f"a batch_size of {size} beside {layers[first.layer].name!r} can't keep the "
            f"proportion of {own} to {reference}",
            layer=layers[site.layer].name,
        )
    return number


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
    """Every number of the net that is its batch size, that of a layer with samples first.

    Literal shapes count where they agree on the batch; others (a constant input, say) stay as they
    are. So does what fits at its own size alone.
    """
    sites = _source_sites(layers)
    if len(sites) > 1:
        sites = list(_holding_samples(tuple(layers), tuple(sites)))
    return [*sites, *copying_sites(layers, sites)]


def _source_sites(layers: Sequence[Layer]) -> list[BatchSite]:
    """The numbers of layers that make data that may be the batch size."""
    batched = [BatchSite(i) for i, layer in enumerate(layers) if rule_of(layer).has_batch_size]
    if not batched:
        return shaped_sites(layers)
    sizes = {site_size(layers, site) for site in batched}
    return batched + [
        BatchSite(i, j)
        for i, layer in enumerate(layers)
        if rule_of(layer).declares_shapes
        for j, shape in enumerate(_literal_shapes(layer))
        if shape and shape[0] in sizes
    ]


@lru_cache(maxsize=64)
def _holding_samples(
    layers: tuple[Layer, ...], sites: tuple[BatchSite, ...]
) -> tuple[BatchSite, ...]:
    """The sites that follow the batch, of several that may.

    A constant stays unless the net needs it to follow. Anything else follows unless the net can't
    be built then, and it gives the same in every pass.
    """
    try:
        _built(layers)
    except NetError:
        return sites  # whoever builds it says why
    least = _number_mixing(layers, sites)
    constants = [site for site in sites if _is_constant(layers, site)]
    if least is None or len(constants) < len(sites):
        for site in constants:
            rest = tuple(each for each in sites if each != site)
            mixing = _number_mixing(layers, rest) if rest else None
            if mixing is not None and (least is None or mixing <= least):
                sites, least = rest, mixing
    if least is not None:
        return sites
    steady = [site for site in sites if _may_stay(layers, site)]
    for number in range(1, min(len(steady), len(sites) - 1) + 1):
        for staying in islice(combinations(steady, number), _MOST_TRIED):
            rest = tuple(site for site in sites if site not in staying)
            if _number_mixing(layers, rest) is not None:
                return rest
    return sites


def _is_constant(layers: Sequence[Layer], site: BatchSite) -> bool:
    """Whether the numbers that a layer of literal shapes makes are the same in every pass."""
    rule = rule_of(layers[site.layer])
    return bool(rule.fills_tops) and not rule.draws(layers[site.layer].settings, "TRAIN")


def _may_stay(layers: Sequence[Layer], site: BatchSite) -> bool:
    """Whether what a site makes may be the same in every pass: as many records as a batch."""
    layer = layers[site.layer]
    if site.shape is not None:
        return not rule_of(layer).draws(layer.settings, "TRAIN")
    return site_size(layers, site) in (1, layer.file_rows)


def _number_mixing(layers: Sequence[Layer], sites: Sequence[BatchSite]) -> int | None:
    """How many layers mix samples if these sites hold them; None if the net can't be built so."""
    try:
        return _mixing(layers, sites)
    except NetError:
        return None


def _mixing(layers: Sequence[Layer], sites: Sequence[BatchSite]) -> int:
    """How many layers mix samples if these sites hold them.

    Raises:
        NetError: The net can't be built with twice as many.
    """
    sites = [*sites, *copying_sites(layers, sites)]
    twice = _built(_resized(layers, sites, 2 * site_size(layers, sites[0])))
    return sum(bool(flow.problem) for flow in follow(_built(layers), twice, 2))


def _built(layers: Sequence[Layer]) -> Net:
    """The net of some layers; in TEST no gradient is asked for that a layer hasn't."""
    return build(layers, phase="TEST")


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

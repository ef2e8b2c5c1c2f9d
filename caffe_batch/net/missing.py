"""Everything that a user has to say about a recipe before its nets can be built, at once.

A layer type without a rule, the shapes of its tops that other layers read, the size of data that
isn't here, and the batch of a data layer that doesn't have it written: finding them one by one
would take a run each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from caffe_batch.errors import (
    InputError,
    InputShapeError,
    NetError,
    Option,
    Text,
    UnknownLayerError,
)
from caffe_batch.layers.base import Rule, Site
from caffe_batch.layers.given import WholeShape
from caffe_batch.layers.own import PYTHON_TYPE
from caffe_batch.layers.unknown import UnknownSettings, unknown_rule
from caffe_batch.net.assumed import known_of
from caffe_batch.net.convert import convert
from caffe_batch.net.kinds import kind
from caffe_batch.net.recipe import NetFile, Recipe
from caffe_batch.net.sources import Sources
from caffe_batch.schema import caffe_pb2

Message = caffe_pb2.LayerParameter


@dataclass
class Missing:
    """What has to be said.

    Attributes:
        types: A layer of each type without a rule, where such types aren't accepted yet.
        number: How many layers have one of them.
        tops: Which layer makes each top whose shape isn't known; the number of the top in it.
        batch: The layer that makes the data but doesn't say how many samples, if there is one.
    """

    types: dict[str, Message] = field(default_factory=dict)
    number: int = 0
    tops: dict[str, tuple[Message, int]] = field(default_factory=dict)
    batch: Message | None = None

    @property
    def options(self) -> tuple[Option, ...]:
        """The options that say it, filled with what is known."""
        return (
            *([Option("allow_unknown", True)] if self.types else ()),
            *([Option("batch_size", "N")] if self.batch is not None else ()),
            *(
                Option("input_shape", f"{top}={_size(*place)}")
                for top, place in self.tops.items()
            ),
        )  # fmt: skip


def check_complete(recipe: Recipe, sources: Sources, *, allow_unknown: bool) -> None:
    """Asks for everything that is missing, in one error.

    Args:
        recipe: The nets.
        sources: Where data is found, and what the user has said already.
        allow_unknown: Whether layers without a rule are accepted.

    Raises:
        UnknownLayerError: A layer has no rule, and that isn't accepted.
        InputShapeError: A shape or the batch isn't known.
    """
    found = Missing()
    for file in (recipe.train, *recipe.tests):
        _look(file, sources, found, allow_unknown=allow_unknown)
    if found.types:
        raise _of_types(found, recipe.train)
    of_unknown = [
        top for top, (layer, _) in found.tops.items() if kind(layer) not in recipe.train.rules
    ]
    if of_unknown or found.batch is not None:
        raise _of_facts(found, of_unknown)
    for file in (recipe.train, *recipe.tests) if found.tops else ():
        try:
            file.build(file.layers(sources, allow_unknown=allow_unknown))
        except InputShapeError as error:
            error.completion = found.options
            raise


def missing_options(recipe: Recipe, sources: Sources) -> tuple[Option, ...]:
    """The options that say what isn't known about a recipe, filled with what is."""
    found = Missing()
    for file in (recipe.train, *recipe.tests):
        _look(file, sources, found, allow_unknown=False)
    return found.options


def _look(file: NetFile, sources: Sources, found: Missing, *, allow_unknown: bool) -> None:
    """Adds what isn't known about one net."""
    pending: dict[str, tuple[Message, int]] = {}
    makers: list[Message] = []
    given = sources.input_shapes or {}
    known_data, said = False, sources.batch_size is not None
    for index, layer in file.selected():
        rule = file.rules.get(kind(layer)) or unknown_rule(layer.type)
        for bottom in () if rule.unknown else layer.bottom:
            if bottom in pending:
                found.tops.setdefault(bottom, pending.pop(bottom))
        if not rule.assumes_batch:
            known_data |= rule.makes_data and not rule.fills_tops
            for top in layer.top:
                pending.pop(top, None)
            _look_at_source(file, layer, rule, sources, found)
            continue
        if rule.unknown and not allow_unknown:
            found.types.setdefault(layer.type, layer)
            found.number += 1
        if not layer.bottom and layer.top:
            makers.append(layer)
            known = known_of(layer, rule, sources, file.skipped_of(index))
            said |= known.written is not None or _tells_batch(known)
        for number, top in enumerate(layer.top):
            if top in given or not rule.needs_shapes(len(layer.bottom)):
                pending.pop(top, None)
            elif number >= len(layer.bottom) or layer.bottom[number] != top:
                pending[top] = layer, number
    if makers and not known_data and not said and found.batch is None:
        found.batch = makers[0]


def _look_at_source(
    file: NetFile, layer: Message, rule: Rule, sources: Sources, found: Missing
) -> None:
    """Adds the tops of a data layer whose source isn't here, or isn't read."""
    try:
        plain = convert(layer, rule, sources.records(layer, rule))
        if rule.source is not None and plain.records is None:
            rule.shape(Site(file.phase, plain.settings, (), len(layer.top), unread=plain.unread))
    except InputShapeError as error:
        if rule.source is not None and not error.remedies:  # its size is that of the records
            found.tops.setdefault(layer.top[0], (layer, 0))
        given = sources.input_shapes or {}
        for option in error.remedies:
            top = str(option.value).partition("=")[0]
            if option.name == "input_shape" and top in layer.top and top not in given:
                found.tops.setdefault(top, (layer, list(layer.top).index(top)))
    except InputError:
        return  # whoever builds the net says why


def _tells_batch(known: UnknownSettings) -> bool:
    """Whether the first axis of a top that is known whole tells how many samples a layer makes."""
    wholes = [shape for shape in known.given if isinstance(shape, WholeShape)]
    tells = any(shape.sizes and not shape.batch_axes for shape in wholes)
    return tells and all(shape is None or isinstance(shape, WholeShape) for shape in known.given)


def _size(layer: Message, number: int) -> str:
    """The size of a top as far as the layer tells it: crops and resized images."""
    transform = layer.transform_param
    if number or layer.bottom:
        return "CxHxW"
    channels = "3" if len(transform.mean_value) == 3 or transform.force_color else "C"
    resized = [
        (value.new_height, value.new_width)
        for name in ("image_data_param",)
        for value in [getattr(layer, name)]
        if value.new_height and value.new_width
    ]
    if transform.crop_size:
        return f"{channels}x{transform.crop_size}x{transform.crop_size}"
    for height, width in resized:
        return f"{channels}x{height}x{width}"
    return f"{channels}xHxW"


def _of_types(found: Missing, file: NetFile) -> NetError:
    """The error about types without a rule."""
    first, *others = found.types.values()
    try:
        file.rules.rule_for(kind(first), first.name)
    except UnknownLayerError as error:
        about: Text = error.message_parts
        hint = list(error.hint_parts or ())
    more = ", ".join(layer.type for layer in others)
    texts = [*([about] if isinstance(about, str) else about)]
    # NetError puts the layer in front again.
    raised = UnknownLayerError(
        [*texts, f"; nor are {more} ({found.number} layers in all)" if more else ""], hint=hint
    )
    raised.layer = first.name
    raised.completion = found.options
    return raised


def _of_facts(found: Missing, tops: list[str]) -> NetError:
    """The error about shapes and a batch that aren't known."""
    asked: list[str | Option] = []
    if tops:
        listed = ", ".join(_described(top, found) for top in tops)
        asked.append(f"other layers read tops whose shapes are not known: {listed}")
    if found.batch is not None:
        asked.append("; " if tops else "")
        asked.append(
            f"layer {found.batch.name!r} makes the data, but how many samples a "
            f"{found.batch.type} layer makes in a pass isn't written in it"
        )
    hint: list[str | Option] = []
    if found.batch is not None:
        hint.append("N is the number of samples that a pass has. ")
    hint += [*_about_shapes(found, tops)] if tops else ["Fill it in below."]
    error = InputShapeError(asked, hint=hint)
    error.layer = found.tops[tops[0]][0].name if tops else found.batch and found.batch.name
    error.completion = found.options
    return error


def _described(top: str, found: Missing) -> str:
    layer = found.tops[top][0]
    of = f" of {layer.name!r}" if layer.name != top else ""
    return f"{top!r}{of} ({layer.type})"


def _about_shapes(found: Missing, tops: list[str]) -> Iterator[str | Option]:
    yield (
        f"Sizes are without the batch; one number per record is 1. {tops[0]}:RxC is a shape with "
        f"its first axis, {tops[0]}:NxC one whose first axis is the batch."
    )
    inside = dict.fromkeys(found.tops[top][0].type for top in tops if found.tops[top][0].bottom)
    inside.pop(PYTHON_TYPE, None)
    for number, layer_type in enumerate(inside):
        yield " If its tops have the shape of a bottom, instead: " if number == 0 else ", "
        yield Option("same_shape", layer_type)
    if inside:
        yield "."

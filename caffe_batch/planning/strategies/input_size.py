"""The largest input images at which the full batch fits in one pass.

The numbers in a net that are the size of its images:

- Data, ImageData, WindowData: ``transform_param.crop_size``;
- ImageData: ``new_height`` and ``new_width``, to which Caffe resizes each image;
- Input, DummyData, MemoryData: height and width of shapes with four axes.

The records of a Data layer without crop_size are cropped (data_transformer.cpp): at a random place
in training, in the middle in tests. All sizes are scaled alike, in the train and the test nets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from caffe_batch.errors import DoesNotFitError, InputError, NetError
from caffe_batch.layers.base import Rule
from caffe_batch.layers.facts import SourceKind
from caffe_batch.memory.base import MemoryModel
from caffe_batch.net.convert import read_settings
from caffe_batch.net.recipe import Recipe
from caffe_batch.net.sources import Sources
from caffe_batch.planning.budget import Budget
from caffe_batch.planning.edits.changes import Change, applied, inside_solver
from caffe_batch.planning.options import PlanOptions
from caffe_batch.planning.plan import Plan
from caffe_batch.planning.planner import make_plan
from caffe_batch.planning.split.candidates import SplitOptions
from caffe_batch.schema import caffe_pb2

Size = tuple[int, int]
"""Height and width of an image, in pixels."""


@dataclass(frozen=True)
class InputSize:
    """A smaller input size, and the plan with it.

    Attributes:
        own: Size of the train net's images in the recipe.
        size: The same in the plan.
        plan: The full batch in one pass.
        reshaped: Names of the layers whose parameters don't have the recipe's shape.
        refused: Why Caffe refuses larger sizes, by size.
        notes: What the user has to know about it, a sentence or two each.
    """

    own: Size
    size: Size
    plan: Plan
    reshaped: tuple[str, ...]
    refused: dict[Size, str]
    notes: tuple[str, ...]


def largest_input(model: MemoryModel, budget: Budget, options: PlanOptions) -> InputSize:
    """The largest input size, below the recipe's, at which the whole batch fits in one pass.

    Every size is planned, from the largest down, until one fits: whether Caffe accepts a size and
    what it costs depend on all layers together, and need not decrease with the size.

    Args:
        model: The memory model of the recipe.
        budget: The memory allowed.
        options: What is asked of a plan for the full batch.

    Raises:
        InputError: The net has no size that could be smaller, or Caffe accepts no smaller one.
        DoesNotFitError: No size fits.
    """
    scale, fields = _scale(model)
    whole = replace(options, split=SplitOptions(iter_size=1))
    refused: dict[Size, str] = {}
    missing = 0
    for length in range(scale.largest, 0, -1):
        changes = tuple(_changes(fields, scale, length))
        smaller = model.with_recipe(applied(model.recipe, changes))
        try:
            plan = make_plan(smaller, budget, whole)
        except DoesNotFitError as error:
            missing = error.missing_bytes
            continue
        except NetError as error:
            refused[scale.size(length)] = error.message
            continue
        reshaped = _reshaped(model, smaller, plan.batch_size)
        notes = (
            *scale.notes(length),
            *dict.fromkeys(_mean_notes(model.recipe, changes)),
            *_weights_notes(reshaped, scale.own),
            *_refused_notes(refused),
        )
        return InputSize(
            own=scale.own,
            size=scale.size(length),
            plan=replace(plan, changes=(*changes, *plan.changes), remarks=notes),
            reshaped=reshaped,
            refused=refused,
            notes=notes,
        )
    if missing:
        raise DoesNotFitError(
            f"no input below {_text(scale.own)} fits with the whole batch in one pass",
            missing_bytes=missing,
        )
    why = next(iter(refused.values()))
    raise InputError(f"Caffe accepts no input below {_text(scale.own)}: {why}")


@dataclass(frozen=True, slots=True)
class _Field:
    """One number in the files that is the size of an image.

    Attributes:
        path: Where it is in its layer.
        before: The number in the file; None if it isn't given.
        own: The size that it stands for, in pixels.
    """

    path: tuple[str | int, ...]
    before: int | None
    own: int


@dataclass(frozen=True, slots=True)
class _Images:
    """The images that a layer provides, and the numbers that are their size.

    Attributes:
        own: Their size; if they aren't cropped yet, that of the records.
        cut: Whether they are cropped from records.
        newly: Whether they weren't cropped before.
    """

    own: Size
    fields: tuple[_Field, ...]
    cut: bool = False
    newly: bool = False


@dataclass(frozen=True, slots=True)
class _Scale:
    """From the recipe's sizes to smaller ones; a length is that of the longer side.

    Attributes:
        own: Size of the train net's images.
        length: What a length is compared with: the longer side, or the shorter one of records
            that have to be cropped (crops are square).
        images: The train net's images.
    """

    own: Size
    length: int
    images: _Images

    @property
    def largest(self) -> int:
        """The largest length that makes the images smaller."""
        height, width = self.own
        return self.length - (height == width or not self.images.newly)

    def scaled(self, own: int, length: int) -> int:
        """Another size in proportion: the nearest, at least 1."""
        return max(1, (2 * own * length + self.length) // (2 * self.length))

    def size(self, length: int) -> Size:
        """Size of the train net's images."""
        if self.images.newly:
            return length, length
        height, width = self.own
        return self.scaled(height, length), self.scaled(width, length)

    def notes(self, length: int) -> Iterator[str]:
        """What happens to the images."""
        if self.images.cut:
            yield (
                f"Caffe then sees a crop of {_text(self.size(length))} of each record, at a "
                "random place in training and in the middle in tests. Whole images of that size "
                "need a new database."
            )


def _scale(model: MemoryModel) -> tuple[_Scale, list[tuple[Change, int]]]:
    """The scale, and for each number a change still to be filled in, with the size it stands for.

    Raises:
        InputError: Nothing can be scaled.
    """
    recipe, sources = model.recipe, model.sources
    fields: list[tuple[Change, int]] = []
    train: list[_Images] = []
    nets = [
        ("net", recipe.train),
        *((recipe.file_of_test(i), t) for i, t in enumerate(recipe.tests)),
    ]
    for number, (name, file) in enumerate(nets):
        for index, layer, rule in file.known():
            images = _images(layer, rule, sources)
            if images is None:
                continue
            if number == 0:
                train.append(images)
            for each in images.fields:
                change = Change(name, each.path, each.before, None, "", index, layer.name)
                inline = name == "solver"
                fields.append((inside_solver(change, number - 1) if inline else change, each.own))
    if not train:
        raise InputError("no layer of the train net has images (N x C x H x W) of a known size")
    if sum(images.newly for images in train) > 1:
        raise InputError(
            "two layers read records of one size, and Caffe would crop each at a different place"
        )
    first = train[0]
    length = min(first.own) if first.newly else max(first.own)
    scale = _Scale(first.own, length, first)
    if scale.largest < 1:
        raise InputError(f"images of {_text(first.own)} can't be smaller")
    return scale, list(dict.fromkeys(fields))


def _changes(fields: Sequence[tuple[Change, int]], scale: _Scale, length: int) -> Iterator[Change]:
    reason = f"images of {_text(scale.size(length))}: the whole batch fits in one pass"
    for change, own in fields:
        after = scale.scaled(own, length)
        if after != change.before:
            yield replace(change, after=after, reason=reason)


def _images(layer: caffe_pb2.LayerParameter, rule: Rule, sources: Sources) -> _Images | None:
    """The images of a layer; None if it has none.

    Raises:
        InputError: It has images whose size no number in the files decides.
    """
    if rule.crops:
        return _read_images(layer, rule, sources)
    if rule.source is not None and rule.source.kind is SourceKind.HDF5_LIST:
        raise InputError(
            f"layer {layer.name!r} reads arrays from HDF5 files, which Caffe neither crops nor "
            "resizes"
        )
    if rule.source is not None:
        raise InputError(
            f"the size of images is only changed in layers of Caffe's own, and layer "
            f"{layer.name!r} is of the type {layer.type}"
        )
    if rule.image_size is not None:
        size = _given_size(layer, rule)
        return _Images(size, _sides(rule, size))
    if rule.declares_shapes:
        return _literal_images(layer, rule, sources)
    return None


def _read_images(layer: caffe_pb2.LayerParameter, rule: Rule, sources: Sources) -> _Images:
    crop, given = layer.transform_param.crop_size, _given_size(layer, rule)
    resized = _sides(rule, given) if given[0] else ()
    if crop:
        cut = _Field(("transform_param", "crop_size"), crop, crop)
        return _Images((crop, crop), (cut, *resized), cut=not resized and not rule.resizes_windows)
    if resized:
        return _Images(given, resized)
    records = sources.records(layer, rule).shapes
    if not records or len(records[0]) != 3:
        raise InputError(f"the size of the images of layer {layer.name!r} is not known")
    _, height, width = records[0]
    if rule.image_size is not None:
        fields = [replace(side, before=None) for side in _sides(rule, (height, width))]
        return _Images((height, width), tuple(fields))
    cut = _Field(("transform_param", "crop_size"), None, min(height, width))
    return _Images((height, width), (cut,), cut=True, newly=True)


def _literal_images(
    layer: caffe_pb2.LayerParameter, rule: Rule, sources: Sources
) -> _Images | None:
    given = [top for top in layer.top if top in (sources.input_shapes or {})]
    if rule.fed_by_program and given:
        raise InputError(
            f"the size of {given[0]!r} is given as input_shape, so the net's own can't change"
        )
    settings = read_settings(layer, rule)
    shapes = [
        (i, shape)
        for i, shape in enumerate(rule.literal_shapes(settings))
        if len(shape) == 4 and max(shape[2:]) > 1
    ]
    if not shapes:
        return None
    fields = [
        _Field(rule.literal_path(settings, i, axis), shape[axis], shape[axis])
        for i, shape in shapes
        for axis in (2, 3)
    ]
    return _Images((shapes[0][1][2], shapes[0][1][3]), tuple(fields))


def _given_size(layer: caffe_pb2.LayerParameter, rule: Rule) -> Size:
    """Height and width in the layer's own message; zeros if it has none."""
    if rule.image_size is None:
        return 0, 0
    height, width = (int(getattr(getattr(layer, rule.message), each)) for each in rule.image_size)
    return height, width


def _sides(rule: Rule, size: Size) -> tuple[_Field, ...]:
    """The fields of height and width in the rule's message."""
    names = rule.image_size or ()
    return tuple(
        _Field((rule.message, name), own, own) for name, own in zip(names, size, strict=False)
    )


def _reshaped(model: MemoryModel, smaller: MemoryModel, batch_size: int) -> tuple[str, ...]:
    """The layers whose parameters depend on the size."""
    before = model.train_net(batch_size).param_shapes
    after = smaller.train_net(batch_size).param_shapes
    return tuple(name for name, shapes in after.items() if shapes != before[name])


def _mean_notes(recipe: Recipe, changes: Sequence[Change]) -> Iterator[str]:
    """Mean files of images that are resized: Caffe compares the sizes (data_transformer.cpp)."""
    resized = {change.layer_name for change in changes if change.path[-1] == "new_height"}
    for file in (recipe.train, *recipe.tests):
        for _, layer in file.selected():
            mean = layer.transform_param.mean_file
            if mean and layer.name in resized:
                yield (
                    f"{mean} has the old size, and Caffe refuses it with the images of layer "
                    f"{layer.name!r}: compute it again, or give mean_value."
                )


def _weights_notes(reshaped: Sequence[str], own: Size) -> Iterator[str]:
    if reshaped:
        yield (
            f"Parameters with another shape: {', '.join(reshaped)}. Their weights can't be taken "
            f"from a model trained at {_text(own)}."
        )


def _refused_notes(refused: dict[Size, str]) -> Iterator[str]:
    for size, why in list(refused.items())[:1]:
        more = f" and {len(refused) - 1} other larger sizes" if len(refused) > 1 else ""
        yield f"Caffe refuses {_text(size)}{more}: {why}."


def _text(size: Size) -> str:
    return f"{size[0]} x {size[1]}"

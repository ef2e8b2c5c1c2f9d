"""A check of all the data of a recipe before anything is trained on it.

What makes Caffe abort or write to memory that isn't its own is an error; what it silently accepts,
although it can't be intended, is a remark. Sources: data_transformer.cpp, data_layer.cpp,
image_data_layer.cpp, hdf5_data_layer.cpp, infogain_loss_layer.cpp, and the layers that read labels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby

from caffe_batch.errors import CaffeBatchError, InputError
from caffe_batch.layers.base import Layer, Rule, Shape, four_axes
from caffe_batch.layers.unknown import UNKNOWN
from caffe_batch.net.batch import batch_sites, with_batch_size
from caffe_batch.net.data.blob_file import blob_shape, text
from caffe_batch.net.data.extras import MissingExtraError
from caffe_batch.net.data.findings import (
    DataCheck,
    DataFinding,
    DataReport,
    Level,
    Look,
    Place,
    Progress,
    no_progress,
)
from caffe_batch.net.data.label_flow import Origin, Reading, label_readings
from caffe_batch.net.data.side_by_side import read_together
from caffe_batch.net.data.survey import Extremes, Survey, Task, Wanted
from caffe_batch.net.data.unread import unread_messages
from caffe_batch.net.graph import Net
from caffe_batch.net.kinds import kind
from caffe_batch.net.recipe import NetFile, Recipe
from caffe_batch.net.sources import Sources, can_be_looked_at, source_of, survey_source
from caffe_batch.schema import caffe_pb2

#: How many sizes of records are tried in the net, if records differ in size.
_SIZES_TRIED = 8


def check_data(
    recipe: Recipe,
    sources: Sources,
    *,
    extent: DataCheck = DataCheck.QUICK,
    allow_unknown: bool = False,
    progress: Progress = no_progress,
) -> DataReport:
    """Check the data of all nets of a recipe.

    Args:
        recipe: The solver and its nets.
        sources: Where the data is found.
        extent: How much to look at.
        allow_unknown: Accept layers without a rule; labels aren't followed through them.
        progress: Called from time to time while a source is read.
    """
    if extent is DataCheck.NONE:
        return DataReport()
    nets = [_NetData(file, sources, allow_unknown) for file in (recipe.train, *recipe.tests)]
    looks = _Looks(sources, extent is DataCheck.ALL, progress)
    for net in nets:
        looks.ask(net)
    found: dict[DataFinding, list[str]] = {}
    for net in nets:
        for finding in net.findings(looks):
            phases = found.setdefault(finding, [])
            if net.file.phase not in phases:
                phases.append(net.file.phase)
    findings = [replace(each, phases=tuple(phases)) for each, phases in found.items()]
    return DataReport(
        tuple(sorted(findings, key=lambda each: each.level is not Level.ERROR)),
        tuple(looks.looks),
        tuple(dict.fromkeys(looks.notes)),
    )


class _Looks:
    """The looks at sources: one for each, shared by all nets that read it."""

    def __init__(self, sources: Sources, complete: bool, progress: Progress) -> None:
        self.sources, self._complete, self._progress = sources, complete, progress
        self._wanted: dict[bytes, dict[Wanted, None]] = {}
        self._surveys: dict[bytes, Survey | DataFinding | None] = {}
        self.looks: list[Look] = []
        self.notes: list[str] = []

    def ask(self, net: _NetData) -> None:
        """Note which values the layers of a net read as labels."""
        for reading in net.readings:
            layer = net.messages[reading.origin.layer]
            wanted = self._wanted.setdefault(layer.SerializeToString(), {})
            wanted[_wanted(reading)] = None

    def survey(self, layer: caffe_pb2.LayerParameter, rule: Rule) -> Survey | DataFinding | None:
        """What a look at a layer's source found, or what is wrong; None if it isn't here."""
        key = layer.SerializeToString()
        if key not in self._surveys:
            self._surveys[key] = self._look(layer, rule, tuple(self._wanted.get(key, ())))
        return self._surveys[key]

    def _look(
        self, layer: caffe_pb2.LayerParameter, rule: Rule, wanted: Sequence[Wanted]
    ) -> Survey | DataFinding | None:
        task = Task(wanted, self._complete, self._progress)
        try:
            self.sources.find(source_of(layer, rule))
        except InputError:  # whatever needs it here says so: planning, or Caffe
            return None
        try:
            found = survey_source(layer, rule, self.sources.find, task)
        except MissingExtraError as error:
            self.notes.append(f"Layer {layer.name!r}: {error.message}, so it isn't checked.")
            return None
        except InputError as error:
            return DataFinding(Level.ERROR, layer.name, error.message, hint=error.hint)
        self.looks.append(Look(source_of(layer, rule), found.records, found.read))
        self.notes += [found.note] if found.note else []
        return found


class _NetData:
    """One net and what feeds it."""

    def __init__(self, file: NetFile, sources: Sources, allow_unknown: bool) -> None:
        self.file, self._allow_unknown = file, allow_unknown
        self.messages = {layer.name: layer for _, layer in file.selected()}
        self.rules = {
            name: file.rules.get(kind(layer), UNKNOWN) for name, layer in self.messages.items()
        }
        self.layers, self.net = self._build(sources)
        self.readings: list[Reading] = []
        for reading in label_readings(self.net) if self.net else ():
            if reading.origin.layer in self.messages:
                self.readings.append(reading)

    def _build(self, sources: Sources) -> tuple[tuple[Layer, ...], Net | None]:
        """The layers and the net, at batch size 1 if it can't be built as it is written."""
        layers: tuple[Layer, ...] = ()
        try:
            layers = self.file.layers(sources, allow_unknown=self._allow_unknown)
            return layers, self.file.build(layers)
        except CaffeBatchError:
            pass
        try:
            small = with_batch_size(layers, 1)
            return small, self.file.build(small)
        except CaffeBatchError:  # whatever builds it for planning says why
            return layers, None

    def findings(self, looks: _Looks) -> Iterator[DataFinding]:
        """Everything found for this net."""
        surveys: dict[str, Survey] = {}
        for layer in self.messages.values():
            rule = self.rules[layer.name]
            yield from unread_messages(layer, self.file.rules)
            if can_be_looked_at(rule):
                found = looks.survey(layer, rule)
                if isinstance(found, DataFinding):
                    yield found
                elif found is not None:
                    surveys[layer.name] = found
                    yield from found.tally.findings(layer.name)
                    yield from self._sizes(layer, found)
        readable = sum(map(can_be_looked_at, self.rules.values()))
        if len(surveys) == readable:  # otherwise the other files are elsewhere as well
            yield from self._blob_files(looks.sources, surveys)
        for reading in self.readings:
            extremes = self._extremes(reading, surveys)
            if extremes is not None:
                yield from _outside(reading, extremes)
        yield from self._side_by_side(surveys)

    def _sizes(self, layer: caffe_pb2.LayerParameter, found: Survey) -> Iterator[DataFinding]:
        """What follows from records of several sizes."""
        sizes = found.sizes
        crop = layer.transform_param.crop_size
        if not self.rules[layer.name].crops or not sizes:
            return
        for size, place in sizes.items():
            if crop and min(size[1:]) < crop:
                yield DataFinding(
                    Level.ERROR,
                    layer.name,
                    f"a record of {text(size)} is smaller than crop_size {crop}",
                    place,
                    "Use a smaller crop_size, or leave small images out.",
                )
                break
        if len({size[0] for size in sizes}) > 1:
            (one, _), (other, place) = _two_channels(sizes)
            yield DataFinding(
                Level.ERROR,
                layer.name,
                f"a record is {text(other)} and others are {text(one)}: the channels differ",
                place,
                "force_color or force_gray in transform_param makes encoded records alike.",
            )
        if len(sizes) > 1 and not crop:
            largest, smallest = max(sizes, key=math.prod), min(sizes, key=math.prod)
            yield DataFinding(
                Level.REMARK,
                layer.name,
                f"the records that were read differ in size, from {text(smallest)} to "
                f"{text(largest)}: Caffe takes only batch_size 1, and the memory is that of "
                "the largest",
                sizes[largest],
                "crop_size, or new_height and new_width of ImageData, make them alike.",
            )
            yield from self._other_parameters(layer.name, list(sizes))

    def _other_parameters(self, name: str, sizes: Sequence[Shape]) -> Iterator[DataFinding]:
        """A layer whose parameters would need another size for some records."""
        first: Net | None = None
        for size in sorted(sizes, key=math.prod)[:: max(1, len(sizes) // _SIZES_TRIED)]:
            layers = [
                replace(layer, records=(size,)) if layer.name == name else layer
                for layer in self.layers
            ]
            try:
                net = self.file.build(layers)
            except CaffeBatchError as error:
                yield DataFinding(
                    Level.ERROR,
                    name,
                    f"the net can't take a record of {text(size)}: {error.message}",
                )
                return
            first = first or net
            for one, other in zip(first.nodes, net.nodes, strict=True):
                if one.param_shapes != other.param_shapes:
                    yield DataFinding(
                        Level.ERROR,
                        one.layer.name,
                        f"its parameters are {text(one.param_shapes[0])} for one record and "
                        f"{text(other.param_shapes[0])} for another one of {text(size)}: Caffe "
                        "aborts at the second",
                        hint="Pooling with global_pooling: true before it makes them all alike.",
                    )
                    return

    def _blob_files(self, sources: Sources, surveys: dict[str, Survey]) -> Iterator[DataFinding]:
        """Mean images and infogain matrices."""
        for layer in self.messages.values():
            if layer.HasField("transform_param") and layer.transform_param.mean_file:
                sizes = self._record_sizes(layer, surveys.get(layer.name))
                if sizes is not None:
                    yield from _mean_file(layer, self.rules[layer.name], sizes, sources)
        for node in self.net.nodes if self.net else ():
            message = self.messages.get(node.layer.name)
            labels = node.rule.labels(node.site)
            if message is None or labels is None or len(node.bottoms) > 2:
                continue
            matrix = message.infogain_loss_param.source
            if matrix and labels.classes and "infogain_loss_param" in node.rule.messages():
                yield from _matrix_file(message, matrix, labels.classes, sources)

    def _record_sizes(
        self, layer: caffe_pb2.LayerParameter, survey: Survey | None
    ) -> dict[Shape, Place] | None:
        """The sizes of records that a mean image is subtracted from; None for types without one."""
        rule = self.rules[layer.name]
        if rule.crops:
            if survey is None or not survey.shapes:
                return {}
            return survey.sizes or {survey.shapes[0]: Place(source_of(layer, rule))}
        if rule.has_batch_size and rule.fed_by_program:
            given = getattr(layer, rule.message)
            return {(given.channels, given.height, given.width): Place(rule.message)}
        return None

    def _extremes(self, reading: Reading, surveys: dict[str, Survey]) -> Extremes | None:
        """The extreme values of a reading, as far as they are known."""
        origin = reading.origin
        layer = self.messages[origin.layer]
        rule = self.rules[origin.layer]
        if rule.declares_shapes and not rule.fed_by_program:
            return _literal(layer, origin)
        survey = surveys.get(origin.layer)
        return survey.extremes.get(_wanted(reading)) if survey else None

    def _side_by_side(self, surveys: dict[str, Survey]) -> Iterator[DataFinding]:
        """Sources of unequal length whose records are put together."""
        holding = {self.layers[site.layer].name for site in batch_sites(self.layers)}
        for first, second in read_together(self.net) if self.net else ():
            if all(
                name in holding and name in surveys and surveys[name].shapes
                for name in (first, second)
            ):
                ours, theirs = surveys[first].records, surveys[second].records
                if ours != theirs:
                    yield DataFinding(
                        Level.REMARK,
                        second,
                        f"it reads {theirs:,} records side by side with the {ours:,} of layer "
                        f"{first!r}; each starts over at its own end, so from record "
                        f"{min(ours, theirs) + 1:,} on they no longer belong together",
                        Place(source_of(self.messages[second], self.rules[second])),
                        "Make both the same length.",
                    )


def _wanted(reading: Reading) -> Wanted:
    """Which values of its origin a layer reads as labels."""
    region = tuple((axis - 1, first, end) for axis, first, end in reading.origin.region if axis > 0)
    return Wanted(reading.origin.top, reading.labels.ignore, region)


def _two_channels(
    sizes: dict[Shape, Place],
) -> tuple[tuple[Shape, Place], tuple[Shape, Place]]:
    """The first size, and the first one that differs from it in its channels."""
    groups = [next(group) for _, group in groupby(sizes.items(), key=lambda item: item[0][0])]
    return groups[0], groups[1]


def _mean_file(
    layer: caffe_pb2.LayerParameter, rule: Rule, sizes: dict[Shape, Place], sources: Sources
) -> Iterator[DataFinding]:
    name = layer.transform_param.mean_file
    place = Place(name)
    try:
        mean = blob_shape(sources.find(name))
    except InputError as error:
        message = error.message.replace("source ", "mean_file ", 1)
        yield DataFinding(Level.ERROR, layer.name, message, place, error.hint)
        return
    mean = mean[1:] if len(mean) == 4 else four_axes(mean)[1:] if len(mean) < 4 else mean
    crop = layer.transform_param.crop_size
    if rule.resizes_windows and len(mean) == 3 and min(mean[1:]) < crop:
        sizes = {(mean[0], crop, crop): place}
    for size, where in sizes.items():
        if size != mean:
            yield DataFinding(
                Level.ERROR,
                layer.name,
                f"the mean image is {text(mean)}, but a record ({where}) is {text(size)}",
                place,
                "A mean file has the size of the records before they are cropped; a mean_value "
                "for each channel fits any size.",
            )
            return


def _matrix_file(
    layer: caffe_pb2.LayerParameter, name: str, classes: int, sources: Sources
) -> Iterator[DataFinding]:
    try:
        shape = blob_shape(sources.find(name))
    except InputError as error:
        yield DataFinding(Level.ERROR, layer.name, error.message, Place(name), error.hint)
        return
    if math.prod(shape) != classes**2:
        yield DataFinding(
            Level.ERROR,
            layer.name,
            f"the infogain matrix is {text(shape)}, but must be {classes} x {classes}",
            Place(name),
        )


def _literal(layer: caffe_pb2.LayerParameter, origin: Origin) -> Extremes | None:
    """The values that a DummyData layer produces, if they have bounds."""
    fillers = layer.dummy_data_param.data_filler
    if not fillers:
        low = high = 0.0
    else:
        filler = fillers[origin.top if len(fillers) > 1 else 0]
        if filler.type == "constant":
            low = high = filler.value
        elif filler.type == "uniform":
            low, high = filler.min, math.nextafter(filler.max, -math.inf)
        else:
            return None
    place = Place("dummy_data_param")
    return Extremes(low, high, place, place)


def _outside(reading: Reading, found: Extremes) -> Iterator[DataFinding]:
    """What is wrong with the labels that a layer reads."""
    labels, layer = reading.labels, reading.node.layer
    if labels.classes is None:
        for value, place, bad in (
            (found.low, found.low_place, found.low < 0),
            (found.high, found.high_place, found.high > 1),
        ):
            if bad:
                yield DataFinding(
                    Level.REMARK,
                    layer.name,
                    f"a target is {value:g}, but {layer.type} takes probabilities from 0 to 1: "
                    "the loss has no lower bound",
                    place,
                )
        return
    last = labels.classes - 1
    what = "writes to memory beside the array" if labels.writes else "reads memory beside the array"
    for value, place, bad in (
        (found.low, found.low_place, found.low <= -1),
        (found.high, found.high_place, found.high >= labels.classes),
    ):
        if bad:
            yield DataFinding(
                Level.ERROR if labels.writes else Level.REMARK,
                layer.name,
                f"a label is {value:g}, but this layer takes 0 to {last}; Caffe {what}",
                place,
                _label_advice(reading, found, value),
            )


def _label_advice(reading: Reading, found: Extremes, value: float) -> str:
    labels = reading.labels
    if math.isinf(value):
        return "Some values aren't numbers: check how the labels were written."
    if value < 0:
        return f"ignore_label: {int(value)} skips it, if the layer's type has that field."
    if found.low >= 1 and value == labels.classes:
        return "Labels count from 0: do these count from 1?"
    return f"Are there {int(value) + 1} classes, or is this the data of another net?"

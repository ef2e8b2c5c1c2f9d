"""One training in several variants: with the same samples, cut into micro-batches or not.

A variant is a copy of the recipe with another batch_size and iter_size and perhaps some changes,
prepared to run for a few updates from the same start: no tests, no snapshots, a fixed seed, and
made-up samples where the recipe's own data can't be read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from caffe_batch import prototxt
from caffe_batch.errors import InputError
from caffe_batch.experiments.held_draws import filled_numbers, fillers_of, hold, is_random
from caffe_batch.experiments.made_data import Feed, numbers_for
from caffe_batch.layers.base import Layer, Rule
from caffe_batch.memory import MemoryModel
from caffe_batch.net.batch import BatchSite, batch_sites
from caffe_batch.net.graph import Net, rule_of
from caffe_batch.net.reading import TRAIN_NET_FIELDS
from caffe_batch.net.sources import Sources, is_readable, source_of
from caffe_batch.planning.edits.changes import Change, applied, batch_changes, iter_size_change
from caffe_batch.schema import caffe_pb2

#: The number of updates for which each variant trains.
UPDATES = 3

#: The seed where the recipe sets none: any will do, as long as all variants have the same.
SEED = 1

_TEST_FIELDS = ("test_net", "test_net_param", "test_iter", "test_state", "test_interval")
_SNAPSHOT_FIELDS = ("snapshot", "snapshot_prefix", "display", "debug_info")


@dataclass(frozen=True)
class Variant:
    """A recipe at one split of the effective batch.

    Attributes:
        model: Its edited recipe, without test nets, in CPU mode.
        batch_size, iter_size: The split.
        sites: The numbers that are its batch size, found in the recipe as the user gave it: at
            another size, a constant's length may be the same number.
    """

    model: MemoryModel
    batch_size: int
    iter_size: int
    sites: tuple[BatchSite, ...] = ()

    @property
    def batch_axes(self) -> dict[tuple[int, int | None], int]:
        """The axis of the samples, by layer and shape."""
        return {(site.layer, site.shape): site.axis for site in self.sites}

    @cached_property
    def net(self) -> Net:
        """Its TRAIN net."""
        return self.model.train_net()


@dataclass(frozen=True, slots=True)
class DataUse:
    """Where the samples of a layer come from.

    Attributes:
        layer: The layer's name.
        made: Whether the samples are made up; otherwise the layer reads or fills them itself.
        why: Why they are made up, in a sentence; empty if they aren't.
    """

    layer: str
    made: bool
    why: str = ""

    def json(self) -> dict[str, Any]:
        """The entry in the JSON of ``verify``."""
        return {"layer": self.layer, "made": self.made, "why": self.why or None}


def make_variant(
    model: MemoryModel, batch_size: int, iter_size: int, changes: Iterable[Change]
) -> Variant:
    """The recipe at a split, with further changes.

    Args:
        model: The recipe as the user gave it.
        batch_size: Samples of a pass.
        iter_size: Passes of an update.
        changes: The further changes.
    """
    recipe = model.recipe
    every = (
        *batch_changes(recipe, model.train_layers, batch_size),
        *iter_size_change(recipe.solver, iter_size),
        *changes,
    )
    edited = replace(applied(recipe, every), tests=())
    sites = tuple(batch_sites(model.train_layers))
    return Variant(model.with_recipe(edited), batch_size, iter_size, sites)


def data_use(model: MemoryModel, directory: Path) -> dict[int, DataUse]:
    """Where the samples come from, by the index of each layer that produces them.

    Args:
        model: The recipe.
        directory: Where Caffe will run.
    """
    sources = Sources((directory,))
    return {
        index: _use(layer, rule, sources)
        for index, layer, rule in model.recipe.train.known()
        if rule.makes_data
    }


def _use(layer: caffe_pb2.LayerParameter, rule: Rule, sources: Sources) -> DataUse:
    if rule.fed_by_program:
        article = "an" if layer.type[0] in "AEIOU" else "a"
        return DataUse(
            layer.name, True, f"{article} {layer.type} layer gets its data from a program"
        )
    try:
        if is_readable(rule):
            sources.contents(layer, rule)
        elif rule.source is not None:
            sources.find(source_of(layer, rule))
    except InputError as error:
        return DataUse(layer.name, True, error.message)
    return DataUse(layer.name, False)


def feeds(whole: Variant, smallest: Variant, uses: Mapping[int, DataUse]) -> list[Feed]:
    """The blobs to fill: the tops of every layer whose samples are made up.

    Args:
        whole: The variant that takes all samples of an update in one pass.
        smallest: The variant with the smallest passes.
        uses: Where the samples of each layer come from, by its index.
    """
    layers = whole.model.train_layers
    net, least = whole.net, smallest.net
    cut = whole.batch_axes
    made = []
    for number, (index, _) in enumerate(whole.model.recipe.train.selected()):
        if index not in uses or not uses[index].made:
            continue
        layer = layers[number]
        for place, top in enumerate(layer.tops):
            axis = cut.get((number, _shape_number(layer, place)))
            numbers = numbers_for(least, top)
            made.append(Feed(layer.name, top, net.blob_shapes[top], axis, numbers))
    return made


def _shape_number(layer: Layer, top: int) -> int | None:
    """Which of the layer's literal shapes a top has; None where a batch_size determines it."""
    rule = rule_of(layer)
    if rule.has_batch_size:
        return None
    return min(top, len(rule.literal_shapes(layer.settings)) - 1)


def draw_feeds(whole: Variant) -> list[Feed]:
    """The blobs that a layer fills at random in each pass, to be filled equally instead.

    Args:
        whole: The variant that takes all samples of an update in one pass.
    """
    layers = whole.model.train_layers
    cut = whole.batch_axes
    shapes = whole.net.blob_shapes
    found = []
    for number, (_, message) in enumerate(whole.model.recipe.train.selected()):
        layer = layers[number]
        fillers = fillers_of(message, rule_of(layer))
        for place, top in enumerate(layer.tops if fillers else ()):
            filler = fillers[min(place, len(fillers) - 1)]
            if is_random(filler):
                axis = cut.get((number, _shape_number(layer, place)))
                numbers = filled_numbers(filler, shapes[top])
                found.append(Feed(layer.name, top, shapes[top], axis, numbers))
    return found


def write_variant(
    variant: Variant,
    uses: Mapping[int, DataUse],
    folder: Path,
    *,
    holds: bool = True,
    seed: int = 0,
) -> None:
    """Write what the worker runs: a solver that trains, and one that shows the gradient.

    The second solver is plain SGD with a rate of 1, no momentum and no weight decay: its update is
    the clipped mean gradient itself (sgd_solver.cpp, ComputeUpdateValue), which is in the diffs of
    the parameters after the step. Every parameter that learns at all has lr_mult 1 there.

    Args:
        variant: The variant to write.
        uses: Where the samples of each layer come from, by its index; an Input layer replaces
            those whose samples are made up.
        folder: An empty folder.
        holds: Whether the layers' random draws are turned off (:func:`hold`).
        seed: A number to add to the solver's random_seed.
    """
    net = caffe_pb2.NetParameter()
    net.CopyFrom(variant.model.recipe.train.message)
    for index, _, rule in variant.model.recipe.train.known():
        if rule.writes_files:  # it would overwrite the user's files
            net.layer[index].type = "Silence"
            net.layer[index].ClearField(rule.message)  # type: ignore[arg-type]  # not a literal name
        if holds:
            hold(net.layer[index], rule)
    shapes = variant.net.blob_shapes
    for index, use in uses.items():
        if use.made:
            net.layer[index].CopyFrom(_input_layer(net.layer[index], shapes))
    solver = caffe_pb2.SolverParameter()
    solver.CopyFrom(variant.model.recipe.solver)
    for field in (*TRAIN_NET_FIELDS, *_TEST_FIELDS, *_SNAPSHOT_FIELDS):
        solver.ClearField(field)  # type: ignore[arg-type]  # the stubs list every literal name
    solver.snapshot_after_train = False
    solver.solver_mode = caffe_pb2.SolverParameter.CPU
    solver.max_iter = max(solver.max_iter, UPDATES)
    if solver.random_seed < 0:
        solver.random_seed = SEED
    solver.random_seed += seed
    _write(folder / "net.prototxt", net)
    solver.net = str(folder / "net.prototxt")
    _write(folder / "solver.prototxt", solver)
    for layer in net.layer:
        for spec in layer.param:
            if spec.HasField("lr_mult") and spec.lr_mult:
                spec.lr_mult = 1
    _write(folder / "gradient_net.prototxt", net)
    solver.net = str(folder / "gradient_net.prototxt")
    solver.type, solver.lr_policy, solver.base_lr = "SGD", "fixed", 1
    solver.momentum = solver.weight_decay = 0
    _write(folder / "gradient_solver.prototxt", solver)


def _input_layer(
    layer: caffe_pb2.LayerParameter, shapes: Mapping[str, tuple[int, ...]]
) -> caffe_pb2.LayerParameter:
    made = caffe_pb2.LayerParameter(
        name=layer.name, type="Input", top=layer.top, include=layer.include, exclude=layer.exclude
    )
    for top in layer.top:
        made.input_param.shape.add(dim=shapes[top])
    return made


def _write(path: Path, message: caffe_pb2.NetParameter | caffe_pb2.SolverParameter) -> None:
    path.write_text(prototxt.write(message), encoding="utf-8")

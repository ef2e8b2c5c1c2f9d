"""Where the data continues after a snapshot, which Caffe's snapshots don't say (BVLC#1059).

How many records a data layer has read follows from the updates and tests so far, and from its own
batch_size: the data layers of a net may have different ones. How it gets back
to that position depends on its type:

- ``Data`` (LMDB, LevelDB) and ``HDF5Data`` skip record by record before they read the first.
- ``ImageData`` gets the list from that line on, with the lines before it at the end. If it
  shuffles, it skips order by order, then reads the images of the epoch that were already seen.
- All others generate their data or draw it at random.

Sources: data_layer.cpp, hdf5_data_layer.cpp, image_data_layer.cpp, solver.cpp (Step, Test).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from caffe_batch import prototxt
from caffe_batch.errors import InputError
from caffe_batch.files import write_text
from caffe_batch.jobs.stages import TrainingStage, past_tests, stage_at
from caffe_batch.layers.base import Rule
from caffe_batch.layers.facts import SourceKind
from caffe_batch.net.convert import read_settings
from caffe_batch.net.data.listing import read_lines
from caffe_batch.net.reading import read_recipe
from caffe_batch.net.recipe import NetFile, Recipe
from caffe_batch.net.sources import Sources, is_readable
from caffe_batch.schema import caffe_pb2


@dataclass(frozen=True)
class LayerStart:
    """Where one data layer starts.

    Attributes:
        net: 0 for the train net, 1 and up for the test nets.
        index: Index of the layer in the net's message.
        layer: The layer.
        rule: The rule of its type.
        go_on: How many steps it takes before it reads: by a record, or (ImageData) by an order.
        batches: How many batches it then reads that aren't used.
        lines: The image list that replaces its own, or None.
        note: What will differ from a run without an interruption; may be empty.
    """

    net: int
    index: int
    layer: caffe_pb2.LayerParameter
    rule: Rule
    go_on: int = 0
    batches: int = 0
    lines: bytes | None = None
    note: str = ""


@dataclass(frozen=True)
class DataStart:
    """What a worker does before it trains, so that its data continues where it was.

    Attributes:
        recipe: The solver and its nets.
        layers: The data layers, in the order in which Caffe creates them.
        notes: What will differ from a run without an interruption.
    """

    recipe: Recipe
    layers: tuple[LayerStart, ...]
    notes: tuple[str, ...]

    def settings(self, folder: Path) -> dict[str, object]:
        """The settings for the worker (see its docstring).

        Args:
            folder: Where files that the worker needs may be written; it is emptied first.
        """
        going_on: dict[str, list[int]] = {}
        for start in self.layers:
            going_on.setdefault(start.layer.type, []).append(start.go_on)
        reads = [(start.net, start.layer.name, start.batches) for start in self.layers]
        return {
            "go_on": {name: counts for name, counts in going_on.items() if any(counts)},
            "read": [read for read in reads if read[2]],
            "nets": self._write_nets(folder),
        }

    def _write_nets(self, folder: Path) -> dict[str, object] | None:
        """The nets with other image lists; None if the solver's own will do."""
        shutil.rmtree(folder, ignore_errors=True)
        lists = [start for start in self.layers if start.lines is not None]
        if not lists:
            return None
        folder.mkdir()
        paths = []
        for number, file in enumerate(_nets(self.recipe)):
            message = caffe_pb2.NetParameter()
            message.CopyFrom(file.message)
            for start in lists:
                if start.net == number:
                    images = folder / f"net{number}.layer{start.index}.txt"
                    images.write_bytes(start.lines or b"")
                    message.layer[start.index].image_data_param.source = str(images)
            paths.append(folder / f"net{number}.prototxt")
            write_text(paths[-1], prototxt.write(message))
        return {"train": str(paths[0]), "tests": [str(path) for path in paths[1:]]}


#: The data from the start, as at the first update.
FROM_FIRST_RECORD: Mapping[str, object] = {"go_on": {}, "read": [], "nets": None}


def data_start(
    stages: Sequence[TrainingStage],
    update: int,
    sources: Sources,
) -> DataStart:
    """Where the data of a job continues.

    Args:
        stages: The stages of the job.
        update: Updates done in the snapshot that it continues from.
        sources: Where relative paths of the nets start.

    Raises:
        InputError: A net of the job can't be read.
    """
    recipe, records = records_read(stages, update)
    seed = stage_at(stages, update).solver.random_seed
    starts = [
        _layer_start(LayerStart(net, index, layer, rule), records[net][index], seed, sources)
        for net, file in enumerate(_nets(recipe))
        for index, layer, rule in file.known()
        if is_readable(rule)
    ]
    notes = dict.fromkeys(filter(None, (start.note for start in starts)))
    return DataStart(
        recipe,
        tuple(starts),
        (
            *notes,
            *_shuffled_together(starts),
            *drawn_anew(recipe.train, "as Caffe's snapshots don't hold their state"),
            *state_lost(recipe.train),
            *_unknown_state(recipe.train),
        ),
    )


def samples_read(stages: Sequence[TrainingStage], update: int) -> tuple[Recipe, list[int]]:
    """The recipe of the stage that goes on, and the samples that each net has read by then.

    Args:
        stages: The stages of the job.
        update: Updates done.

    Returns:
        The train net's number first; those of its first data layer, 0 if it has none.

    Raises:
        InputError: A net of the job can't be read.
    """
    recipe, records = records_read(stages, update)
    return recipe, [next(iter(layers.values()), 0) for layers in records]


def records_read(
    stages: Sequence[TrainingStage], update: int
) -> tuple[Recipe, list[dict[int, int]]]:
    """The recipe of the stage that goes on, and the records that each data layer has read by then.

    Args:
        stages: The stages of the job.
        update: Updates done.

    Returns:
        By the layer's index in the net's message; the train net first.

    Raises:
        InputError: A net of the job can't be read.
    """
    last, tests = stage_at(stages, update), past_tests(stages, update)
    recipes = [
        read_recipe(stage.path, allow_unknown_fields=True, rules=stage.rules)
        for stage in stages[: last.number]
    ]
    passes = [_passes(stage, update, past) for stage, past in zip(stages, tests, strict=True)]
    records = [
        {
            index: sum(
                _records(each, recipe, net, index, rule)
                for each, recipe in zip(passes, recipes, strict=False)
            )
            for index, _, rule in file.known()
            if is_readable(rule)
        }
        for net, file in enumerate(_nets(recipes[-1]))
    ]
    return recipes[-1], records


def _nets(recipe: Recipe) -> tuple[NetFile, ...]:
    return (recipe.train, *recipe.tests)


def _passes(stage: TrainingStage, update: int, tests: int) -> list[int]:
    """The passes of a stage through each net, the train net first, up to an update.

    Args:
        stage: The stage.
        update: Updates done.
        tests: How many tests of the stage lie before it.
    """
    updates = max(min(update, stage.last_update) - stage.first_update, 0)
    trained = updates * stage.solver.iter_size * stage.gpus
    return [trained, *(tests * each for each in stage.solver.test_iter)]


def _records(passes: Sequence[int], recipe: Recipe, net: int, index: int, rule: Rule) -> int:
    """Records that a stage's passes read in a layer; 0 if the stage has no such net or layer."""
    nets = _nets(recipe)
    if net >= min(len(nets), len(passes)) or index >= len(nets[net].message.layer):
        return 0
    return passes[net] * int(getattr(nets[net].message.layer[index], rule.message).batch_size)


def _layer_start(start: LayerStart, seen: int, seed: int, sources: Sources) -> LayerStart:
    """The start of a layer that has read ``seen`` records."""
    kind = start.rule.source and start.rule.source.kind
    if kind is SourceKind.IMAGE_LIST:
        return _image_start(start, seen, seed, sources)
    if kind is SourceKind.HDF5_LIST and start.layer.hdf5_data_param.shuffle:
        return replace(start, go_on=seen)  # each epoch has its own order
    try:
        found = sources.contents(start.layer, start.rule)
    except InputError:
        return replace(start, go_on=seen)  # Caffe itself reports what is wrong with the source
    return replace(start, go_on=seen if found.estimated else seen % found.records)


def _image_start(start: LayerStart, seen: int, seed: int, sources: Sources) -> LayerStart:
    settings, name = start.layer.image_data_param, start.layer.name
    lines = _image_lines(settings.source, sources)
    if not seen or not lines:
        return start
    if settings.rand_skip or (settings.shuffle and seed < 0):
        reason = "rand_skip" if settings.rand_skip else "shuffle, and the solver has no random_seed"
        note = f"Layer {name!r} starts its images in a new random order ({reason})."
        return replace(start, note=note)
    epochs, rest = divmod(seen, len(lines))
    if not settings.shuffle:
        return replace(start, lines=b"\n".join((*lines[rest:], *lines[:rest], b"")))
    batches, again = divmod(rest, settings.batch_size)
    note = f"Layer {name!r} reads {again} of its shuffled images once more." if again else ""
    return replace(start, go_on=epochs, batches=batches, note=note)


def _image_lines(source: str, sources: Sources) -> list[bytes]:
    try:
        return read_lines(sources.find(source))
    except (InputError, OSError):
        return []  # Caffe itself reports what is wrong with the source


def _shuffled_together(starts: Sequence[LayerStart]) -> Iterator[str]:
    """All shuffling HDF5Data layers share one random-number generator, taking turns."""
    shuffled = [start for start in starts if start.go_on and start.layer.hdf5_data_param.shuffle]
    if len(shuffled) > 1:
        names = ", ".join(dict.fromkeys(repr(start.layer.name) for start in shuffled))
        yield f"HDF5 layers {names} continue in another random order: they share one generator."


def _unknown_state(file: NetFile) -> Iterator[str]:
    """A sentence about the layers of a net without a rule."""
    foreign = [layer for _, layer in file.selected() if layer.type not in file.rules]
    if foreign:
        types = ", ".join(dict.fromkeys(layer.type for layer in foreign))
        yield (
            f"Whatever {_some([layer.name for layer in foreign])} ({types}) keeps or reads by its "
            "own code starts anew: Caffe's snapshots don't hold it."
        )


def drawn_anew(file: NetFile, why: str) -> Iterator[str]:
    """A sentence if a net draws random numbers, whose state is lost."""
    layers = [(layer.name, rule, read_settings(layer, rule)) for _, layer, rule in file.known()]
    random = [name for name, rule, settings in layers if rule.draws(settings, file.phase)]
    if random:
        yield f"Random numbers are drawn anew, {why}: {_some(random)}."


def state_lost(file: NetFile) -> Iterator[str]:
    """A sentence if layers of a net keep something from pass to pass."""
    layers = [(layer.name, rule, read_settings(layer, rule)) for _, layer, rule in file.known()]
    stateful = [name for name, rule, settings in layers if rule.keeps_state(settings)]
    if stateful:
        yield (
            f"The first pass starts without what {_some(stateful)} kept from the pass before: "
            "Caffe's snapshots don't hold it."
        )


def _some(names: Sequence[str], most: int = 3) -> str:
    """Names for a sentence; only the first few if there are many."""
    shown = ", ".join(map(repr, names[:most]))
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"

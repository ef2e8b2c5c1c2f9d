"""Asks Python layers which shapes their tops have: builds them once, in the runtime's own Python.

What is built is the part of a net that they need: the Python layers and the layers that they read
from. Data layers with a rule are replaced with Input layers, so no data is read. It runs the user's
code, in a process of its own and within a time limit.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from caffe_batch import prototxt
from caffe_batch.engines.base import Engine
from caffe_batch.engines.work import ShapesRequest
from caffe_batch.errors import CaffeBatchError, InputError, Option
from caffe_batch.experiments.worker import WorkerEnd, run_worker
from caffe_batch.jobs.ending import EndReason
from caffe_batch.layers.given import WholeShape
from caffe_batch.layers.own import PYTHON
from caffe_batch.net.kinds import kind
from caffe_batch.net.recipe import NetFile, Recipe
from caffe_batch.net.sources import Sources
from caffe_batch.runtimes.base import Runtime
from caffe_batch.schema import caffe_pb2

#: How long building the Python layers of a net may take, in seconds.
LIMIT_S = 120.0


@dataclass(frozen=True)
class PythonShapes:
    """The shapes that the Python layers of a recipe give their tops.

    Attributes:
        kinds: Which layers, as ``Python:module.Class``.
        shapes: The shapes of their tops.
    """

    kinds: tuple[str, ...]
    shapes: dict[str, WholeShape]


def python_layers(file: NetFile) -> list[caffe_pb2.LayerParameter]:
    """The Python layers of a net that have no rule."""
    return [
        layer
        for _, layer in file.selected()
        if kind(layer).startswith(PYTHON) and kind(layer) not in file.rules
    ]


def ask_python_layers(
    recipe: Recipe, sources: Sources, runtime: Runtime, engine: Engine
) -> PythonShapes:
    """The shapes that the Python layers of a recipe give their tops when they are built.

    Args:
        recipe: The nets.
        sources: Where the data of their other layers is.
        runtime: The Python with Caffe.
        engine: Caffe.

    Raises:
        InputError: A layer failed or took too long, or what it reads can't be built.
    """
    kinds: dict[str, None] = {}
    shapes: dict[str, WholeShape] = {}
    for file in (recipe.train, *recipe.tests):
        asked = python_layers(file)
        if asked:
            blobs = _build(file, sources, asked, runtime, engine)
            tops = dict.fromkeys(top for layer in asked for top in layer.top)
            shapes.update({top: WholeShape(tuple(blobs[top])) for top in tops if top not in shapes})
            kinds.update(dict.fromkeys(map(kind, asked)))
    return PythonShapes(tuple(kinds), shapes)


def needed_part(
    file: NetFile, sources: Sources, asked: Iterable[caffe_pb2.LayerParameter]
) -> caffe_pb2.NetParameter:
    """The Python layers and what they read from, with Input layers in place of known data.

    Raises:
        InputError: The size of such data isn't known.
    """
    wanted = {layer.name for layer in asked}
    blobs: set[str] = set()
    kept: list[caffe_pb2.LayerParameter] = []
    for _, layer in reversed(file.selected()):
        if layer.name in wanted or not blobs.isdisjoint(layer.top):
            kept.insert(0, layer)
            blobs.update(layer.bottom)
    data = {
        layer.name for layer in kept if not layer.bottom and kind(layer) in file.rules
    }  # fmt: skip
    net = caffe_pb2.NetParameter(name=file.message.name)
    alone = caffe_pb2.NetParameter(layer=[layer for layer in kept if layer.name in data])
    known = NetFile(alone, None, file.state, file.rules)
    shapes = known.build(known.layers(sources)).blob_shapes if data else {}
    for layer in kept:
        added = net.layer.add()
        added.CopyFrom(layer)
        if layer.name in data:
            added.Clear()
            added.name = layer.name
            added.type = "Input"
            added.top.extend(layer.top)
            for top in layer.top:
                added.input_param.shape.add(dim=shapes[top])
    return net


def _build(
    file: NetFile,
    sources: Sources,
    asked: list[caffe_pb2.LayerParameter],
    runtime: Runtime,
    engine: Engine,
) -> dict[str, list[int]]:
    """The shapes of the blobs in the part of a net that Python layers need."""
    with TemporaryDirectory(prefix="caffe-batch-") as name:
        folder = Path(name).resolve()
        net, result = folder / "net.prototxt", folder / "shapes.json"
        net.write_text(prototxt.write(needed_part(file, sources, asked)), encoding="utf-8")
        work = engine.shapes(ShapesRequest(net, file.state, result))
        names = ", ".join(repr(layer.name) for layer in asked)
        try:
            end = run_worker(
                runtime, engine, work, folder, Path.cwd(),
                nets=[net], rules=file.rules, limit_s=LIMIT_S,
            )  # fmt: skip
        except TimeoutError as error:
            raise InputError(
                f"Python layer {names}: building it hasn't ended after {LIMIT_S:g} s",
                hint=["Give its shapes instead: ", Option("input_shape", "TOP:NxCxHxW"), "."],
            ) from error
        if end.ending.reason is not EndReason.FINISHED or not result.is_file():
            raise _failure(names, end)
        blobs: dict[str, list[int]] = json.loads(result.read_text())
        return blobs


def _failure(names: str, end: WorkerEnd) -> CaffeBatchError:
    log = "".join(f"\n  {line}" for line in end.log)
    return InputError(
        f"Python layer {names} can't be asked in this runtime: {end.ending.detail}{log}",
        hint=[
            "Its module is found through PYTHONPATH or in the working directory. Or give its "
            "shapes: ", Option("input_shape", "TOP:NxCxHxW"), ".",
        ],
    )  # fmt: skip

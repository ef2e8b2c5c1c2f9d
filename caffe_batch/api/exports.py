"""``export``: a trained net leaves Caffe, as ONNX or TorchScript."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from caffe_batch import engines
from caffe_batch.api.arguments import whole
from caffe_batch.api.jobs import Job
from caffe_batch.api.machines import RuntimeName, find_runtime, find_trainer
from caffe_batch.deploying.folder import is_deployment, read_deployment
from caffe_batch.deploying.preprocessing import Preprocessing, origin_of
from caffe_batch.deploying.transformation import deployed, inference_file
from caffe_batch.device import Device
from caffe_batch.engines.base import Engine
from caffe_batch.engines.work import ExportRequest
from caffe_batch.errors import InputError, Option, TrainingError
from caffe_batch.experiments.deployment import with_inputs
from caffe_batch.experiments.export import (
    TOLERANCE,
    Written,
    compare_with,
    fed_shapes,
    write_export,
)
from caffe_batch.experiments.inference import Inference
from caffe_batch.files import not_a_file, write_bytes
from caffe_batch.layers.base import Shape
from caffe_batch.net.filtering import net_state
from caffe_batch.net.recipe import NetFile
from caffe_batch.net.sources import Sources
from caffe_batch.prototxt import read_net, write
from caffe_batch.schema import caffe_pb2
from caffe_batch.training.trained import choose_weights, read_trained

#: The versions of ONNX's operators that can be asked for, and the usual one.
OPSETS = range(13, 21)
OPSET = 17


@dataclass(frozen=True)
class Exported:
    """A net that was exported.

    Attributes:
        onnx, torch: The files that were written; None if not asked for.
        opset: The version of ONNX's operators.
        weights: The .caffemodel.
        written: The inputs and outputs, and how well the files agree with the PyTorch engine.
        against: The largest difference from other engines, by the name of the engine.
        pixels: The input that takes pictures, if the preprocessing is in the graph; else None.
        notes: Anything else worth knowing.
    """

    onnx: Path | None
    torch: Path | None
    opset: int
    weights: Path
    written: Written
    against: Mapping[str, float]
    pixels: str | None
    notes: tuple[str, ...]

    @property
    def comparisons(self) -> tuple[tuple[str, float], ...]:
        """The names of the other engines for a sentence, each with the largest difference."""
        return tuple((engines.title(name), worst) for name, worst in self.against.items())

    def json(self) -> dict[str, Any]:
        """For other programs."""
        shapes = {
            kind: {name: [size or "batch" for size in shape] for name, shape in found.items()}
            for kind, found in (("inputs", self.written.inputs), ("outputs", self.written.outputs))
        }
        return {
            "onnx": None if self.onnx is None else str(self.onnx),
            "torch": None if self.torch is None else str(self.torch),
            "opset": self.opset if self.onnx else None,
            "weights": str(self.weights),
            "dynamic_batch": self.written.dynamic,
            **shapes,
            "preprocessing": self.pixels,
            "tolerance": TOLERANCE,
            "differences": dict(self.written.differences),
            "against": dict(self.against),
        }


@dataclass(frozen=True)
class _Origin:
    """What is exported.

    Attributes:
        net: The net for inference.
        inputs: Shapes of its inputs for one sample.
        weights: The .caffemodel.
        pictures: How pictures become each input, where that is known.
        means: The mean image of each, if there is one.
        rules: The files with rules for other layer types.
        directory: Where relative paths in the net start.
        notes: What was decided.
    """

    net: NetFile
    inputs: Mapping[str, Shape]
    weights: Path
    pictures: Mapping[str, Preprocessing]
    means: Mapping[str, Path]
    rules: tuple[Path, ...]
    directory: Path
    notes: tuple[str, ...]


def export(
    source: str | Path,
    *,
    onnx: str | Path | None = None,
    torch: str | Path | None = None,
    weights: str | Path | None = None,
    snapshot: str | Path | None = None,
    best: bool = False,
    opset: int = OPSET,
    preprocessing: bool = False,
    against: str | None = None,
    runtime: RuntimeName = None,
) -> Exported:
    """Write a trained net as a file for ONNX runtimes or for PyTorch.

    The net is the one that :func:`deploy` makes: without data layers, losses and scores. The
    files are run with batches of several sizes. Unless their outputs agree with the PyTorch
    engine's within 1e-4 of the largest value, nothing is kept.

    Args:
        source: A job, a folder that :func:`deploy` made, or a net prototxt (then with ``weights``).
        onnx: The ONNX file to write.
        torch: The TorchScript file to write, which torch.jit.load reads without caffe-batch.
        weights: The .caffemodel for a net prototxt.
        snapshot: For a job: a .caffemodel, or a .solverstate with its weights beside it; None for
            the newest snapshot.
        best: For a job: take the snapshot with the best test.
        opset: The version of ONNX's operators, 13 to 20.
        preprocessing: Let the graph take pictures: bytes in the shape (batch, height, width,
            channels), in RGB order, of the size of the data set's records. The graph then
            subtracts the mean, crops and scales as the TEST net does.
        against: Also compare with this engine: ``"caffe"``.
        runtime: The Python with PyTorch.

    Raises:
        InputError: A layer can't be exported (all are named), a file doesn't fit, or a package is
            missing.
        RuntimeMissingError: There is no Python with PyTorch.
        TrainingError: The outputs of the files differ.
    """
    if onnx is None and torch is None:
        raise InputError(
            ["nothing to write: give ", Option("onnx", "FILE.onnx"), " or ",
             Option("torch", "FILE.pt")]
        )  # fmt: skip
    if (whole("opset", opset) or 0) not in OPSETS:
        raise InputError([Option("opset", opset), f" is not one of {OPSETS[0]} to {OPSETS[-1]}"])
    targets = {"onnx": onnx, "torch": torch}
    files = {kind: Path(file) for kind, file in targets.items() if file is not None}
    for file in files.values():
        if file.is_dir() or not file.absolute().parent.is_dir():
            raise InputError(f"{file}: the folder for this file doesn't exist")
    origin = _origin(source, weights, snapshot, best=best)
    engine = next(each for each in map(engines.find, engines.NAMES) if each.exports)
    engine.check_exports(origin.net.build(origin.net.layers(Sources((origin.directory,)))))
    found = find_trainer(runtime, engine.name, engine.name)
    with TemporaryDirectory(prefix="caffe-batch-") as name:
        folder = Path(name).resolve()
        request = _request(origin, folder, set(files), opset, preprocessing=preprocessing)
        written = write_export(request, engine, found.runtime, origin.net, origin.directory)
        others = {} if against is None else {against: _other(against, origin, request)}
        for kind, file in files.items():
            write_bytes(file, (folder / _NAMES[kind]).read_bytes())
    notes = list(origin.notes)
    if not written.dynamic:
        notes.append("The net only takes batches of the size that it was built with.")
    return Exported(
        onnx=files.get("onnx"),
        torch=files.get("torch"),
        opset=opset,
        weights=origin.weights,
        written=written,
        against=others,
        pixels=None if request.pixels is None else str(request.pixels["input"]),
        notes=tuple(notes),
    )


#: The names of the files while they are tried.
_NAMES = {"onnx": "model.onnx", "torch": "model.pt"}


def _origin(
    source: str | Path, weights: str | Path | None, snapshot: str | Path | None, *, best: bool
) -> _Origin:
    path = Path(source)
    if Job(path).is_planned:
        if weights is not None:
            raise InputError(
                [Option("weights"), f": {path} is a job, which has snapshots of its own"],
                hint=["Name one of them with ", Option("snapshot", "FILE"), "."],
            )
        return _of_job(Job(path), None if snapshot is None else Path(snapshot), best=best)
    if snapshot is not None or best:
        name = "snapshot" if snapshot is not None else "best"
        raise InputError([Option(name), f": {path} isn't a job"])
    if is_deployment(path):
        made = read_deployment(path)
        net = _net_file(made.net)
        return _of_net(
            net, made.net, made.weights if weights is None else Path(weights),
            {each.name: each.preprocessing for each in made.inputs if each.preprocessing},
        )  # fmt: skip
    if wrong := not_a_file(path):
        raise InputError(
            f"{path}: {wrong}",
            hint="Give a job, a folder that `caffe-batch deploy` made, or a net prototxt.",
        )
    if weights is None:
        raise InputError(
            f"{path} is a net without weights, which are in another file",
            hint=["Name it with ", Option("weights", "FILE.caffemodel"), "."],
        )
    return _of_net(_net_file(path), path, Path(weights), None)


def _net_file(path: Path) -> NetFile:
    message = read_net(path)
    return NetFile(message, path, net_state("TEST", message))


def _of_net(
    net: NetFile, path: Path, weights: Path, pictures: Mapping[str, Preprocessing] | None
) -> _Origin:
    if wrong := not_a_file(weights):
        raise InputError(f"{weights}: {wrong}", hint="Give a .caffemodel of the net.")
    sources = Sources((Path(), path.parent))
    made = deployed(net, sources)
    origins = {}
    if pictures is None:
        origins = {
            name: origin_of(net, layer, made.inputs[name], sources)
            for name, layer in made.data_layers.items()
        }
        pictures = {name: each.preprocessing for name, each in origins.items()
                    if each.preprocessing}  # fmt: skip
        means = {name: each.mean for name, each in origins.items() if each.mean}
    else:
        means = {name: path.parent / each.mean_file for name, each in pictures.items()
                 if each.mean_file}  # fmt: skip
    return _Origin(
        inference_file(made.message, net.rules), made.inputs, weights, pictures, means, (),
        Path().resolve(), made.notes,
    )  # fmt: skip


def _of_job(job: Job, snapshot: Path | None, *, best: bool) -> _Origin:
    trained = read_trained(job.directory)
    chosen = choose_weights(
        job.directory, engines.find(job.last_engine), snapshot=snapshot, best=best
    )
    made = deployed(trained.test, trained.sources, allow_unknown=trained.plan.allow_unknown)
    origins = {
        name: origin_of(trained.test, layer, made.inputs[name], trained.sources)
        for name, layer in made.data_layers.items()
    }
    return _Origin(
        inference_file(made.message, trained.test.rules),
        made.inputs,
        chosen.weights,
        {name: each.preprocessing for name, each in origins.items() if each.preprocessing},
        {name: each.mean for name, each in origins.items() if each.mean},
        tuple(Path(each) for each in trained.plan.rules),
        trained.directory,
        (*chosen.notes, *made.notes),
    )


def _request(
    origin: _Origin, folder: Path, kinds: set[str], opset: int, *, preprocessing: bool
) -> ExportRequest:
    """The worker's task; writes the net and the mean."""
    import numpy as np

    net = folder / "net.prototxt"
    net.write_text(write(origin.net.message), encoding="utf-8")
    pixels = None
    ranges: dict[str, tuple[float, float]] = {}
    for name in origin.inputs:
        ranges[name] = _range(origin, name)
    if preprocessing:
        if len(origin.pictures) != 1:
            raise InputError(
                [
                    Option("preprocessing", True),
                    ": it isn't known how to turn a picture into input",
                ],
                hint="It is known if the TEST net reads pictures from a database or a list.",
            )
        ((name, made),) = origin.pictures.items()
        mean = np.array(made.mean_values or (0.0,), np.float32)[:, None, None]
        size = made.resize or ((made.crop, made.crop) if made.crop else origin.inputs[name][2:])
        if name in origin.means:
            mean = _mean(origin.means[name])
            size = mean.shape[1:]
        np.save(folder / "mean.npy", mean)
        pixels = {
            "input": name, "height": int(size[0]), "width": int(size[1]),
            "channels": made.channels, "crop": made.crop, "mean": str(folder / "mean.npy"),
            "scale": made.scale,
        }  # fmt: skip
    return ExportRequest(
        net, origin.weights, origin.rules,
        folder / _NAMES["onnx"] if "onnx" in kinds else None,
        folder / _NAMES["torch"] if "torch" in kinds else None,
        opset, pixels, ranges, folder,
    )  # fmt: skip


def _range(origin: _Origin, name: str) -> tuple[float, float]:
    """The values that an input may have, if known: those of pixels, or indices for an Embed."""
    for layer in origin.net.message.layer:
        if name in layer.bottom and layer.HasField("embed_param"):
            return 0, layer.embed_param.input_dim - 1
    made = origin.pictures.get(name)
    if made is None:
        return -1.0, 1.0
    middle = sum(made.mean_values) / len(made.mean_values) if made.mean_values else 0.0
    return (0.0 - middle) * made.scale, (255.0 - middle) * made.scale


def _mean(path: Path) -> Any:
    """A mean image: (channels, height, width)."""
    import numpy as np

    blob = caffe_pb2.BlobProto()
    blob.ParseFromString(path.read_bytes())
    shape = blob.shape.dim or (blob.channels, blob.height, blob.width)
    return np.array(blob.data or blob.double_data, np.float32).reshape(tuple(shape)[-3:])


def _other(name: str, origin: _Origin, request: ExportRequest) -> float:
    """The largest difference of another engine's outputs.

    Raises:
        InputError: The graph takes pictures, and the other engine's net doesn't.
        TrainingError: It is too large.
    """
    if request.pixels is not None:
        raise InputError(
            [Option("against", name), " and ", Option("preprocessing", True),
             " exclude each other: the net itself takes no pictures"]
        )  # fmt: skip
    engine: Engine = engines.find(name)
    batched = with_inputs(origin.net.message, fed_shapes(request))
    how = Inference(engine, find_runtime(None, name), Device.CPU)
    worst = compare_with(how, request, inference_file(batched, origin.net.rules), origin.directory)
    if not worst <= TOLERANCE:
        raise TrainingError(
            f"{engine.title} computes something else: the largest difference is {worst:.2g}, and "
            f"{TOLERANCE:g} is allowed; nothing was written"
        )
    return worst

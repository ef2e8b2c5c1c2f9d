"""Writes a net for inference as ONNX or TorchScript, for experiments/export.py.

Beside what main.py lists, the settings have

    net, weights   the net prototxt, whose data comes from Input layers, and its .caffemodel
    rules          the files with rules for other layer types
    onnx, torch    the files to write, or null
    opset          the version of ONNX's operators
    ranges         lowest and highest value of each input that the trials take, by name; whole
                   numbers if both are
    pixels         null, or what the graph does to pictures: input, height, width, channels, crop,
                   mean (the name of an .npy file (channels, height, width), or null), scale
    samples        the batch sizes that the files are tried with
    fed            where the inputs of the last trial are written, as .npz
    given          where the net's own outputs for them are written, as .npz
    result         where the report is written: a JSON object with "opset", "dynamic" (whether the
                   batch may be of any size), "inputs" and "outputs" (name and shape), and for each
                   file by "onnx" and "torch" the largest difference of any output from the net's,
                   as a share of the largest value where that is above 1
"""  # a list

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from caffe_batch.engines.torch.layers.python import with_python
from caffe_batch.engines.torch.net import TorchNet
from caffe_batch.engines.torch.snapshots import load_weights
from caffe_batch.engines.torch.worker.devices import set_precision
from caffe_batch.engines.torch.worker.nets import HERE
from caffe_batch.engines.torch.worker.requests import Requests
from caffe_batch.engines.torch.worker.speech import Events
from caffe_batch.engines.torch.worker.starting import started
from caffe_batch.errors import CaffeBatchError, InputError
from caffe_batch.layers.loading import rules_with
from caffe_batch.net.filtering import net_state
from caffe_batch.net.recipe import NetFile
from caffe_batch.prototxt import read_net

Arrays = dict[str, Any]


class Exported(torch.nn.Module):
    """A net as a function of its inputs, in their order.

    Args:
        net: The net; its weights become constants.
        pixels: As in the settings.
    """

    def __init__(self, net: TorchNet, pixels: Mapping[str, Any] | None) -> None:
        super().__init__()
        self._net = net
        self._pixels = Pixels(pixels) if pixels else None
        self.inputs = tuple(net.fed)
        self.outputs = tuple(output.name for output in net.outputs)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the inputs, as built."""
        return {
            name: (shape[0], *self._pixels.shape)
            if self._pixels and self.takes_bytes(name) else tuple(shape)
            for name, shape in self._net.fed.items()
        }  # fmt: skip

    def takes_bytes(self, name: str) -> bool:
        """Whether an input is pictures."""
        return self._pixels is not None and self._pixels.name == name

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The net's outputs."""
        fed = dict(zip(self.inputs, tensors, strict=True))
        if self._pixels is not None:
            fed[self._pixels.name] = self._pixels(fed[self._pixels.name])
        done = self._net.forward(fed).outputs
        return tuple(done[name] for name in self.outputs)


class Pixels:
    """Pictures as the net's input: bytes (N, height, width, channels), red before green and blue.

    What data_transformer.cpp does in TEST: minus the mean, cut to the middle, times the scale.
    """

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.name: str = given["input"]
        self.shape = (given["height"], given["width"], given["channels"])
        self._crop, self._scale = given["crop"], given["scale"]
        mean = np.load(given["mean"]) if given["mean"] else np.zeros((1, 1, 1), np.float32)
        self._mean = torch.from_numpy(np.asarray(mean, np.float32))[None]

    def __call__(self, pictures: Tensor) -> Tensor:
        """The values that the net reads."""
        values = pictures.to(torch.float32).permute(0, 3, 1, 2).flip(1) - self._mean
        if self._crop:
            top, left = ((size - self._crop) // 2 for size in self.shape[:2])
            values = values[:, :, top : top + self._crop, left : left + self._crop]
        return values.mul(self._scale)


def main(settings: Mapping[str, Any], events: Events, requests: Requests) -> int:
    """Write the files; returns the worker's exit status."""
    set_precision("float32", torch.device("cpu"))
    path = Path(settings["net"])
    message = read_net(path, allow_unknown_fields=True)
    file = NetFile(
        message, path, net_state("TEST", message), with_python(rules_with(settings["rules"]))
    )
    missing = [name for name in ("onnx", "onnxruntime") if not find_spec(name)]
    if settings["onnx"] and missing:
        why = f"{' and '.join(missing)} can't be imported; `pip install 'caffe-batch[onnx]'` helps"
        events.send("refused", why=why, wants="onnx")
        return 1
    net = TorchNet.of_file(file, file.build(file.layers(HERE)), gradients=False)
    try:
        load_weights(Path(settings["weights"]), [net])
    except InputError as error:
        events.send("refused", why=error.message, wants="weights")
        return 1
    started(events, "CPU", ())
    events.built = True
    report = _write(Exported(net, settings["pixels"]).eval(), settings)
    Path(settings["result"]).write_text(json.dumps(report))
    events.send("finished", update=0)
    return 0


def _write(module: Exported, settings: Mapping[str, Any]) -> dict[str, Any]:
    trials = Trials(module, settings["ranges"])
    dynamic = trials.take_any_batch()
    batches = [trials.batch(size) for size in (settings["samples"] if dynamic else [None])]
    wanted = [_run(module, batch) for batch in batches]
    report: dict[str, Any] = {"opset": settings["opset"], "dynamic": dynamic}
    for kind, found in (("inputs", batches[-1]), ("outputs", wanted[-1])):
        report[kind] = [
            [name, [None if dynamic and axis == 0 else size for axis, size in enumerate(v.shape)]]
            for name, v in found.items()
        ]
    example = tuple(torch.from_numpy(values) for values in batches[0].values())
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")  # about shapes that become constants: they are tried
        traced = torch.jit.trace(module, example, check_trace=False)  # type: ignore[no-untyped-call]
        if settings["torch"]:
            torch.jit.save(traced, settings["torch"])
            report["torch"] = _difference(_torch_file(settings["torch"]), batches, wanted)
        if settings["onnx"]:
            axes = {name: {0: "batch"} for name in (*module.inputs, *module.outputs)}
            torch.onnx.export(
                traced,
                example,
                settings["onnx"],
                input_names=list(module.inputs),
                output_names=list(module.outputs),
                opset_version=settings["opset"],
                dynamic_axes=axes if dynamic else None,
                dynamo=False,  # the other way takes 20 s for a small net
            )
            report["onnx"] = _difference(_onnx_file(settings["onnx"]), batches, wanted)
    np.savez(settings["fed"], **batches[-1])
    np.savez(settings["given"], **wanted[-1])
    return report


class Trials:
    """Inputs to try a net with.

    Args:
        module: The net.
        ranges: As in the settings.
    """

    def __init__(self, module: Exported, ranges: Mapping[str, Sequence[float]]) -> None:
        self._module, self._ranges = module, ranges
        self._random = np.random.default_rng(1)

    def batch(self, size: int | None) -> Arrays:
        """Values for each input; None for the batch that the net was built with."""
        made: Arrays = {}
        for name, built in self._module.shapes().items():
            shape = built if size is None else (size, *built[1:])
            if self._module.takes_bytes(name):
                made[name] = self._random.integers(0, 256, shape, np.uint8)
                continue
            low, high = self._ranges[name]
            if isinstance(low, int) and isinstance(high, int):
                made[name] = self._random.integers(low, high + 1, shape).astype(np.float32)
            else:
                made[name] = self._random.uniform(low, high, shape).astype(np.float32)
        return made

    def take_any_batch(self) -> bool:
        """Whether every output has as many samples as the inputs."""
        if not all(self._module.shapes().values()):
            return False
        for size in (2, 3):
            try:
                found = _run(self._module, self.batch(size))
            except (CaffeBatchError, RuntimeError, ValueError):
                return False
            if any(values.shape[:1] != (size,) for values in found.values()):
                return False
        return True


def _run(module: Exported, batch: Arrays) -> Arrays:
    with torch.no_grad():
        tops = module(*map(torch.from_numpy, batch.values()))
    return {name: top.numpy() for name, top in zip(module.outputs, tops, strict=True)}


def _torch_file(path: str) -> Callable[[Arrays], Sequence[Any]]:
    loaded = torch.jit.load(path)  # type: ignore[no-untyped-call]

    def run(batch: Arrays) -> Sequence[Any]:
        tops = loaded(*map(torch.from_numpy, batch.values()))
        return [top.numpy() for top in tops]

    return run


def _onnx_file(path: str) -> Callable[[Arrays], Sequence[Any]]:
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.log_severity_level = 3
    session = InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda batch: session.run(None, dict(batch))


def _difference(
    run: Callable[[Arrays], Sequence[Any]], batches: Sequence[Arrays], wanted: Sequence[Arrays]
) -> float | None:
    """The largest difference of any output; None if a shape differs, or a value isn't a number."""
    worst = 0.0
    for batch, outputs in zip(batches, wanted, strict=True):
        for found, right in zip(run(batch), outputs.values(), strict=True):
            if found.shape != right.shape or not np.isfinite(found).all():
                return None
            largest = max(1.0, float(np.abs(right).max(initial=0)))
            worst = max(worst, float(np.abs(found - right).max(initial=0)) / largest)
    return worst

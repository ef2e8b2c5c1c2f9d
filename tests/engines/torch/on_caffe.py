"""The real Caffe as the judge of the PyTorch engine: nets in, blobs and gradients out.

One call answers a whole list of nets: each runs in a forked child of a Python that has imported
caffe, because Caffe aborts its process on a bad net.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from google.protobuf import text_format
from numpy.typing import NDArray

from caffe_batch.engines.torch.fillers import Draws
from caffe_batch.engines.torch.layers.python import with_python
from caffe_batch.engines.torch.net import TorchNet
from caffe_batch.layers import BUILT_IN
from caffe_batch.layers.base import Phase
from caffe_batch.net import Net, build
from caffe_batch.net.convert import convert
from caffe_batch.schema import caffe_pb2

Array = NDArray[np.float32]
Pycaffe = Callable[..., str]
Arrays = Mapping[str, Array]

#: The demands of the issue.
OUTPUTS = 1e-6
GRADIENTS = 1e-5

#: Of the fillers on both sides.
SEED = 7

CHILD = """
import json, os, resource, sys
import caffe
import numpy as np
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
folder, phases = sys.argv[1], json.loads(sys.argv[2])

def run(number, phase):
    caffe.set_random_seed(int(sys.argv[3]))
    net = caffe.Net("%s/%d.prototxt" % (folder, number), getattr(caffe, phase))
    given = np.load("%s/%d.npz" % (folder, number))
    found = {}
    for layer, blobs in net.params.items():
        for i, blob in enumerate(blobs):
            key = "weights/%s/%d" % (layer, i)
            if key in given:
                blob.data[...] = given[key]
            found[key] = np.array(blob.data)
    net.clear_param_diffs()
    for n in range(int(given["passes"])):
        for key in given:
            kind, at, name = (key.split("/", 2) + ["", ""])[:3]
            if kind == "feed" and int(at) == n:
                net.blobs[name].data[...] = given[key]
        loss = net._forward(0, len(net.layers) - 1)
        found["loss/%d" % n] = np.array(loss)
        for name, blob in net.blobs.items():
            found["blob/%d/%s" % (n, name)] = np.array(blob.data)
        if phase == "TRAIN":
            for key in given:
                kind, at, name = (key.split("/", 2) + ["", ""])[:3]
                if kind == "diff" and int(at) == n:
                    net.blobs[name].diff[...] = given[key]
            net.backward()
            for name, blob in net.blobs.items():
                found["grad/%d/%s" % (n, name)] = np.array(blob.diff)
            for layer, blobs in net.params.items():
                for i, blob in enumerate(blobs):
                    found["param/%d/%s/%d" % (n, layer, i)] = np.array(blob.diff)
        for layer, blobs in net.params.items():
            for i, blob in enumerate(blobs):
                found["after/%d/%s/%d" % (n, layer, i)] = np.array(blob.data)
    np.savez("%s/%d.out.npz" % (folder, number), **found)

for number, phase in enumerate(phases):
    if os.fork() == 0:
        os.dup2(os.open("%s/%d.log" % (folder, number), os.O_WRONLY | os.O_CREAT, 0o600), 2)
        status = 1
        try:
            run(number, phase)
            status = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        os._exit(status)
    os.wait()
"""


@dataclass(frozen=True)
class Trial:
    """A net to run on both sides.

    Attributes:
        text: The net.
        feeds: What goes into its inputs, for each pass.
        diffs: Gradients that are put into blobs before each Backward (with force_backward).
        phase: The phase; in TEST there is no Backward.
        weights: Parameters by ``layer/index``; the others are what Caffe's fillers give.
    """

    text: str
    feeds: Sequence[Arrays] = ()
    diffs: Sequence[Arrays] = ()
    phase: Phase = "TRAIN"
    weights: Arrays = field(default_factory=dict)

    def message(self) -> caffe_pb2.NetParameter:
        return text_format.Parse(self.text, caffe_pb2.NetParameter())

    def net(self) -> Net:
        message = self.message()
        rules = with_python(BUILT_IN)
        layers = [convert(layer, rules[layer.type]) for layer in message.layer]
        return build(layers, phase=self.phase, force_backward=message.force_backward)


@dataclass(frozen=True)
class Answer:
    """What one side made of a trial, by pass.

    Attributes:
        weights: The parameters before the first pass, by ``layer/index``.
        losses, blobs: Of each forward pass.
        inputs: The gradients of the fed blobs.
        gradients: The summed gradients of the parameters, by ``layer/index``.
        after: The parameters after the pass (a BatchNorm changes its own).
    """

    weights: Arrays
    losses: Sequence[float]
    blobs: Sequence[Arrays]
    inputs: Sequence[Arrays]
    gradients: Sequence[Arrays]
    after: Sequence[Arrays]


def on_caffe(pycaffe: Pycaffe, folder: Path, trials: Sequence[Trial]) -> list[Answer | None]:
    """What real Caffe makes of each net; None where it aborts (NUMBER.log says why)."""
    for number, trial in enumerate(trials):
        (folder / f"{number}.prototxt").write_text(trial.text)
        given: dict[str, Array] = {f"weights/{key}": value for key, value in trial.weights.items()}
        given["passes"] = np.array(max(1, len(trial.feeds)), np.float32)
        for kind, passes in (("feed", trial.feeds), ("diff", trial.diffs)):
            for n, arrays in enumerate(passes):
                given |= {f"{kind}/{n}/{name}": array for name, array in arrays.items()}
        np.savez(folder / f"{number}.npz", **given)  # type: ignore[arg-type]
    pycaffe(
        CHILD, str(folder), json.dumps([trial.phase for trial in trials]), str(SEED), cwd=folder
    )
    return [_answer(folder / f"{n}.out.npz", trial) for n, trial in enumerate(trials)]


def _answer(path: Path, trial: Trial) -> Answer | None:
    if not path.exists():
        return None
    with np.load(path) as file:
        found = dict(file)

    def named(prefix: str) -> dict[str, Array]:
        return {
            key.removeprefix(prefix): value
            for key, value in found.items()
            if key.startswith(prefix)
        }

    passes = range(max(1, len(trial.feeds)))
    fed = set(trial.feeds[0]) if trial.feeds else set()
    grads = [named(f"grad/{n}/") for n in passes]
    return Answer(
        named("weights/"),
        [float(found[f"loss/{n}"]) for n in passes],
        [named(f"blob/{n}/") for n in passes],
        [{name: grad for name, grad in grads[n].items() if name in fed} for n in passes],
        [named(f"param/{n}/") for n in passes],
        [named(f"after/{n}/") for n in passes],
    )


def on_torch(
    trial: Trial,
    weights: Arrays,
    dtype: torch.dtype = torch.float32,
    change: Callable[[TorchNet], None] | None = None,
    *,
    every_blob: bool = True,
) -> Answer:
    """The same on this engine, with the weights that Caffe has filled.

    Args:
        trial: The net.
        weights: Its parameters by ``layer/index``.
        dtype: The precision.
        change: Called with the net before it runs.
        every_blob: Ask for all blobs; otherwise for those that the fast path has.
    """
    net = TorchNet(trial.net(), trial.message().layer, dtype=dtype, draws=Draws(SEED))
    for param in net.params:
        with torch.no_grad():
            param.value.copy_(torch.from_numpy(weights[f"{param.layer}/{param.index}"]))
    if change is not None:
        change(net)
    answer = Answer(weights, losses := [], blobs := [], inputs := [], gradients := [], after := [])
    left_out = {"(automatic)"} if every_blob else {"(automatic)", *net.hidden}
    names = [name for name in net.net.blob_shapes if name not in left_out]
    for n in range(max(1, len(trial.feeds))):
        feeds = trial.feeds[n] if trial.feeds else {}
        forced = net.net.force_backward
        fed = {
            name: torch.from_numpy(np.asarray(feeds[name], np.float32))
            .to(dtype)
            .requires_grad_(forced)
            for name in feeds
        }
        done = net.forward(fed, names)
        losses.append(float(done.loss))
        blobs.append({name: _numpy(value) for name, value in done.blobs.items()})
        if trial.phase == "TRAIN":
            if trial.diffs and trial.diffs[n]:
                roots = [
                    (done.blobs[name] * torch.from_numpy(diff).to(dtype)).sum()
                    for name, diff in trial.diffs[n].items()
                ]
                root = sum(roots, torch.zeros((), dtype=dtype))
                done = replace(done, root=root if root.requires_grad else None)
            net.backward(done)
        inputs.append({name: _numpy(t.grad) for name, t in fed.items() if t.grad is not None})
        gradients.append(
            {
                f"{p.layer}/{p.index}": _numpy(
                    torch.zeros_like(p.value) if p.value.grad is None else p.value.grad
                )
                for p in net.params
            }
        )
        after.append({f"{p.layer}/{p.index}": _numpy(p.value) for p in net.params})
    return answer


def _numpy(tensor: torch.Tensor) -> Array:
    return tensor.detach().numpy().copy()


def worst(theirs: Arrays, ours: Arrays) -> tuple[float, str]:
    """The largest relative L2 error of an array, and its name.

    An array counts as no smaller than a tenth of the RMS of all: what is zero in theory is noise
    in practice. What isn't finite must be so on both sides.
    """
    shared = [name for name in ours if name in theirs]
    with np.errstate(all="ignore"):
        finite = {n: np.asarray(theirs[n], np.float64) for n in shared}
        sizes = sum(a[np.isfinite(a)].size for a in finite.values())
        squares = sum(float(np.square(a[np.isfinite(a)]).sum()) for a in finite.values())
    floor = 0.1 * math.sqrt(squares / sizes) if sizes else 0.0
    result = (0.0, "")
    for name in shared:
        a, b = finite[name], np.asarray(ours[name], np.float64)
        if a.shape != b.shape:
            return math.inf, f"{name}: {a.shape} is not {b.shape}"
        good = np.isfinite(a)
        if not np.array_equal(good, np.isfinite(b)):
            return math.inf, f"{name}: not finite in other places"
        size = max(float(np.linalg.norm(a[good])), floor * math.sqrt(good.sum()))
        error = float(np.linalg.norm(a[good] - b[good]))
        if error:
            result = max(result, (error / size if size else math.inf, name))
    return result

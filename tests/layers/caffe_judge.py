"""The real Caffe as the judge of shapes: one net of text in, shapes or a refusal out.

Caffe aborts its whole process on a bad net, so each net is built in a forked child of one python
that has imported caffe; a list of nets costs one import.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format

from caffe_batch.errors import NetError
from caffe_batch.layers import BUILT_IN
from caffe_batch.layers.base import Phase, Shape
from caffe_batch.net.convert import convert
from caffe_batch.net.graph import build
from caffe_batch.schema import caffe_pb2

CHILD = """
import json, os, resource, sys
import caffe
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
phase, folder = sys.argv[1], sys.argv[2]
for number in range(int(sys.argv[3])):
    if os.fork() == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        net = caffe.Net("%s/%d.prototxt" % (folder, number), getattr(caffe, phase))
        built = {
            "blobs": {name: list(blob.shape) for name, blob in net.blobs.items()},
            "params": {name: [list(p.shape) for p in params]
                       for name, params in net.params.items()},
        }
        with open("%s/%d.json" % (folder, number), "w") as file:
            json.dump(built, file)
        os._exit(0)
    os.wait()
"""


@dataclass(frozen=True)
class Built:
    """What a net looks like once built: shape by blob, parameter shapes by layer."""

    blobs: dict[str, Shape]
    params: dict[str, tuple[Shape, ...]]


def layer_text(layer_type: str, settings: str = "", *, bottoms: int = 1, tops: int = 1) -> str:
    """One layer of text that reads ``b0``, ``b1``, ... and makes ``t0``, ``t1``, ..."""
    blobs = [f'bottom: "b{i}"' for i in range(bottoms)] + [f'top: "t{i}"' for i in range(tops)]
    return f'layer {{ name: "l" type: "{layer_type}" {" ".join(blobs)} {settings} }}'


def one_layer_net(layer: str, *bottoms: Shape) -> str:
    """The text of a net that feeds blobs ``b0``, ``b1``, ... of these shapes to some layers."""
    shapes = " ".join(f"shape {{ {' '.join(f'dim: {size}' for size in s)} }}" for s in bottoms)
    tops = " ".join(f'top: "b{i}"' for i in range(len(bottoms)))
    return f'layer {{ name: "in" type: "Input" {tops} input_param {{ {shapes} }} }}\n{layer}\n'


def caffe_builds(
    pycaffe: Callable[..., str], nets: Sequence[str], phase: Phase = "TRAIN"
) -> list[Built | None]:
    """What real pycaffe makes of each net; None where it refuses."""
    with tempfile.TemporaryDirectory() as folder:
        for number, net in enumerate(nets):
            Path(folder, f"{number}.prototxt").write_text(net, encoding="utf-8")
        pycaffe(CHILD, phase, folder, str(len(nets)))
        results = [Path(folder, f"{number}.json") for number in range(len(nets))]
        return [_read(path) if path.exists() else None for path in results]


def we_build(net: str, phase: Phase = "TRAIN") -> Built | None:
    """What the rules make of a net; None where they refuse."""
    message = text_format.Parse(net, caffe_pb2.NetParameter())
    try:
        built = build(
            [convert(layer, BUILT_IN[layer.type]) for layer in message.layer], phase=phase
        )
    except NetError:
        return None
    return Built(dict(built.blob_shapes), dict(built.param_shapes))


def disagreements(
    pycaffe: Callable[..., str], nets: Sequence[str], phase: Phase = "TRAIN"
) -> list[tuple[str, Built | None, Built | None]]:
    """The nets on which Caffe and the rules differ: (text, Caffe's verdict, ours)."""
    pairs = zip(nets, caffe_builds(pycaffe, nets, phase), strict=True)
    judged = [(net, theirs, we_build(net, phase)) for net, theirs in pairs]
    return [(net, theirs, ours) for net, theirs, ours in judged if theirs != ours]


def _read(path: Path) -> Built:
    built = json.loads(path.read_text(encoding="utf-8"))
    return Built(
        {name: tuple(shape) for name, shape in built["blobs"].items()},
        {name: tuple(map(tuple, shapes)) for name, shapes in built["params"].items()},
    )

"""Writes a net for inference in the format of another program, and tries what was written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caffe_batch.engines.base import Engine
from caffe_batch.engines.work import ExportRequest
from caffe_batch.errors import InputError, TrainingError
from caffe_batch.experiments.inference import Inference, Run, run_forward
from caffe_batch.experiments.worker import run_worker
from caffe_batch.jobs.ending import EndReason
from caffe_batch.layers.base import Shape
from caffe_batch.net.recipe import NetFile
from caffe_batch.runtimes.base import Runtime

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: By how much an output may differ, as a share of the largest one where that is above 1.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        inputs, outputs: Their shapes by name; None stands for a batch of any size.
        dynamic: Whether the batch may be of any size.
        differences: By format, the largest difference of any output from that of the engine.
    """

    inputs: Mapping[str, tuple[int | None, ...]]
    outputs: Mapping[str, tuple[int | None, ...]]
    dynamic: bool
    differences: Mapping[str, float]


def write_export(
    request: ExportRequest, engine: Engine, runtime: Runtime, net: NetFile, directory: Path
) -> Written:
    """Run the worker that writes.

    Args:
        request: What to write.
        engine: What writes it.
        runtime: The Python that it runs in.
        net: The net of the request.
        directory: Where relative paths in the net start.

    Raises:
        InputError: The weights don't fit the net, or a package is missing.
        TrainingError: The worker ended early, or a file doesn't give what the net gives.
    """
    end = run_worker(
        runtime, engine, engine.export(request), request.folder, directory,
        nets=[request.net], rules=net.rules, weights=[request.weights],
    )  # fmt: skip
    if end.ending.reason is EndReason.REFUSED:
        raise InputError(end.ending.detail)
    if end.ending.reason is not EndReason.FINISHED:
        lines = "".join(f"\n  {line}" for line in end.log)
        raise TrainingError(
            f"the net couldn't be exported: {end.ending.detail}; nothing was written\n"
            f"The last lines of {engine.title}'s log:{lines}"
        )
    found = json.loads(request.report.read_text(encoding="utf-8"))
    differences: dict[str, float] = {}
    for name in ("onnx", "torch"):
        if name in found:
            worst = found[name]
            if worst is None or not worst <= TOLERANCE:
                raise TrainingError(
                    f"the {name} file doesn't give what {engine.title} gives: "
                    + ("a shape is another one, or a value is no number" if worst is None
                       else f"the largest difference is {worst:.2g}, and {TOLERANCE:g} is allowed")
                    + "; nothing was written"
                )  # fmt: skip
            differences[name] = worst
    shapes = [{name: tuple(shape) for name, shape in found[kind]} for kind in ("inputs", "outputs")]
    return Written(shapes[0], shapes[1], found["dynamic"], differences)


def compare_with(how: Inference, request: ExportRequest, net: NetFile, directory: Path) -> float:
    """The largest difference between the outputs of the last trial and those of another engine.

    Args:
        how: What runs the net.
        request: What was written, with the inputs and outputs of the last trial in its folder.
        net: The net, built for the shapes of these inputs.
        directory: Where relative paths in the net start.

    Raises:
        InputError: The engine refuses the net.
        TrainingError: It ended early.
    """
    import numpy as np

    with np.load(request.fed) as fed, np.load(request.given) as given:
        inputs, outputs = dict(fed), dict(given)
    run = Run(net, 1, {"values": list(outputs)}, inputs)
    (found,) = run_forward(
        [run], [request.weights], how, request.folder, directory,
        rules=net.rules, rule_files=request.rules,
    ).results  # fmt: skip
    return max(difference(found[f"values:{name}"], values) for name, values in outputs.items())


def difference(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    """The largest difference, as a share of the largest value where that is above 1."""
    import numpy as np

    if found.shape != wanted.shape:
        return float("inf")
    largest = max(1.0, float(np.abs(wanted).max(initial=0)))
    return float(np.abs(found - wanted).max(initial=0)) / largest


def fed_shapes(request: ExportRequest) -> dict[str, Shape]:
    """Shapes of the inputs of the last trial."""
    import numpy as np

    with np.load(request.fed) as fed:
        return {name: fed[name].shape for name in fed.files}

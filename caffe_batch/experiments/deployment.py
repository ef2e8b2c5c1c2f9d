"""Whether a net for inference gives the scores of the TEST net that it was made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from caffe_batch.deploying.transformation import Deployed, Output, inference_file
from caffe_batch.errors import TrainingError
from caffe_batch.experiments.inference import Inference, Run, run_forward
from caffe_batch.schema import caffe_pb2
from caffe_batch.training.trained import Trained

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

#: By how much a score may differ, as a share of the largest one where that is above 1.
TOLERANCE = 1e-6
#: The same where weights have taken in other layers, and so are rounded anew.
FOLDED_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Compared:
    """How an output agrees with that of the TEST net.

    Attributes:
        name: The output.
        samples: How many samples were compared.
        difference: The largest difference, as a share of the largest score where that is above 1.
    """

    name: str
    samples: int
    difference: float


def compare_scores(
    trained: Trained,
    weights: Path,
    found: Deployed,
    net: caffe_pb2.NetParameter,
    new_weights: Path,
    how: Inference,
) -> tuple[Compared, ...]:
    """Run a batch of the test data through both nets.

    What a loss computes inside is calculated here from its bottom, in double precision.

    Args:
        trained: The TEST net.
        weights: Its weights.
        found: What became of it.
        net: The net for inference, which may be that of ``found`` with fewer layers.
        new_weights: Its weights.
        how: What runs both.

    Raises:
        InputError: The test data can't be read.
        TrainingError: A worker ended early.
    """
    sources = [output.source for output in found.outputs]
    with TemporaryDirectory(prefix="caffe-batch-") as name:
        folder = Path(name).resolve()
        run = Run(trained.test, 1, {"inputs": list(found.inputs), "values": sources})
        (before,) = run_forward(
            [run],
            [weights],
            how,
            folder,
            trained.directory,
            rules=trained.test.rules,
            rule_files=[Path(each) for each in trained.plan.rules],
        ).results
        fed = {each: before[f"inputs:{each}"] for each in found.inputs}
        batched = with_inputs(net, {each: values.shape for each, values in fed.items()})
        file = replace(inference_file(batched, trained.test.rules))
        run = Run(file, 1, {"values": [output.name for output in found.outputs]}, fed)
        (after,) = run_forward(
            [run],
            [new_weights],
            how,
            folder,
            trained.directory,
            rules=trained.test.rules,
            rule_files=[Path(each) for each in trained.plan.rules],
        ).results
    return tuple(
        _compared(output, found.message, before, after, trained.test.rules)
        for output in found.outputs
    )


def with_inputs(
    net: caffe_pb2.NetParameter, shapes: Mapping[str, tuple[int, ...]]
) -> caffe_pb2.NetParameter:
    """A net for inference with other shapes of its inputs."""
    changed = caffe_pb2.NetParameter()
    changed.CopyFrom(net)
    for layer in changed.layer:
        if layer.name in shapes and not layer.bottom:
            layer.input_param.shape[0].dim[:] = shapes[layer.name]
    return changed


def _compared(
    output: Output,
    net: caffe_pb2.NetParameter,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    rules: Any,
) -> Compared:
    import numpy as np

    wanted = np.asarray(before[f"values:{output.source}"], np.float64)
    given = np.asarray(after[f"values:{output.name}"], np.float64)
    if output.made_by:
        layer = next(each for each in net.layer if output.name in each.top)
        wanted = _probabilities(wanted, layer, rules[layer.type])
    if wanted.shape != given.shape:
        raise TrainingError(
            f"output {output.name!r} has the shape {given.shape}, in the TEST net {wanted.shape}"
        )
    if not (np.isfinite(wanted).all() and np.isfinite(given).all()):
        same = np.array_equal(wanted, given, equal_nan=True)
        return Compared(output.name, len(wanted), 0.0 if same else float("inf"))
    largest = max(1.0, float(np.abs(wanted).max(initial=0.0)))
    difference = float(np.abs(wanted - given).max(initial=0.0)) / largest
    return Compared(output.name, len(wanted), difference)


def _probabilities(scores: Values, layer: caffe_pb2.LayerParameter, rule: Any) -> Values:
    """What a Softmax or Sigmoid makes of scores."""
    import numpy as np

    from caffe_batch.net.convert import read_settings

    axis = getattr(read_settings(layer, rule), "axis", None)
    if axis is None:
        return np.asarray(np.exp(-np.logaddexp(0.0, -scores)))
    exps = np.exp(scores - scores.max(axis=axis, keepdims=True))
    return np.asarray(exps / exps.sum(axis=axis, keepdims=True))

"""What a net for inference is, in lines."""

from __future__ import annotations

from collections.abc import Iterator

from caffe_batch import engines
from caffe_batch.deploying.folder import DESCRIPTION, Deployment


def deploy_lines(made: Deployment) -> Iterator[str]:
    """Its folder, its inputs and outputs, and how its scores were checked."""
    update = made.origin.get("update")
    after = "" if update is None else f" after {update:,} updates"
    yield f"{made.folder}: {made.net.name}, {made.weights.name} and {DESCRIPTION}{after}"
    for each in made.inputs:
        yield f"  input {each.name}: {_sizes(each.shape)}"
    for output in made.outputs:
        by = f", by the {output.made_by} in place of the loss" if output.made_by else ""
        yield f"  output {output.name}: {_sizes(output.shape)}{by}"
    if made.folded:
        yield f"  folded into the weights before them: {', '.join(made.folded)}"
    if not made.check:
        yield "  not compared with the TEST net"
        return
    compared = made.check["outputs"].values()
    worst = max(each["largest_difference"] for each in compared)
    samples = max(each["samples"] for each in compared)
    title, allowed = engines.title(made.check["engine"]), made.check["tolerance"]
    yield (
        f"  the same scores as the TEST net's on {title}: the "
        f"largest difference in {samples} samples is {worst:.1g} (allowed: {allowed:g})"
    )


def _sizes(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))

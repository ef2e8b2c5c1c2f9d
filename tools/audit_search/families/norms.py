"""Layers that normalise."""

from __future__ import annotations

from tools.audit_search.grower import Drawn, Grower, N, layer
from tools.audit_search.nets import DrawnLayer


def batch_norm(g: Grower) -> DrawnLayer:
    bottom = g.any_blob()
    known = "true" if g.often(0.85) else "false"
    return layer(bottom, g.top_of(bottom), f"batch_norm_param {{ use_global_stats: {known} }}")


def mvn(g: Grower) -> DrawnLayer:
    bottom = g.maps(least=2)
    settings = (
        f"mvn_param {{ normalize_variance: {g.draw.choice(('true', 'false'))} "
        f"across_channels: {g.draw.choice(('true', 'false'))} eps: 0.1 }}"
    )
    return layer(bottom, g.top_of(bottom), settings)


def softmax(g: Grower) -> DrawnLayer:
    bottom = g.any_blob()
    shape = g.blobs[bottom].shape
    axis = 2 if shape[:2] == (g.steps, N) and len(shape) > 2 else 1
    return layer(bottom, g.top_of(bottom), f"softmax_param {{ axis: {axis} }}")


TYPES: dict[str, Drawn] = {
    "BatchNorm": batch_norm,
    "MVN": mvn,
    "Softmax": softmax,
}

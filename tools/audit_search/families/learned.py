"""Layers with parameters of their own that are neither convolutions nor recurrent."""

from __future__ import annotations

from dataclasses import replace

from tools.audit_search.grower import Drawn, Grower, N, layer
from tools.audit_search.nets import DrawnLayer


def scale(g: Grower) -> DrawnLayer:
    bottom = g.any_blob()
    shape = g.blobs[bottom].shape
    bias = f"bias_term: true {g.small_filler('bias_filler')}" if g.often(0.4) else ""
    if g.often(0.35):
        axis = g.draw.choice((0, 0, 1)) if len(shape) > 2 else 0
        end = g.draw.randint(axis + 1, len(shape))
        other = g.pick(lambda b: b.shape == shape[axis:end], shape[axis:end])
        return layer((bottom, other), g.top_of(bottom), f"scale_param {{ axis: {axis} {bias} }}")
    axis = 0 if g.often(0.03) else g.draw.randint(1, len(shape) - 1)
    axes = g.draw.choice((1, 1, 0, -1))
    settings = f"scale_param {{ axis: {axis} num_axes: {axes} {g.small_filler('filler')} {bias} }}"
    return layer(bottom, g.top_of(bottom), settings)


def bias(g: Grower) -> DrawnLayer:
    drawn = scale(g)
    settings = drawn.settings.replace("bias_term: true", "").replace("scale_param", "bias_param")
    if "bias_filler" in settings:
        settings = settings.replace(g.small_filler("bias_filler"), "")
    return replace(drawn, settings=settings)


def prelu(g: Grower) -> DrawnLayer:
    bottom = g.rows()
    shared = g.draw.choice(("true", "false"))
    return layer(bottom, g.top_of(bottom), f"prelu_param {{ channel_shared: {shared} }}")


def inner_product(g: Grower) -> DrawnLayer:
    bottom = g.any_blob()
    shape = g.blobs[bottom].shape
    steps = shape[0] != N or shape[:2] == (g.steps, N)
    axis = 2 if steps and len(shape) > 2 else 1
    if not steps and len(shape) > 2 and g.often(0.1):
        axis = 2
    width = shape[-1] if g.often(0.3) else g.draw.randint(2, 6)
    bias = "bias_term: false" if g.often(0.2) else g.small_filler("bias_filler")
    transpose = "transpose: true" if g.often(0.15) else ""
    fields = f"num_output: {width} axis: {axis} {transpose} {g.filler()} {bias}"
    settings = f"inner_product_param {{ {fields} }}"
    same = width == shape[-1] and axis == len(shape) - 1
    return layer(bottom, g.top_of(bottom, 0.2) if same else g.name("t"), settings)


def embed(g: Grower) -> DrawnLayer:
    settings = (
        f"embed_param {{ input_dim: {g.draw.randint(3, 7)} num_output: {g.draw.randint(2, 4)} "
        f"{g.filler()} {g.small_filler('bias_filler')} }}"
    )
    return layer(g.labels(4), g.name("t"), settings)


def parameter(g: Grower) -> DrawnLayer:
    dims = " ".join(f"dim: {g.draw.randint(1, 3)}" for _ in range(g.draw.randint(1, 2)))
    return layer((), g.name("t"), f"parameter_param {{ shape {{ {dims} }} }}")


TYPES: dict[str, Drawn] = {
    "Bias": bias,
    "Embed": embed,
    "InnerProduct": inner_product,
    "PReLU": prelu,
    "Parameter": parameter,
    "Scale": scale,
}

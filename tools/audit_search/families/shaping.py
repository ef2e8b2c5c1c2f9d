"""Layers that move, join, cut or pick numbers."""

from __future__ import annotations

from tools.audit_search.grower import Drawn, Grower, N, layer
from tools.audit_search.nets import DrawnLayer


def arg_max(g: Grower) -> DrawnLayer:
    bottom = g.any_blob()
    settings = g.draw.choice(("", "argmax_param { axis: 1 }", "argmax_param { out_max_val: true }"))
    return layer(bottom, g.name("t"), settings)


def batch_reindex(g: Grower) -> DrawnLayer:
    return layer((g.rows(), g.integers((N,))), g.name("t"))


def filtered(g: Grower) -> DrawnLayer:
    return layer((g.rows(), g.integers((N,))), g.name("t"))


def concat(g: Grower) -> DrawnLayer:
    bottom = g.any_blob()
    if g.often(0.2):
        return layer(bottom, g.name("t"), "concat_param { axis: 1 }")
    axis = 0 if g.often(0.15) else g.draw.randint(1, len(g.blobs[bottom].shape) - 1)
    others = [g.alike(bottom) for _ in range(g.draw.randint(1, 2))]
    return layer((bottom, *others), g.name("t"), f"concat_param {{ axis: {axis} }}")


def sliced(g: Grower) -> DrawnLayer:
    bottom = g.any_blob()
    shape = g.blobs[bottom].shape
    if g.often(0.2):
        return layer(bottom, g.name("t"), "slice_param { axis: 1 }")
    axes = [i for i, size in enumerate(shape) if i and size > 1] or [1]
    axis = g.draw.choice(axes)
    if shape[axis] > 2 and g.often(0.5):
        settings = f"slice_param {{ axis: {axis} slice_point: 1 }}"
        return layer(bottom, (g.name("t"), g.name("t")), settings)
    tops = tuple(g.name("t") for _ in range(shape[axis] if g.often(0.5) else 2))
    return layer(bottom, tops, f"slice_param {{ axis: {axis} }}")


def eltwise(g: Grower) -> DrawnLayer:
    bottom = g.any_blob()
    others = [g.alike(bottom) for _ in range(g.draw.choice((1, 1, 2)))]
    operation = g.draw.choice(("SUM", "PROD", "MAX", "SUM"))
    more = ""
    if operation == "SUM" and g.often(0.4):
        more = " ".join(f"coeff: {g.draw.choice((0.5, -1, 2))}" for _ in [bottom, *others])
    if operation == "PROD" and g.often(0.3):
        more = "stable_prod_grad: false"
    settings = f"eltwise_param {{ operation: {operation} {more} }}"
    return layer((bottom, *others), g.top_of(bottom, 0.25), settings)


def flatten(g: Grower) -> DrawnLayer:
    return layer(g.any_blob(), g.name("t"))


def reshape(g: Grower) -> DrawnLayer:
    bottom = g.any_blob()
    settings = g.draw.choice(
        ("shape { dim: 0 dim: -1 }", "shape { dim: 0 dim: 1 dim: -1 }", "shape { dim: 0 dim: 0 }",
         f"shape {{ dim: {N} dim: -1 }}", "shape { dim: 0 dim: -1 dim: 1 dim: 1 }")
    )  # fmt: skip
    return layer(bottom, g.name("t"), f"reshape_param {{ {settings} }}")


def reduction(g: Grower) -> DrawnLayer:
    bottom = g.any_blob()
    operation = g.draw.choice(("SUM", "ASUM", "SUMSQ", "MEAN"))
    axis = 0 if g.often(0.4) else 1
    settings = f"reduction_param {{ operation: {operation} axis: {axis} coeff: 0.3 }}"
    return layer(bottom, g.name("t"), settings)


def silence(g: Grower) -> DrawnLayer:
    bottoms = [g.any_blob() for _ in range(g.draw.choice((1, 1, 2)))]
    return layer(tuple(dict.fromkeys(bottoms)), ())


def split(g: Grower) -> DrawnLayer:
    return layer(g.any_blob(), tuple(g.name("t") for _ in range(g.draw.randint(1, 3))))


def tile(g: Grower) -> DrawnLayer:
    bottom = g.any_blob()
    tiles = 1 if g.often(0.2) else 2
    same = tiles == 1
    return layer(
        bottom, g.top_of(bottom, 0.3) if same else g.name("t"),
        f"tile_param {{ axis: 1 tiles: {tiles} }}",
    )  # fmt: skip


def hdf5_output(g: Grower) -> DrawnLayer:
    first = g.any_blob()
    return layer((first, g.rows()), (), 'hdf5_output_param { file_name: "out.h5" }')


TYPES: dict[str, Drawn] = {
    "ArgMax": arg_max,
    "BatchReindex": batch_reindex,
    "Concat": concat,
    "Eltwise": eltwise,
    "Filter": filtered,
    "Flatten": flatten,
    "HDF5Output": hdf5_output,
    "Reduction": reduction,
    "Reshape": reshape,
    "Silence": silence,
    "Slice": sliced,
    "Split": split,
    "Tile": tile,
}

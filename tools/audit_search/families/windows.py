"""Layers whose outputs see a window of an image."""

from __future__ import annotations

from tools.audit_search.grower import Drawn, Grower, layer
from tools.audit_search.nets import DrawnLayer


def convolution(g: Grower) -> DrawnLayer:
    bottom = g.maps()
    channels = g.blobs[bottom].shape[1]
    group = channels if g.often(0.15) else 1
    outputs = channels if group > 1 or g.often(0.4) else g.draw.randint(2, 5)
    kernel, more = g.draw.choice(((1, ""), (3, "pad: 1"), (2, ""), (2, "stride: 2"),
                                  (2, "dilation: 2"), (3, "")))  # fmt: skip
    bias = "bias_term: false" if g.often(0.2) else g.small_filler("bias_filler")
    settings = (
        f"convolution_param {{ num_output: {outputs} kernel_size: {kernel} {more} group: {group} "
        f"{g.filler()} {bias} }}"
    )
    if g.often(0.12):
        other = g.alike(bottom)
        return layer((bottom, other), (g.name("t"), g.name("t")), settings)
    same = outputs == channels and (kernel == 1 or "pad" in more)
    return layer(bottom, g.top_of(bottom, 0.2) if same else g.name("t"), settings)


def im2col(g: Grower) -> DrawnLayer:
    kernel = g.draw.choice(("1", "2", "2 stride: 2", "3 pad: 1"))
    return layer(g.maps(), g.name("t"), f"convolution_param {{ kernel_size: {kernel} }}")


def pooling(g: Grower) -> DrawnLayer:
    bottom = g.maps(least=2)
    method = g.draw.choice(("MAX", "AVE", "MAX", "AVE"))
    size = g.draw.choice(("kernel_size: 2", "kernel_size: 2 stride: 2", "kernel_size: 3 pad: 1",
                          "global_pooling: true", "kernel_size: 1"))  # fmt: skip
    settings = f"pooling_param {{ pool: {method} {size} }}"
    if method == "MAX" and g.often(0.15):
        return layer(bottom, (g.name("t"), g.name("t")), settings)
    same = size in ("kernel_size: 1", "kernel_size: 3 pad: 1")
    return layer(bottom, g.top_of(bottom) if same else g.name("t"), settings)


def spp(g: Grower) -> DrawnLayer:
    settings = f"spp_param {{ pyramid_height: {g.draw.randint(1, 2)} pool: MAX }}"
    return layer(g.maps(least=3), g.name("t"), settings)


def lrn(g: Grower) -> DrawnLayer:
    bottom = g.maps()
    region = g.draw.choice(("ACROSS_CHANNELS", "WITHIN_CHANNEL"))
    settings = f"lrn_param {{ local_size: 3 alpha: 0.7 norm_region: {region} }}"
    return layer(bottom, g.top_of(bottom), settings)


def crop(g: Grower) -> DrawnLayer:
    bottom = g.maps(least=3)
    shape = g.blobs[bottom].shape
    reference = (*shape[:2], shape[2] - 1, shape[3] - 1)
    other = g.pick(lambda b: b.shape == reference, reference)
    return layer((bottom, other), g.name("t"), "crop_param { axis: 2 offset: 1 }")


TYPES: dict[str, Drawn] = {
    "Convolution": convolution,
    "Crop": crop,
    "Deconvolution": convolution,
    "Im2col": im2col,
    "LRN": lrn,
    "Pooling": pooling,
    "SPP": spp,
}

"""Pooling and SPP (a pyramid of poolings).

Source: pooling_layer.cpp, .cu; spp_layer.cpp. Forks from before ``round_mode`` say ``ceil_mode:
false`` for the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from caffe_batch.errors import ShapeError
from caffe_batch.layers.base import Buffer, Coupling, Memory, Mode, Phase, Rule, Shape, Site, count
from caffe_batch.layers.sides import bottom, own, top


@dataclass(frozen=True, slots=True)
class PoolingSettings:
    pool: str = "MAX"
    pad: int | None = None
    pad_h: int | None = None
    pad_w: int | None = None
    kernel_size: int | None = None
    kernel_h: int | None = None
    kernel_w: int | None = None
    stride: int | None = None
    stride_h: int | None = None
    stride_w: int | None = None
    global_pooling: bool = False
    round_mode: str = "CEIL"
    ceil_mode: bool = True
    engine: str = "DEFAULT"


class Pooling(Rule):
    type = "Pooling"
    message = "pooling_param"
    settings = PoolingSettings
    tops = (1, 2)
    undrawn = ("pool", "AVE")
    draws_on_cpu = False

    def shape(self, site: Site) -> tuple[Shape, ...]:
        s: PoolingSettings = site.settings
        if site.tops > 1 and s.pool != "MAX":
            raise ShapeError(
                f"{s.pool} pooling has 1 top; only MAX pooling can have a second one (the mask)"
            )
        return (pooled_shape(s, site.bottoms[0]),) * site.tops

    def has_empty_window(self, site: Site) -> bool:
        """Only if the stride exceeds the kernel: Caffe gives -FLT_MAX (MAX) or NaN (AVE) there."""
        s: PoolingSettings = site.settings
        shape = site.bottoms[0]
        windows, pooled = pooling_windows(s, shape), pooled_shape(s, shape)
        return any(
            (pooled[2 + i] - 1) * windows.stride[i] - windows.pad[i] >= shape[2 + i]
            for i in range(2)
        )

    def draws(self, settings: PoolingSettings, phase: Phase) -> bool:
        return phase == "TRAIN" and settings.pool == "STOCHASTIC"

    def coupling(self, site: Site) -> Coupling:
        return Coupling(
            joint=tuple(range(2, len(site.bottoms[0]))),
            draws=self.draws(site.settings, site.phase),
        )

    def memory(self, site: Site, mode: Mode) -> Memory:
        s: PoolingSettings = site.settings
        forward = [bottom(0).data, top(0).data]
        buffers: tuple[Buffer, ...] = ()
        index = index_buffer(s.pool, site, mode)
        if site.tops > 1:  # the mask is there
            forward.append(top(1).data)
        elif index:
            buffers = (Buffer(index, count(pooled_shape(s, site.bottoms[0]))),)
            forward.append(own(index).data)
        return Memory(
            buffers=buffers,
            forward=tuple(forward),
            backward=(top(0).diff, bottom(0).diff) if site.bottom_need[0] else (),
        )

    def cudnn(self, site: Site, memory: Memory) -> Memory:
        """MAX pooling stays Caffe's own, and average pooling has no buffer in either."""
        s: PoolingSettings = site.settings
        if s.pool == "STOCHASTIC" and s.engine != "CAFFE":
            raise ShapeError(
                "Caffe has no stochastic pooling with cuDNN", hint="Write engine: CAFFE."
            )
        return memory


def index_buffer(pool: str, site: Site, mode: Mode) -> str:
    """The buffer of the top's size that says where each value came from; ``""`` for none."""
    if pool == "MAX":
        return "max_idx_"
    # The CPU has no stochastic pooling.
    return "rand_idx_" if pool == "STOCHASTIC" and site.phase == "TRAIN" and mode == "gpu" else ""


def pooled_shape(s: PoolingSettings, bottom: Shape) -> Shape:
    """The shape after pooling.

    Raises:
        ShapeError: The settings contradict each other or don't fit the input.
    """
    windows = pooling_windows(s, bottom)
    pad = windows.pad
    height, width = (
        _pooled_size(
            bottom[2 + i], windows.kernel[i], pad[i], windows.stride[i],
            up=windows.up, clip=pad != (0, 0),
        )
        for i in range(2)
    )  # fmt: skip
    return (*bottom[:2], height, width)


@dataclass(frozen=True, slots=True)
class Windows:
    """What slides over the input.

    Attributes:
        kernel, pad, stride: For the height and the width, in elements.
        up: Whether the last window may reach beyond the edge.
    """

    kernel: tuple[int, int]
    pad: tuple[int, int]
    stride: tuple[int, int]
    up: bool


def pooling_windows(s: PoolingSettings, bottom: Shape) -> Windows:
    """The windows that the settings define for an input of this shape.

    Raises:
        ShapeError: The settings contradict each other or don't fit the input.
    """
    if len(bottom) != 4:
        raise ShapeError(f"pooling needs an input of 4 axes (N, C, H, W), not {bottom}")
    kernel = _kernel(s, bottom)
    pad = _pair("pad", s.pad, s.pad_h, s.pad_w, default=0)
    stride = _pair("stride", s.stride, s.stride_h, s.stride_w, default=1)
    if 0 in kernel or 0 in stride:
        raise ShapeError(f"kernel {kernel} and stride {stride} must be at least 1")
    if s.global_pooling and (pad != (0, 0) or stride != (1, 1)):
        raise ShapeError("global_pooling allows no padding and no stride")
    if pad != (0, 0):
        if s.pool == "STOCHASTIC":
            raise ShapeError("stochastic pooling has no padding")
        if pad[0] >= kernel[0] or pad[1] >= kernel[1]:
            raise ShapeError(f"padding {pad} must be smaller than the kernel {kernel}")
    return Windows(kernel, pad, stride, up=s.round_mode == "CEIL" and s.ceil_mode)


def _pooled_size(size: int, kernel: int, pad: int, stride: int, *, up: bool, clip: bool) -> int:
    """How many windows there are on one axis; the last one may reach beyond the edge.

    Caffe divides in single precision; for inputs below 2^24 it rounds to the same result.

    Raises:
        ShapeError: There is no window. (Caffe aborts if that gives a negative size. With 0 it
            builds the net and aborts in the first pass, when it touches the empty blob.)
    """
    room = size + 2 * pad - kernel
    pooled = (-(-room // stride) if up else room // stride) + 1
    if clip and (pooled - 1) * stride >= size + pad:
        pooled -= 1  # the last window would lie in the padding
    if pooled < 1 or (clip and (pooled - 1) * stride >= size + pad):
        raise ShapeError(
            f"a kernel of {kernel} with stride {stride} doesn't fit into an input of {size} with "
            f"padding {pad} on each side",
            hint="Use a smaller kernel or padding, or a larger input.",
        )
    return pooled


def _kernel(s: PoolingSettings, bottom: Shape) -> tuple[int, int]:
    given = (s.kernel_size, s.kernel_h, s.kernel_w)
    if s.global_pooling:
        if given != (None, None, None):
            raise ShapeError("global_pooling takes the whole input; remove the kernel size")
        return bottom[2], bottom[3]
    if s.kernel_size is not None:
        if s.kernel_h is not None and s.kernel_w is not None:
            raise ShapeError("give either kernel_size, or kernel_h and kernel_w, not both")
        return s.kernel_size, s.kernel_size
    if s.kernel_h is None or s.kernel_w is None:
        raise ShapeError("pooling needs kernel_size, or kernel_h and kernel_w")
    return s.kernel_h, s.kernel_w


def _pair(
    name: str, both: int | None, height: int | None, width: int | None, *, default: int
) -> tuple[int, int]:
    if height is None and width is None:
        value = default if both is None else both
        return value, value
    if both is not None or height is None or width is None:
        raise ShapeError(f"give either {name}, or {name}_h and {name}_w together")
    return height, width


@dataclass(frozen=True, slots=True)
class SPPSettings:
    pyramid_height: int = 0
    pool: str = "MAX"


class SPP(Rule):
    """Pools into 1, 2x2, 4x4, ... bins and puts the results side by side.

    It has no GPU code of its own, but runs Split, Pooling, Flatten and Concat layers, which do.
    """

    type = "SPP"
    message = "spp_param"
    settings = SPPSettings

    def shape(self, site: Site) -> tuple[Shape, ...]:
        levels = _levels(site)
        if len(levels) == 1:
            return (levels[0],)
        return ((site.bottoms[0][0], sum(count(level[1:]) for level in levels)),)

    def memory(self, site: Site, mode: Mode) -> Memory:
        s: SPPSettings = site.settings
        levels = _levels(site)
        index = index_buffer(s.pool, site, mode)
        buffers: list[Buffer] = []
        forward = [bottom(0).data, top(0).data]
        backward = [top(0).diff, bottom(0).diff]
        for i, level in enumerate(levels):
            if index:
                buffers.append(Buffer(f"{index}{i}", count(level)))
                forward.append(own(f"{index}{i}").data)
            if len(levels) > 1:
                # The split's tops share the bottom's data, the flattened tops the pooled ones.
                buffers.append(Buffer(f"split_top{i}", count(site.bottoms[0])))
                buffers.append(Buffer(f"pooling_outputs_{i}", count(level)))
                forward.append(own(f"pooling_outputs_{i}").data)
                backward += [own(f"split_top{i}").diff, own(f"pooling_outputs_{i}").diff]
        return Memory(
            buffers=tuple(buffers),
            forward=tuple(forward),
            backward=tuple(backward) if site.bottom_need[0] else (),
        )


def _levels(site: Site) -> tuple[Shape, ...]:
    """The pooled shape of each level of the pyramid."""
    s: SPPSettings = site.settings
    bottom = site.bottoms[0]
    if s.pyramid_height == 0:
        raise ShapeError("spp_param needs pyramid_height, at least 1")
    if len(bottom) != 4:
        raise ShapeError(f"SPP needs an input of 4 axes (N, C, H, W), not {bottom}")
    if 0 in bottom[2:]:
        raise ShapeError(f"SPP needs an input with a height and a width, not {bottom}")
    levels = []
    for level in range(s.pyramid_height):
        try:
            levels.append(pooled_shape(level_settings(s, level, bottom), bottom))
        except ShapeError as error:
            raise ShapeError(
                f"level {level} of the pyramid ({2**level} x {2**level} bins) doesn't fit an input "
                f"of {bottom[2]} x {bottom[3]}: {error.message}",
                hint="Use a smaller pyramid_height.",
            ) from error
    return tuple(levels)


def level_settings(s: SPPSettings, level: int, bottom: Shape) -> PoolingSettings:
    """The Pooling that makes 2^level x 2^level bins of an input of this shape."""
    bins = 2**level
    kernel = [-(-size // bins) for size in bottom[2:]]
    pad = [(k * bins - size + 1) // 2 for k, size in zip(kernel, bottom[2:], strict=True)]
    return PoolingSettings(
        pool=s.pool,
        pad_h=pad[0],
        pad_w=pad[1],
        kernel_h=kernel[0],
        kernel_w=kernel[1],
        stride_h=kernel[0],
        stride_w=kernel[1],
    )

"""Scale and Bias: multiply by, or add, a smaller blob along given axes.

The blob is a parameter, or the second bottom. Source: scale_layer.cpp, .cu; bias_layer.cpp, .cu.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from caffe_batch.errors import ShapeError
from caffe_batch.layers.base import (
    Buffer,
    ChannelChange,
    Coupling,
    Memory,
    Mode,
    Rule,
    Shape,
    Site,
    axis_index,
    count,
    filled,
)
from caffe_batch.layers.sides import BlobSides, Side, bottom, own, param, top


@dataclass(frozen=True, slots=True)
class ScaleSettings:
    axis: int = 1
    num_axes: int = 1
    bias_term: bool = False
    filler: str = "constant"
    bias_filler: str = "constant"


@dataclass(frozen=True, slots=True)
class BiasSettings:
    axis: int = 1
    num_axes: int = 1
    filler: str = "constant"


class Bias(Rule):
    type = "Bias"
    message = "bias_param"
    settings = BiasSettings
    bottoms = (1, 2)
    works_in_place = True

    def shape(self, site: Site) -> tuple[Shape, ...]:
        _parts(site)
        return site.bottoms[:1]

    def parameters(self, site: Site) -> tuple[Shape, ...]:
        if len(site.bottoms) > 1:
            return ()
        return (filled(_operand(site), site.settings.filler),)

    def coupling(self, site: Site) -> Coupling:
        return _coupling(site, bias=True)

    def channel_change(self, settings: BiasSettings, blobs: Sequence[Any]) -> ChannelChange | None:
        if settings.axis != 1 or settings.num_axes != 1 or len(blobs) != 1:
            return None
        return ChannelChange(blobs[0].ravel() * 0 + 1, blobs[0].ravel())

    def memory(self, site: Site, mode: Mode) -> Memory:
        _, _, inner = _parts(site)
        learned = len(site.bottoms) == 1
        bias = param(0) if learned else bottom(1)
        forward = [bottom(0).data, bias.data, top(0).data]
        build: list[Side] = []
        if mode == "cpu":
            build.append(own("bias_multiplier_").data)
        backward: list[Side] = []
        if site.bottom_need[0] and not site.in_place[0]:
            backward += [top(0).diff, bottom(0).diff]
        if site.param_need[0] if learned else site.bottom_need[1]:
            backward += [top(0).diff, bias.diff, own("bias_multiplier_").data]
        return Memory(
            buffers=(Buffer("bias_multiplier_", inner),),
            build=tuple(build),
            forward=tuple(forward),
            backward=tuple(backward),
        )


class Scale(Rule):
    """Sums the gradient of its operand in two steps, over the axes after it and those before it.

    If there are none before it (usually at batch_size 1), the first step writes straight into the
    gradient of a learned operand, and so overwrites what earlier passes have left there. For a
    single number it still adds, unless the input is a single number as well.
    """

    type = "Scale"
    message = "scale_param"
    settings = ScaleSettings
    bottoms = (1, 2)
    works_in_place = True

    def shape(self, site: Site) -> tuple[Shape, ...]:
        s: ScaleSettings = site.settings
        _parts(site)
        if s.bias_term:
            axis_index(s.axis, site.bottoms[0])  # its Bias layer checks it, even beside a scalar
        return site.bottoms[:1]

    def parameters(self, site: Site) -> tuple[Shape, ...]:
        s: ScaleSettings = site.settings
        scale = (filled(_operand(site), s.filler),) if len(site.bottoms) == 1 else ()
        return (*scale, filled(_operand(site), s.bias_filler)) if s.bias_term else scale

    def coupling(self, site: Site) -> Coupling:
        coupling = _coupling(site, bias=site.settings.bias_term)
        outer, size, inner = _parts(site)
        overwritten = len(site.bottoms) == 1 and outer == 1 and (size > 1 or inner == 1)
        return replace(coupling, overwrites=(0,) if overwritten else ())

    def channel_change(self, settings: ScaleSettings, blobs: Sequence[Any]) -> ChannelChange | None:
        wanted = 2 if settings.bias_term else 1
        if settings.axis != 1 or settings.num_axes != 1 or len(blobs) != wanted:
            return None
        factor = blobs[0].ravel()
        return ChannelChange(factor, blobs[1].ravel() if settings.bias_term else factor * 0)

    def memory(self, site: Site, mode: Mode) -> Memory:
        s: ScaleSettings = site.settings
        outer, size, inner = _parts(site)
        learned = len(site.bottoms) == 1
        scale = param(0) if learned else bottom(1)
        bias = param(int(learned))
        forward = [bottom(0).data, scale.data, top(0).data]
        build = [own("sum_multiplier_").data]
        backward: list[Side] = []
        if site.in_place[0]:
            forward.append(own("temp_").data)
        if s.bias_term:
            forward.append(bias.data)
            build.append(own("bias_multiplier_").data)
            if site.param_need[-1]:
                backward += [top(0).diff, bias.diff, own("bias_multiplier_").data]
        if site.param_need[0] if learned else site.bottom_need[1]:
            backward += [top(0).diff, *_scale_gradient(site, scale, outer, size, inner, mode)]
        if site.bottom_need[0]:
            backward += [top(0).diff, bottom(0).diff]
        return Memory(
            buffers=(
                Buffer("temp_", count(site.bottoms[0])),
                Buffer("sum_result_", outer * size),
                Buffer("sum_multiplier_", max(outer, inner), either=(outer, inner)),
                Buffer("bias_multiplier_", inner),
            ),
            build=tuple(build) if mode == "cpu" else (),
            forward=tuple(forward),
            backward=tuple(backward),
        )


def _coupling(site: Site, *, bias: bool) -> Coupling:
    """A learned operand has a number for each position along its axes; otherwise element-wise."""
    if len(site.bottoms) > 1:
        return Coupling()
    size, axes = len(_operand(site)), site.bottoms[0]
    first = axis_index(site.settings.axis, axes) if size else 0
    return Coupling(joint=tuple(range(first, first + size)), linear=not bias, affine=True)


def _scale_gradient(
    site: Site, scale: BlobSides, outer: int, size: int, inner: int, mode: Mode
) -> list[Side]:
    """What the gradient of the scale touches: the element-wise product, and its sums."""
    if size == count(site.bottoms[0]):
        return [scale.diff]
    # The product goes into the bottom's gradient or, in place, into temp_.
    touched = [own("temp_").data if site.in_place[0] else bottom(0).diff]
    if inner != 1 and outer * size != 1 and outer != 1:
        touched.append(own("sum_result_").data)
    if inner != 1 or outer != 1:
        touched.append(own("sum_multiplier_").data)
    # A single number is summed on the host.
    if size != 1 or mode == "cpu":
        touched.append(scale.diff)
    return touched


def _operand(site: Site) -> Shape:
    """The shape of the blob that scales or is added."""
    if len(site.bottoms) > 1:
        return site.bottoms[1]
    bottom, axis = site.bottoms[0], axis_index(site.settings.axis, site.bottoms[0])
    num_axes: int = site.settings.num_axes
    if num_axes < -1:
        raise ShapeError(f"num_axes must be -1 (all that follow) or more, not {num_axes}")
    end = len(bottom) if num_axes == -1 else axis + num_axes
    if end > len(bottom):
        raise ShapeError(f"num_axes {num_axes} from axis {axis} reaches past the input {bottom}")
    return bottom[axis:end]


def _parts(site: Site) -> tuple[int, int, int]:
    """Elements of the input before, along and after the axes of the operand.

    Raises:
        ShapeError: The operand's axes are not those of the input.
    """
    bottom, operand = site.bottoms[0], _operand(site)
    axis = axis_index(site.settings.axis, bottom) if operand else 0
    end = axis + len(operand)
    if bottom[axis:end] != operand:
        raise ShapeError(
            f"the second input {operand} doesn't match the first one {bottom} from axis {axis} on"
        )
    return count(bottom[:axis]), count(operand), count(bottom[end:])

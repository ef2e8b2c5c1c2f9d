"""C3D: convolution and pooling over time, height and width, and the videos for them.

Source: facebookarchive/C3D, C3D-v1.0/src/caffe/layers: convolution3d_layer.cpp, .cu,
deconvolution3d_layer.cpp, .cu, pool3d_layer.cpp, .cu, video_data_layer.cpp; the same names in
C3D-v1.1, which differ in their syntax alone and read ahead as Caffe 1.0 does. Version 1.0 is a
Caffe of 2014: its nets are in old syntax, and the types have the names that they have there.
"""

from __future__ import annotations

from dataclasses import dataclass

from caffe_batch.errors import ShapeError
from caffe_batch.layers.base import (
    Buffer,
    Coupling,
    Memory,
    Mode,
    Phase,
    Rule,
    Shape,
    Site,
    count,
    filled,
    not_empty,
    setting,
)
from caffe_batch.layers.data import known_record
from caffe_batch.layers.facts import Source, SourceKind
from caffe_batch.layers.forks.prefetching import copying_memory
from caffe_batch.layers.sides import Side, bottom, own, param, top

#: Batches that Caffe 1.0 reads ahead (data_param.prefetch).
PREFETCH = 4


@dataclass(frozen=True, slots=True)
class Convolution3DSettings:
    """Of both messages; in Caffe's own, pad, kernel_size and stride are lists."""

    num_output: int = 0
    bias_term: bool = True
    pad: int | tuple[int, ...] = 0
    kernel_size: int | tuple[int, ...] = 0
    kernel_depth: int = 0
    stride: int | tuple[int, ...] = 1
    temporal_stride: int = 1
    temporal_pad: int = 0
    filter_group: int = 1
    weight_filler: str = "constant"
    bias_filler: str = "constant"


class Convolution3D(Rule):
    """Both sides of its columns and the gradient of its input are touched, needed or not."""

    type = "Convolution3D"
    message = "convolution3d_param"
    settings = Convolution3DSettings
    forks = ("c3d",)
    follows = "facebookarchive/C3D: C3D-v1.1, convolution3d_layer.cpp, .cu"

    def shape(self, site: Site) -> tuple[Shape, ...]:
        s: Convolution3DSettings = site.settings
        if s.num_output == 0:
            raise ShapeError(f"{self.message} needs num_output, at least 1")
        if s.filter_group == 0 or s.num_output % s.filter_group:
            raise ShapeError(f"filter_group {s.filter_group} doesn't divide {s.num_output} filters")
        samples, _, *sizes = volume(site.bottoms[0])
        return (not_empty((samples, s.num_output, *self.places(s, sizes))),)

    def places(self, s: Convolution3DSettings, sizes: list[int]) -> list[int]:
        """Length, height and width of the output."""
        windows = zip(sizes, *_window(s), strict=True)
        found = [(size + 2 * pad - kernel) // stride + 1 for size, kernel, stride, pad in windows]
        if min(found) < 1:
            raise ShapeError(f"its kernel is larger than the input of {tuple(sizes)}")
        return found

    def parameters(self, site: Site) -> tuple[Shape, ...]:
        s: Convolution3DSettings = site.settings
        kernel, _, _ = _window(s)
        weights = filled((*self.filters(site), *kernel), s.weight_filler)
        bias = (s.num_output,) if self.message == "convolution3d_param" else (*ONES, s.num_output)
        return (weights, filled(bias, s.bias_filler)) if s.bias_term else (weights,)

    def filters(self, site: Site) -> Shape:
        """The first two axes of the weights."""
        s: Convolution3DSettings = site.settings
        return s.num_output, site.bottoms[0][1]

    def columns(self, site: Site) -> int:
        """Elements of the columns of one sample."""
        kernel, _, _ = _window(site.settings)
        return count((site.bottoms[0][1], *kernel, *self.shape(site)[0][2:]))

    def coupling(self, site: Site) -> Coupling:
        """Backward clears the gradients of its parameters before it adds to them."""
        s: Convolution3DSettings = site.settings
        overwritten = (0, 1) if s.bias_term else (0,)
        return Coupling(
            joint=(1, 2, 3, 4), linear=not s.bias_term, affine=True, overwrites=overwritten
        )

    def memory(self, site: Site, mode: Mode) -> Memory:
        s: Convolution3DSettings = site.settings
        columns = Buffer("col_buffer_", self.columns(site))
        buffers = [columns]
        forward: list[Side] = [bottom(0).data, top(0).data, columns.data, param(0).data]
        backward = [
            top(0).diff, param(0).data, param(0).diff, bottom(0).data, bottom(0).diff,
            columns.data, columns.diff,
        ]  # fmt: skip
        ones = own("bias_multiplier_").data
        if s.bias_term:
            buffers.append(Buffer("bias_multiplier_", count(self.shape(site)[0][2:])))
            forward += [param(1).data, ones]
            backward += [param(1).diff, ones]
        return Memory(
            buffers=tuple(buffers),
            build=(ones,) if s.bias_term and mode == "cpu" else (),
            forward=tuple(forward),
            backward=tuple(backward),
        )


class OlderConvolution3D(Convolution3D):
    type = "CONVOLUTION3D"
    message = "convolution_param"
    follows = "facebookarchive/C3D: C3D-v1.0, convolution3d_layer.cpp, .cu"


class OlderDeconvolution3D(OlderConvolution3D):
    """The transpose: its columns have the places of its input."""

    type = "DECONVOLUTION3D"
    follows = "facebookarchive/C3D: C3D-v1.0, deconvolution3d_layer.cpp, .cu"

    def places(self, s: Convolution3DSettings, sizes: list[int]) -> list[int]:
        windows = zip(sizes, *_window(s), strict=True)
        return [(size - 1) * stride - 2 * pad + kernel for size, kernel, stride, pad in windows]

    def filters(self, site: Site) -> Shape:
        return site.bottoms[0][1], site.settings.num_output

    def columns(self, site: Site) -> int:
        kernel, _, _ = _window(site.settings)
        return count((site.settings.num_output, *kernel, *site.bottoms[0][2:]))


@dataclass(frozen=True, slots=True)
class Pooling3DSettings:
    pool: str = "MAX"
    kernel_size: int = 0
    kernel_depth: int = 0
    stride: int = 1
    temporal_stride: int = 1
    pad: int = 0


class Pooling3D(Rule):
    """Its largest values aren't remembered: Backward looks for them again."""

    type = "Pooling3D"
    message = "pooling3d_param"
    settings = Pooling3DSettings
    forks = ("c3d",)
    follows = "facebookarchive/C3D: C3D-v1.1, pool3d_layer.cpp, .cu"

    def shape(self, site: Site) -> tuple[Shape, ...]:
        s: Pooling3DSettings = site.settings
        if s.pad and s.pool != "AVE":
            raise ShapeError("it pads only for average pooling")
        samples, channels, *sizes = volume(site.bottoms[0])
        kernel = (s.kernel_depth, s.kernel_size, s.kernel_size)
        stride = (s.temporal_stride, s.stride, s.stride)
        if not all((*kernel, *stride)):
            raise ShapeError(f"{self.message} needs kernel_size, kernel_depth and strides above 0")
        windows = zip(sizes, kernel, stride, (0, s.pad, s.pad), strict=True)
        places = [-(-(size + 2 * pad - side) // step) + 1 for size, side, step, pad in windows]
        if min(places) < 1:
            raise ShapeError(f"its kernel is larger than the input of {tuple(sizes)}")
        return ((samples, channels, *places),)

    def draws(self, settings: Pooling3DSettings, phase: Phase) -> bool:
        return phase == "TRAIN" and settings.pool == "STOCHASTIC"

    def coupling(self, site: Site) -> Coupling:
        drawn = self.draws(site.settings, site.phase)
        return Coupling(joint=(2, 3, 4), draws=drawn, affine=site.settings.pool == "AVE")

    def memory(self, site: Site, mode: Mode) -> Memory:
        s: Pooling3DSettings = site.settings
        forward = [bottom(0).data, top(0).data]
        backward = [top(0).diff, bottom(0).diff]
        if s.pool == "MAX":
            backward += forward
        buffers: tuple[Buffer, ...] = ()
        if self.draws(s, site.phase):
            buffers = (Buffer("rand_idx_", count(self.shape(site)[0])),)
            forward.append(buffers[0].data)
            backward.append(buffers[0].data)
        return Memory(
            buffers=buffers,
            forward=tuple(forward),
            backward=tuple(backward) if site.bottom_need[0] else (),
        )


class OlderPooling3D(Pooling3D):
    type = "POOLING3D"
    message = "pooling_param"
    follows = "facebookarchive/C3D: C3D-v1.0, pool3d_layer.cpp, .cu"


@dataclass(frozen=True, slots=True)
class ClipSettings:
    batch_size: int = 0
    new_length: int = 0
    new_height: int = 0
    new_width: int = 0
    shuffle: bool = False
    use_temporal_jitter: bool = False
    crop_size: int = setting(0, message="transform_param")
    mirror: bool = setting(False, message="transform_param")


class ClipData(Rule):
    """Version 1.1's VideoData: clips of so many frames in colour."""

    type = "VideoData"
    message = "video_data_param"
    settings = ClipSettings
    bottoms = (0, 0)
    tops = (1, 2)
    has_batch_size = True
    source = Source(SourceKind.VIDEO, record="clip")
    forks = ("c3d",)
    follows = "facebookarchive/C3D: C3D-v1.1, video_data_layer.cpp, base_data_layer.cpp, .cu"

    def shape(self, site: Site) -> tuple[Shape, ...]:
        s: ClipSettings = site.settings
        if s.batch_size == 0 or s.new_length == 0:
            raise ShapeError(f"{self.message} needs batch_size and new_length, at least 1")
        height, width = (s.crop_size, s.crop_size) if s.crop_size else (s.new_height, s.new_width)
        if not height or not width:
            _, height, width = known_record(site)
        data = (s.batch_size, 3, s.new_length, height, width)
        return (data, self.labels_shape(s))[: site.tops]

    def labels_shape(self, s: ClipSettings) -> Shape:
        """The shape of the second top."""
        return (s.batch_size,)

    def draws(self, settings: ClipSettings, phase: Phase) -> bool:
        return bool(settings.mirror or settings.crop_size or settings.use_temporal_jitter)

    def coupling(self, site: Site) -> Coupling:
        return Coupling(draws=self.draws(site.settings, site.phase), shuffles=site.settings.shuffle)

    def memory(self, site: Site, mode: Mode) -> Memory:
        named = zip(("data_", "label_"), self.shape(site), strict=False)
        buffers = tuple(
            Buffer(f"prefetch_{name}", count(shape), copies=PREFETCH, prefetch=True)
            for name, shape in named
        )
        return Memory(
            buffers=buffers,
            build=tuple(buffer.data for buffer in buffers),
            shares=tuple((top(i).data, buffer.data) for i, buffer in enumerate(buffers)),
        )


class OlderClipData(ClipData):
    """Version 1.0's: a single batch, on the host."""

    type = "VIDEO_DATA"
    message = "image_data_param"
    follows = "facebookarchive/C3D: C3D-v1.0, video_data_layer.cpp"

    def labels_shape(self, s: ClipSettings) -> Shape:
        return (s.batch_size, *ONES)

    def memory(self, site: Site, mode: Mode) -> Memory:
        return copying_memory(self.shape(site), mode, batches=0)


#: The axes of length 1 that version 1.0 puts where later ones have no axes.
ONES = (1, 1, 1, 1)


def volume(shape: Shape) -> Shape:
    """A shape of five axes: N, C, L, H, W.

    Raises:
        ShapeError: It has others.
    """
    if len(shape) != 5:
        raise ShapeError(f"the input {shape} has {len(shape)} axes, not N, C, length, H and W")
    return shape


def _window(s: Convolution3DSettings) -> tuple[Shape, Shape, Shape]:
    """Kernel, strides and padding over length, height and width."""
    sizes = {name: _single(getattr(s, name), name) for name in ("kernel_size", "stride", "pad")}
    kernel, stride, pad = (sizes[name] for name in ("kernel_size", "stride", "pad"))
    if not all((kernel, s.kernel_depth, stride, s.temporal_stride)):
        raise ShapeError("it needs kernel_size, kernel_depth and strides above 0")
    return (
        (s.kernel_depth, kernel, kernel),
        (s.temporal_stride, stride, stride),
        (s.temporal_pad, pad, pad),
    )


def _single(value: int | tuple[int, ...], name: str) -> int:
    """The one number of a field that is a list in Caffe 1.0."""
    if isinstance(value, int):
        return value
    if len(value) > 1:
        raise ShapeError(f"it takes one {name}, not {len(value)}")
    return value[0] if value else (1 if name == "stride" else 0)

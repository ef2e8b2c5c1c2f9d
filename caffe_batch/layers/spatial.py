"""The window that convolutions and Im2col slide over their input.

Source: base_conv_layer.cpp (LayerSetUp), im2col_layer.cpp (LayerSetUp), conv_layer.cpp
(compute_output_shape).
"""

from __future__ import annotations

from dataclasses import dataclass

from caffe_batch.errors import ShapeError
from caffe_batch.layers.base import Shape, axis_index

Sizes = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ConvolutionSettings:
    num_output: int = 0
    bias_term: bool = True
    pad: Sizes = ()
    kernel_size: Sizes = ()
    stride: Sizes = ()
    dilation: Sizes = ()
    pad_h: int | None = None
    pad_w: int | None = None
    kernel_h: int | None = None
    kernel_w: int | None = None
    stride_h: int | None = None
    stride_w: int | None = None
    dilation_h: int | None = None
    dilation_w: int | None = None
    hole: int = 1  # DeepLab's first version
    hole_h: int | None = None
    hole_w: int | None = None
    group: int = 1
    axis: int = 1
    force_nd_im2col: bool = False
    engine: str = "DEFAULT"
    weight_filler: str = "constant"
    bias_filler: str = "constant"


@dataclass(frozen=True, slots=True)
class Window:
    """A window over the axes after the channel axis.

    Attributes:
        axis: The channel axis, counted from the front.
        kernel, stride, pad, dilation: One value per spatial axis, in elements.
    """

    axis: int
    kernel: Sizes
    stride: Sizes
    pad: Sizes
    dilation: Sizes

    @property
    def pointwise(self) -> bool:
        """Whether it covers one position at a time, so that no columns are built.

        As in Caffe, the dilation doesn't matter.
        """
        return not any(self.pad) and all(size == 1 for size in self.kernel + self.stride)

    @property
    def extents(self) -> Sizes:
        """How far the kernel reaches on each axis, including its holes."""
        return tuple(
            [hole * (size - 1) + 1 for size, hole in zip(self.kernel, self.dilation, strict=True)]
        )

    def positions(self, spatial: Shape) -> Shape:
        """How many times the window fits on each axis of an input of this spatial shape.

        Raises:
            ShapeError: The kernel is larger than the padded input. (If that leaves 0 positions,
                Caffe builds the net and aborts when it touches the empty blob.)
        """
        sizes = []
        for size, pad, extent, stride in zip(
            spatial, self.pad, self.extents, self.stride, strict=True
        ):
            room = size + 2 * pad - extent
            # C++ rounds towards zero: a kernel that sticks out by less than a stride fits once.
            fits = room // stride + 1 if room >= 0 else 1 - -room // stride
            if fits < 1:
                raise ShapeError(
                    f"a kernel that reaches over {extent} doesn't fit into an input of {size} "
                    f"with padding {pad} on each side",
                    hint="Use a smaller kernel or dilation, more padding, or a larger input.",
                )
            sizes.append(fits)
        return tuple(sizes)


def window(s: ConvolutionSettings, bottom: Shape) -> Window:
    """The window that the settings define for an input of this shape.

    Raises:
        ShapeError: The settings contradict each other or the number of spatial axes.
    """
    axis = axis_index(s.axis, bottom)
    axes = len(bottom) - axis - 1
    kernel = _sizes("kernel_size", s.kernel_size, ("kernel_h", s.kernel_h, s.kernel_w), axes, 0)
    stride = _sizes("stride", s.stride, ("stride_h", s.stride_h, s.stride_w), axes, 1)
    if 0 in kernel:
        raise ShapeError("the kernel size must be given and at least 1 on every spatial axis")
    if 0 in stride:
        raise ShapeError("the stride must be at least 1 on every spatial axis")
    dilation = s.dilation or ((s.hole,) if s.hole != 1 else ())
    holes = ("dilation_h", s.dilation_h, s.dilation_w)
    if s.hole_h is not None or s.hole_w is not None:
        holes = ("hole_h", s.hole_h, s.hole_w)
    return Window(
        axis=axis,
        kernel=kernel,
        stride=stride,
        pad=_sizes("pad", s.pad, ("pad_h", s.pad_h, s.pad_w), axes, 0),
        dilation=_sizes("dilation", dilation, holes, axes, 1),
    )


def _sizes(
    name: str, values: Sizes, pair: tuple[str, int | None, int | None], axes: int, default: int
) -> Sizes:
    """One value per spatial axis, from the repeated field or its ``_h`` and ``_w`` variants."""
    first, height, width = pair
    if height is not None or width is not None:
        fields = f"{first} and {first[:-1]}w"
        if axes != 2:
            raise ShapeError(f"{fields} are for 2 spatial axes; the input has {axes}")
        if values:
            raise ShapeError(f"give either {name} or {fields}, not both")
        return (height or 0, width or 0)
    if not values:
        return (default,) * axes
    if len(values) == 1:
        return values * axes
    if len(values) == axes:
        return values
    raise ShapeError(
        f"{name} is given {len(values)} times for {axes} spatial axes",
        hint="Give it once for all axes, or once for each.",
    )

"""Layers of face recognition: MarginInnerProduct (SphereFace) and CenterLoss.

Source: wy1iu/sphereface, margin_inner_product_layer.cpp, .cu; ydwen/caffe-face,
center_loss_layer.cpp, .cu.
"""

from __future__ import annotations

from dataclasses import dataclass

from caffe_batch.errors import ShapeError
from caffe_batch.layers.base import (
    Buffer,
    Coupling,
    Labels,
    Memory,
    Mode,
    Rule,
    Shape,
    Site,
    axes_from,
    axis_index,
    count,
    filled,
    four_axes,
)
from caffe_batch.layers.sides import bottom, param, top

#: The buffers of the shape of the top that each type of margin fills beside the first two.
MARGINS = {
    "SINGLE": (),
    "DOUBLE": ("cos_theta_quadratic_",),
    "TRIPLE": ("cos_theta_quadratic_", "cos_theta_cubic_", "sign_1_", "sign_2_"),
    "QUADRUPLE": (
        "cos_theta_quadratic_", "cos_theta_cubic_", "cos_theta_quartic_", "sign_3_", "sign_4_",
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class MarginInnerProductSettings:
    num_output: int = 0
    type: str = "SINGLE"
    weight_filler: str = "constant"
    axis: int = 1
    gamma: float = 0


class MarginInnerProduct(Rule):
    """Products with weights of length 1, less a margin for the label; top 1 is its lambda.

    The lambda falls with each Forward, also with each pass of an update.
    """

    type = "MarginInnerProduct"
    message = "margin_inner_product_param"
    settings = MarginInnerProductSettings
    bottoms = (2, 2)
    tops = (1, 2)
    follows = "wy1iu/sphereface: margin_inner_product_layer.cpp, .cu"

    def shape(self, site: Site) -> tuple[Shape, ...]:
        s: MarginInnerProductSettings = site.settings
        data, labels = site.bottoms
        if s.num_output == 0:
            raise ShapeError("margin_inner_product_param needs num_output, at least 1")
        if data[:1] != labels[:1]:
            raise ShapeError(f"predictions {data} and labels {labels} differ in the first axis")
        return ((*data[: axis_index(s.axis, data)], s.num_output), (1,))[: site.tops]

    def parameters(self, site: Site) -> tuple[Shape, ...]:
        s: MarginInnerProductSettings = site.settings
        inputs = count(site.bottoms[0][axis_index(s.axis, site.bottoms[0]) :])
        return (filled((s.num_output, inputs), s.weight_filler),)

    def labels(self, site: Site) -> Labels | None:
        return Labels(1, site.settings.num_output)

    def coupling(self, site: Site) -> Coupling:
        s: MarginInnerProductSettings = site.settings
        joint = axes_from(s.axis, site.bottoms[0])
        return Coupling(joint=joint, paced=("gamma", s.gamma) if s.gamma else None)

    def memory(self, site: Site, mode: Mode) -> Memory:
        s: MarginInnerProductSettings = site.settings
        scores = self.shape(site)[0]
        names = ("cos_theta_", "sign_0_", *MARGINS[s.type])
        buffers = (
            Buffer("x_norm_", count(scores[:-1])),
            *[Buffer(name, count(scores)) for name in names],
        )
        forward = [bottom(0).data, bottom(1).data, param(0).data, top(0).data]
        if mode == "cpu" and site.tops > 1:
            forward.append(top(1).data)
        backward = [top(0).diff, bottom(0).data, param(0).data]
        if site.param_need[0]:
            backward.append(param(0).diff)
        if site.bottom_need[0]:
            backward.append(bottom(0).diff)
        return Memory(
            buffers=buffers,
            forward=(*forward, *[buffer.data for buffer in buffers]),
            backward=tuple(backward),
        )


@dataclass(frozen=True, slots=True)
class CenterLossSettings:
    num_output: int = 0
    center_filler: str = "constant"
    axis: int = 1


class CenterLoss(Rule):
    """The distances of the samples from the centers of their classes, which it learns.

    The step of a center depends on how many samples of its class the batch has, and the GPU code
    overwrites it in each pass.
    """

    type = "CenterLoss"
    message = "center_loss_param"
    settings = CenterLossSettings
    bottoms = (2, 2)
    automatic_top = True
    is_loss = True
    forced_bottoms = (True, False)
    follows = "ydwen/caffe-face: center_loss_layer.cpp, .cu"

    def shape(self, site: Site) -> tuple[Shape, ...]:
        s: CenterLossSettings = site.settings
        data, labels = site.bottoms
        if s.num_output == 0:
            raise ShapeError("center_loss_param needs num_output, at least 1")
        if data[:1] != labels[:1] or four_axes(labels)[1:] != (1, 1, 1):
            raise ShapeError(f"{data} needs one label for each sample, not {labels}")
        return ((),)

    def parameters(self, site: Site) -> tuple[Shape, ...]:
        s: CenterLossSettings = site.settings
        inputs = count(site.bottoms[0][axis_index(s.axis, site.bottoms[0]) :])
        return (filled((s.num_output, inputs), s.center_filler),)

    def labels(self, site: Site) -> Labels | None:
        return Labels(1, site.settings.num_output, writes=True)

    def coupling(self, site: Site) -> Coupling:
        data = site.bottoms[0]
        return Coupling(joint=tuple(range(len(data))), divisor=data[0], overwrites=(0,))

    def memory(self, site: Site, mode: Mode) -> Memory:
        distance = Buffer("distance_", count(site.bottoms[0]))
        sums = Buffer("variation_sum_", count(self.parameters(site)[0]))
        # The sums stay on the host, whose address the GPU code is given.
        on_host = (sums.data,) if mode == "cpu" else ()
        loss = (top(0).data,) if mode == "cpu" else ()
        backward = [bottom(1).data, distance.data, param(0).diff, *on_host]
        if site.bottom_need[0]:
            backward += [bottom(0).diff, *([top(0).diff] if mode == "cpu" else [])]
        return Memory(
            buffers=(distance, sums),
            forward=(bottom(0).data, bottom(1).data, param(0).data, distance.data, *loss),
            backward=tuple(backward),
        )

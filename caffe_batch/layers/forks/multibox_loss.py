"""MultiBoxLoss: SSD's loss of boxes and classes. Source: weiliu89/caffe, multibox_loss_layer.cpp.

It runs on the host, except for the two losses inside (smooth_L1_loss_layer.cu or
euclidean_loss_layer.cu; softmax_loss_layer.cu or sigmoid_cross_entropy_loss_layer.cu) and the
mining of hard examples (bbox_util.cu). What these work on are the priors that match an object, and
the mined ones: how many there are depends on the data, so the most there can be are counted.

RefineDet's has two bottoms more (sfzhang15/RefineDet, the same file), which it reads on the host.
"""

from __future__ import annotations

from dataclasses import dataclass

from caffe_batch.errors import ShapeError
from caffe_batch.layers.base import (
    Buffer,
    Coupling,
    Memory,
    Mode,
    Shape,
    Site,
    all_but_first,
    count,
    needed_diffs,
    refuse_gradient,
    setting,
)
from caffe_batch.layers.labels import Loss, LossSettings, normalizer
from caffe_batch.layers.sides import bottom, own, top


@dataclass(frozen=True, slots=True)
class MultiBoxLossSettings(LossSettings):
    ignore_label: int | None = setting(None, message="loss_param")
    num_classes: int | None = None
    share_location: bool = True
    loc_loss_type: str = "SMOOTH_L1"
    conf_loss_type: str = "SOFTMAX"
    mining_type: str = "MAX_NEGATIVE"
    background_label_id: int = 0


class MultiBoxLoss(Loss):
    """Bottoms: locations (N, P*4), confidences (N, P*C), priors (1, 2, P*4), boxes (1, 1, B, 8)."""

    type = "MultiBoxLoss"
    message = "multibox_loss_param"
    settings = MultiBoxLossSettings
    bottoms = (4, 6)
    counted = "priors that match an object"
    forks = ("ssd", "nvcaffe")
    follows = "weiliu89/caffe: multibox_loss_layer.cpp, bbox_util.cpp, .cu"

    def shape(self, site: Site) -> tuple[Shape, ...]:
        s: MultiBoxLossSettings = site.settings
        located, classified = site.bottoms[:2]
        boxes = prior_count(site.bottoms[2])
        if s.num_classes is None or s.num_classes < 1:
            raise ShapeError("multibox_loss_param needs num_classes, at least 1")
        if s.mining_type != "NONE" and not s.share_location:
            raise ShapeError("mining needs share_location: true, or mining_type: NONE")
        check_predictions(s.share_location, s.num_classes, located, classified, boxes)
        return ((),)

    def coupling(self, site: Site) -> Coupling:
        """It divides by the priors that match, unless ``normalization`` says otherwise.

        Hard examples are mined in each image by itself.
        """
        s: MultiBoxLossSettings = site.settings
        samples = site.bottoms[0][0]
        mode, boxes = s.normalization, prior_count(site.bottoms[2])
        divisor, _ = normalizer(s, default="VALID", outer=samples, inner=boxes)
        valid = mode == "VALID" or (mode is None and s.normalize is not False)
        return Coupling(joint=all_but_first(site), divisor=divisor, by_labels=(0,) if valid else ())

    def memory(self, site: Site, mode: Mode) -> Memory:
        refuse_gradient(site, 2, "the priors")
        refuse_gradient(site, 3, "the boxes")
        s: MultiBoxLossSettings = site.settings
        rows = site.bottoms[0][0] * prior_count(site.bottoms[2])
        classes = s.num_classes or 1
        mined, softmax = s.mining_type != "NONE", s.conf_loss_type == "SOFTMAX"
        # Several labels can match a prior where each has locations of its own.
        located = 4 * rows * (1 if s.share_location else classes)
        sizes = dict.fromkeys(("loc_pred_", "loc_gt_", *_INSIDE[s.loc_loss_type]), located)
        sizes |= dict.fromkeys(("conf_pred_", *_INSIDE[s.conf_loss_type]), rows * classes)
        sizes |= {"conf_gt_": rows, "scale_": rows} if softmax else {"conf_gt_": rows * classes}
        # Without mining conf_pred_ has the values of the bottom, and the bottom its gradient.
        values = [name for name in sizes if mined or name != "conf_pred_"]
        forward = [own(name).data for name in values]
        backward = [own("loc_pred_").diff, own("conf_pred_").diff]
        if mode == "gpu" and softmax:
            forward += [own("conf_pred_").diff, own("prob_").diff]  # the kernel sums in them
        touched = {side for side in (*forward, *backward) if mined or side.name in _MATCHED}
        transient = 0
        if mode == "gpu" and s.mining_type == "MAX_NEGATIVE":
            transient = 2 * rows + ((classes + 1) * rows if softmax else 0)
        if mode == "cpu":
            forward += [bottom(i).data for i in range(len(site.bottoms))]
            forward.append(top(0).data)
            backward += [top(0).diff, *needed_diffs(site)]
        return Memory(
            buffers=tuple([Buffer(name, size) for name, size in sizes.items()]),
            forward=tuple(forward),
            backward=tuple(backward),
            backward_shares=() if mined else ((bottom(1).diff, own("conf_pred_").diff),),
            transient=transient,
            at_most=sum(sizes[side.name] for side in touched),
        )


#: The buffers of the losses inside, each of the size of what it works on.
_INSIDE = {
    "SMOOTH_L1": ("diff_", "errors_"),
    "L2": ("diff_",),
    "SOFTMAX": ("prob_",),
    "LOGISTIC": ("sigmoid_output_",),
}
#: The buffers that are as large as the number of matches even without mining.
_MATCHED = {"loc_pred_", "loc_gt_", "diff_", "errors_"}


def prior_count(priors: Shape) -> int:
    """How many boxes a blob of priors (1, 2, P*4) has.

    Raises:
        ShapeError: It isn't one.
    """
    if len(priors) < 3 or priors[2] % 4:
        raise ShapeError(f"the priors have the shape (1, 2, boxes*4), not {priors}")
    return priors[2] // 4


def check_predictions(
    shared: bool, classes: int, located: Shape, classified: Shape, boxes: int
) -> None:
    """Checks that locations and confidences fit the priors.

    Args:
        shared: Whether all classes share the locations.
        classes: How many classes there are.
        located: The shape of the locations.
        classified: The shape of the confidences.
        boxes: The number of priors.

    Raises:
        ShapeError: They don't.
    """
    for what, shape, wanted in (
        ("locations", located, 4 * boxes * (1 if shared else classes)),
        ("confidences", classified, boxes * classes),
    ):
        if len(shape) < 2 or shape[1] != wanted:
            raise ShapeError(
                f"{boxes} priors and {classes} classes need {wanted} {what} for each image; bottom "
                f"{shape} has another number",
                hint="num_output of the convolutions before it is boxes x 4, and boxes x classes.",
            )
    if located[0] != classified[0]:
        raise ShapeError(f"locations {located} and confidences {classified} differ in the batch")
    if count(classified) == 0:
        raise ShapeError(f"no predictions: {classified}")

"""MultiBoxLoss: SSD's loss of boxes and classes.

Bottoms: locations (N, P*4), scores (N, P*C), priors (1, 2, P*4) and objects (1, 1, B, 8), rows of
sample, class, number, four corners, difficult. Which priors stand for which object, and which of
the others count, is settled without a gradient; the loss is that of the ones that count.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from caffe_batch.engines.torch.layers.base import Place, Tensors, TorchLayer
from caffe_batch.engines.torch.layers.softmax_loss import LARGEST
from caffe_batch.errors import NetError
from caffe_batch.layers.forks.multibox_loss import prior_count

#: A smaller overlap is none (bbox_util.cpp, MatchBBox).
LEAST_OVERLAP = 1e-6
#: What stands for no object, and for a prior that must not stand for any.
NONE, IGNORED = -1, -2


class MultiBoxLoss(TorchLayer):
    """With shared locations, priors that are matched, and the hardest negatives or all of them."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        s = self.settings = place.message.multibox_loss_param
        left_out = {
            "share_location: false": not s.share_location,
            "use_prior_for_matching: false": not s.use_prior_for_matching,
            "mining_type: HARD_EXAMPLE": s.mining_type == s.HARD_EXAMPLE,
            "nms_param": s.HasField("nms_param") and s.nms_param.nms_threshold > 0,
            "bp_inside": s.bp_inside,
            "map_object_to_agnostic": s.map_object_to_agnostic,
            "six bottoms": len(place.site.bottoms) > 4,
        }
        wrong = [name for name, is_so in left_out.items() if is_so]
        if wrong:
            raise NetError(
                f"the PyTorch engine doesn't run MultiBoxLoss with {', '.join(wrong)}",
                layer=place.name,
                hint="The engine caffe runs it, with a Caffe that has the layer.",
            )

    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        s = self.settings
        boxes = prior_count(tuple(bottoms[2].shape))
        samples = bottoms[0].shape[0]
        locations = bottoms[0].view(samples, boxes, 4)
        scores = bottoms[1].view(samples, boxes, s.num_classes)
        priors, variances = bottoms[2].detach().view(2, boxes, 4)
        objects = _objects(bottoms[3].detach(), s)
        with torch.no_grad():
            matches, negative = self._choose(scores, priors, objects)
        positive = matches >= 0
        total = locations.new_zeros(())
        if positive.any():
            given = torch.cat([
                each[of[of >= 0], 2:6] for each, of in zip(
                    _by_sample(objects, samples), matches, strict=True)
            ])  # fmt: skip
            where = positive.nonzero()[:, 1]
            targets = encode(given, priors[where], variances[where], s)
            difference = locations[positive] - targets
            if s.loc_loss_type == s.SMOOTH_L1:
                zero = torch.zeros_like(difference)
                error = functional.smooth_l1_loss(difference, zero, reduction="sum")
            else:  # EuclideanLoss: half the squares, of one row
                error = difference.square().sum() / 2
            total = total + s.loc_weight * error
        labels = self._labels(matches, objects)
        counted = positive | negative if s.mining_type != s.NONE else torch.ones_like(positive)
        if counted.any():
            total = total + self._losses(scores[counted], labels[counted]).sum()
        return (total / self._divisor(samples, boxes, int(positive.sum())),)

    def _choose(self, scores: Tensor, priors: Tensor, objects: Tensor) -> tuple[Tensor, Tensor]:
        """The object of each prior (N, P), and which of the others are counted as background.

        A sample without objects has no match, and no background either.
        """
        s = self.settings
        samples, boxes = scores.shape[:2]
        matches = torch.full((samples, boxes), NONE, device=scores.device)
        negative = torch.zeros_like(matches, dtype=torch.bool)
        for n, mine in enumerate(_by_sample(objects, samples)):
            if not len(mine):
                continue
            matches[n], overlaps = match(priors, mine[:, 2:6], s)
            labels = torch.where(
                matches[n] >= 0, mine[matches[n].clamp(min=0), 1].long(), s.background_label_id
            )
            free = ((matches[n] == NONE) & (overlaps < s.neg_overlap)).nonzero()[:, 0]
            wanted = int(int((matches[n] >= 0).sum()) * s.neg_pos_ratio)
            losses = self._losses(scores[n, free], labels[free])
            order = losses.argsort(descending=True, stable=True)[:wanted]
            negative[n, free[order]] = True
        return matches, negative

    def _labels(self, matches: Tensor, objects: Tensor) -> Tensor:
        labels = torch.full_like(matches, self.settings.background_label_id)
        for n, mine in enumerate(_by_sample(objects, len(matches))):
            found = matches[n] >= 0
            labels[n, found] = mine[matches[n][found], 1].long()
        return labels

    def _losses(self, scores: Tensor, labels: Tensor) -> Tensor:
        """One for each row; of its right class, or of all classes."""
        if self.settings.conf_loss_type == self.settings.SOFTMAX:
            losses = functional.cross_entropy(scores, labels, reduction="none")
            return losses + (losses.detach().clamp(max=LARGEST) - losses.detach())
        wanted = functional.one_hot(labels, scores.shape[1]).to(scores.dtype)
        return functional.binary_cross_entropy_with_logits(scores, wanted, reduction="none").sum(1)

    def _divisor(self, samples: int, boxes: int, matched: int) -> int:
        s = self.place.message.loss_param
        if s.HasField("normalize") and not s.HasField("normalization"):
            return max(1, matched if s.normalize else samples)
        known = {s.BATCH_SIZE: samples, s.NONE: 1, s.FULL: samples * boxes}
        return max(1, known.get(s.normalization, matched))


def _objects(rows: Tensor, s: Any) -> Tensor:
    """The objects that count: rows of sample, class, four corners."""
    rows = rows.reshape(-1, 8)
    kept = rows[:, 0] != -1
    if not s.use_difficult_gt:
        kept &= rows[:, 7] == 0
    return rows[kept][:, [0, 1, 3, 4, 5, 6]]


def _by_sample(objects: Tensor, samples: int) -> list[Tensor]:
    return [objects[objects[:, 0] == n] for n in range(samples)]


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of all pairs of two lists of boxes: (len(a), len(b))."""
    least = torch.maximum(a[:, None, :2], b[None, :, :2])
    most = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    both = (most - least).clamp(min=0).prod(-1)
    areas = [(each[:, 2:] - each[:, :2]).clamp(min=0).prod(-1) for each in (a, b)]
    either = areas[0][:, None] + areas[1][None] - both
    return torch.where(both > 0, both / either, 0)


def match(priors: Tensor, objects: Tensor, s: Any) -> tuple[Tensor, Tensor]:
    """The object that each prior stands for, and its overlap with it, or its largest one.

    Each object gets the prior that overlaps most with it, the best pair first; with
    PER_PREDICTION also all others that overlap enough.
    """
    shares = overlap(priors, objects)
    shares = torch.where(shares > LEAST_OVERLAP, shares, 0)
    matches = torch.full((len(priors),), NONE, device=priors.device)
    if s.ignore_cross_boundary_bbox:
        outside = ((priors < 0) | (priors > 1)).any(1)
        matches[outside] = IGNORED
        shares[outside] = 0
    overlaps = shares.max(1).values
    left = shares.clone()
    for _ in range(len(objects)):
        best = int(left.argmax())  # of equal pairs that of the first prior, as in Caffe
        prior, number = divmod(best, len(objects))
        if left[prior, number] <= 0:
            break
        matches[prior], overlaps[prior] = number, left[prior, number]
        left[prior], left[:, number] = 0, 0
    if s.match_type == s.PER_PREDICTION:
        share, closest = shares.max(1)
        more = (matches == NONE) & (share >= s.overlap_threshold) & (share > 0)
        matches = torch.where(more, closest, matches)
    return matches, overlaps


def encode(boxes: Tensor, priors: Tensor, variances: Tensor, s: Any) -> Tensor:
    """The locations that would predict some boxes, each from its prior."""
    code = s.DESCRIPTOR.fields_by_name["code_type"].enum_type
    name = code.values_by_number[s.code_type].name
    sizes = priors[:, 2:] - priors[:, :2]
    if name == "CENTER_SIZE":
        centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        middle = (priors[:, :2] + priors[:, 2:]) / 2
        codes = torch.cat([(centre - middle) / sizes, (size / sizes).log()], 1)
    elif name == "CORNER_SIZE":
        codes = (boxes - priors) / sizes.repeat(1, 2)
    else:
        codes = boxes - priors
    return codes if s.encode_variance_in_target else codes / variances

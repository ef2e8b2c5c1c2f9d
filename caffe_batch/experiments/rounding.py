"""How far single precision can move a sum: what two right runs may differ by.

Caffe's numbers have 24 bits, so each addition is off by half a unit in the last place at most,
``UNIT`` of its result. Its loss layers add up their terms one by one: n of them are off by n times
``UNIT`` at most (Higham, Accuracy and Stability of Numerical Algorithms, 2002, 4.2). That is near
where terms are alike, as those of a segmentation's pixels are: every addition then rounds the same
way. Gradients are sums of a BLAS, whose partial sums round one way or the other: with a probability
of 1 - 2n exp(-c^2 / 2), c times the square root of n is enough for them (Higham and Mary, SIAM J.
Sci. Comput. 41, 2019, theorem 2.4).
"""

from __future__ import annotations

import math
from collections import Counter

from caffe_batch.layers.base import count
from caffe_batch.net.graph import Net

#: Half a unit in the last place of a float, relatively.
UNIT = 2.0**-24

#: How probable it may be that a sum in parts is off by more than its bound.
CHANCE = 1e-3


def loss_terms(net: Net) -> int:
    """The most numbers that one layer of a net adds up for a loss."""
    terms = [0]
    for node in net.nodes:
        tops = [count(net.blobs[top].shape) for top in node.tops]
        terms += [size for size, weight in zip(tops, node.loss, strict=True) if weight]
        if 1 in tops:  # one number of many, whatever follows it
            terms += [count(net.blobs[bottom].shape) for bottom in node.bottoms]
    return max(terms)


def gradient_terms(net: Net) -> dict[tuple[str, int], int]:
    """How many numbers are added up for one element of each parameter's gradient.

    These are the samples and the places of a top that use the element.
    """
    terms: Counter[tuple[str, int]] = Counter()
    for node in net.nodes:
        values = max((count(net.blobs[top].shape) for top in node.tops), default=0)
        for place in node.params:
            parameter = net.params[place]
            rows = parameter.shape[0] if parameter.shape else 1
            terms[parameter.layer, parameter.index] += values // max(rows, 1)
    return dict(terms)


def one_by_one(terms: int) -> float:
    """The largest relative error of a sum of numbers of one sign, added up one by one."""
    return terms * UNIT


def in_parts(terms: int) -> float:
    """What the relative error of a sum in parts exceeds with a probability of ``CHANCE``."""
    return math.sqrt(2 * math.log(2 * max(terms, 1) / CHANCE) * terms) * UNIT

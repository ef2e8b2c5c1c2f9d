"""How samples flow through a net: which axis they lie on, where they are summed, where mixed.

The net is looked at twice: with a small batch, that of a micro-batch, and with the whole batch.
An axis that is longer in the same ratio is the one the samples lie on. The question at each layer
is whether ``parts`` passes over the small batch give, sample for sample, what one pass over the
whole batch gives; and, once a value sums over the batch, by which factor the mean over the passes
differs from the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from caffe_batch.layers.base import Coupling, Shape, count
from caffe_batch.net.graph import Net, Node

#: The time axis of a recurrent layer's blobs (recurrent_layer.cpp).
TIME_AXIS = 0


@dataclass(frozen=True, slots=True)
class Fixed:
    """The same in every pass: no sample contributes to it."""


@dataclass(frozen=True, slots=True)
class Rows:
    """One or more positions of an axis for each sample.

    Attributes:
        axis: Which axis.
        blocks: How often the sequence of samples repeats along it: 1 for s0 s1 s2, 2 for s0 s1 s2
            s0 s1 s2 (two blobs of one batch joined, or time steps merged with the batch).
    """

    axis: int
    blocks: int = 1


@dataclass(frozen=True, slots=True)
class Summed:
    """A sum over the batch.

    Attributes:
        factor: The value of the whole batch divided by the mean of the values of the passes; None
            if it depends on the labels (how many of them are ignored).
    """

    factor: Fraction | None


@dataclass(frozen=True, slots=True)
class Mixed:
    """What a pass gives here isn't part of what the whole batch gives."""


Samples = Fixed | Rows | Summed | Mixed


@dataclass(frozen=True, slots=True)
class SampleFlow:
    """One layer, and what happens to the samples there.

    Attributes:
        small, large: The layer at the size of a micro-batch and of the whole batch.
        coupling, whole: What its rule says at the two sizes.
        tops: What each top holds.
        problem: Why the samples are mixed here, in words; empty if they aren't, or already were.
        trains: Whether a loss depends on it.
    """

    small: Node
    large: Node
    coupling: Coupling
    whole: Coupling
    tops: tuple[Samples, ...]
    problem: str
    trains: bool

    @property
    def cuts_time(self) -> bool:
        """Whether it continues from pass to pass along the axis that the batch lies on."""
        top = self.tops[0] if self.tops else None
        return self.coupling.carries_state and isinstance(top, Rows) and top.axis == TIME_AXIS


def unfollowed(net: Net) -> tuple[SampleFlow, ...]:
    """The flows of a net that can't be built at a second size: nobody knows where samples are."""
    return tuple(
        SampleFlow(node, node, coupling, coupling, (Fixed(),) * len(node.tops), "", needed)
        for node, needed in zip(net.nodes, _under_loss(net), strict=True)
        for coupling in (node.rule.coupling(node.site),)
    )


def follow(small: Net, large: Net, parts: int) -> tuple[SampleFlow, ...]:
    """The flows of a net, in order.

    Args:
        small: The net at the size of a micro-batch.
        large: The same net at the size of the whole batch.
        parts: How many micro-batches make up the whole batch.
    """
    states: list[Samples] = [Fixed()] * len(small.blobs)
    trains = _under_loss(small)
    flows = []
    for node, other, needed in zip(small.nodes, large.nodes, trains, strict=True):
        coupling, whole = node.rule.coupling(node.site), other.rule.coupling(other.site)
        step = _Step(
            node,
            other,
            coupling,
            whole,
            parts,
            bottoms=[states[i] for i in node.bottoms],
            shapes=[(small.blobs[i].shape, large.blobs[i].shape) for i in node.tops],
        )
        tops, problem = step.tops()
        for index, state in zip(node.tops, tops, strict=True):
            states[index] = state
        flows.append(SampleFlow(node, other, coupling, whole, tops, problem, needed))
    return tuple(flows)


def _under_loss(net: Net) -> list[bool]:
    """For each layer, whether a loss depends on it (Net::Init's blobs_under_loss)."""
    under: set[int] = set()
    needed = []
    for node in reversed(net.nodes):
        here = any(node.loss) or not under.isdisjoint(node.tops)
        if here:
            under.update(node.bottoms)
        needed.append(here)
    needed.reverse()
    return needed


@dataclass(frozen=True, slots=True)
class _Step:
    """One layer with what its bottoms hold, and the shape of each top at both sizes."""

    node: Node
    other: Node
    coupling: Coupling
    whole: Coupling
    parts: int
    bottoms: Sequence[Samples]
    shapes: Sequence[tuple[Shape, Shape]]

    def tops(self) -> tuple[tuple[Samples, ...], str]:
        """What the tops hold, and why the samples are mixed if they are."""
        if self.coupling.constant:
            return tuple(self._source(*pair) for pair in self.shapes), ""
        if self.node.param_shapes != self.other.param_shapes:
            return self._mixed("its parameters have one value for each sample of the batch")
        if any(isinstance(state, Mixed) for state in self.bottoms):
            return self._mixed("")
        if any(isinstance(state, Summed) for state in self.bottoms):
            return self._after_sum()
        rows = [state for state in self.bottoms if isinstance(state, Rows)]
        if not rows:
            return tuple(self._source(*pair) for pair in self.shapes), ""
        problem = self._problem(rows)
        if problem:
            return self._mixed(problem)
        tops = tuple(self._top(i, rows, *pair) for i, pair in enumerate(self.shapes))
        if any(isinstance(top, Mixed) for top in tops):
            return self._mixed("its output doesn't grow with the batch size")
        return tops, ""

    def _mixed(self, problem: str) -> tuple[tuple[Samples, ...], str]:
        return (Mixed(),) * len(self.node.tops), problem

    def _source(self, small: Shape, large: Shape) -> Samples:
        axis = longer_axis(small, large, self.parts)
        return Fixed() if axis is None else Rows(axis)

    def _after_sum(self) -> tuple[tuple[Samples, ...], str]:
        """After a sum over the batch, only sums and multiples keep the relation."""
        factor, *others = {state.factor for state in self.bottoms if isinstance(state, Summed)}
        # Beside a mean: what is the same in every pass is its own mean.
        allowed = (Summed, Fixed) if factor == 1 else (Summed,)
        alone = not others and all(isinstance(state, allowed) for state in self.bottoms)
        if alone and (self.coupling.affine if factor == 1 else self.coupling.linear):
            return (Summed(factor),) * len(self.node.tops), ""
        return self._mixed("it works on a sum over the whole batch")

    def _problem(self, rows: Sequence[Rows]) -> str:
        """Why this layer mixes the samples of its bottoms; empty if it doesn't."""
        first = self.bottoms[0]
        if self.coupling.statistics:
            return ""
        if self.coupling.selects:
            return "it picks samples by their position in the batch"
        if self.coupling.carries_state and isinstance(first, Rows) and first.axis == TIME_AXIS:
            return ""  # the next pass continues where this one ends
        if isinstance(first, Rows) and first.axis in self.coupling.joint:
            return f"it works along axis {first.axis}, on which the samples lie"
        if self.coupling.along is None and len({state.blocks for state in rows}) > 1:
            return "its bottoms have their samples in different orders"
        return ""

    def _top(self, number: int, rows: Sequence[Rows], small: Shape, large: Shape) -> Samples:
        axis = longer_axis(small, large, self.parts)
        if axis is None:
            if self.coupling.divisor is None or small != large:
                return Mixed()
            if number in self.coupling.by_labels:
                return Summed(None)
            return Summed(self.parts * Fraction(self.coupling.divisor, self.whole.divisor or 1))
        state = rows[0]
        if self.coupling.relabels:
            turns = state.blocks * count(self.node.site.bottoms[0][: state.axis])
            before = count(small[:axis])
            return Mixed() if turns % before else Rows(axis, turns // before)
        if self.coupling.along == state.axis:
            return self._joined(rows, axis)
        return Rows(axis, state.blocks)

    def _joined(self, rows: Sequence[Rows], axis: int) -> Samples:
        """Blobs joined along the samples' axis repeat the samples; cut apart they don't."""
        ways = len(self.node.tops)
        if ways == 1:
            lengths = {bottom[rows[0].axis] for bottom in self.node.site.bottoms}
            ways = self.shapes[0][0][axis] // max(lengths)
            together = len(rows) == len(self.bottoms) and len(lengths) == 1
            return Rows(axis, rows[0].blocks * ways) if together else Mixed()
        equal = len({small[axis] for small, _ in self.shapes}) == 1
        apart = equal and rows[0].blocks % ways == 0
        return Rows(axis, rows[0].blocks // ways) if apart else Mixed()


def longer_axis(small: Shape, large: Shape, parts: int) -> int | None:
    """The one axis that is ``parts`` times as long in the large shape, if all others are equal."""
    if len(small) != len(large):
        return None
    longer = [i for i, (a, b) in enumerate(zip(small, large, strict=True)) if a != b]
    if len(longer) != 1 or large[longer[0]] != parts * small[longer[0]]:
        return None
    return longer[0]

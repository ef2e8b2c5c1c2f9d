"""Detects a classifier that learns nothing: its loss stays at the log of the class count."""

from __future__ import annotations

#: How far the loss may be from the loss of guessing, as a share of it.
_NEAR = 0.01

#: The loss is averaged over about this many records.
_AVERAGED = 20

#: A loss may stay there for this many updates, and for this share of all updates, without a remark.
_PATIENCE, _SHARE = 100, 0.05


class ChanceWatch:
    """Watches whether a loss stays at the loss of guessing.

    Args:
        chance: The loss of guessing; None if it isn't known.
        updates: Updates of the whole run.
    """

    def __init__(self, chance: float | None, updates: int) -> None:
        self._chance = chance
        self._patience = max(_PATIENCE, round(_SHARE * updates))
        self._mean: float | None = None
        self._since = self._update = 0

    def add(self, update: int, loss: float) -> None:
        """Take in the next record; a loss that isn't finite starts the count again."""
        self._update = update
        if self._chance is None:
            return
        near = abs(loss) < float("inf")
        if near:
            mean = loss if self._mean is None else self._mean
            self._mean = mean + (loss - mean) / _AVERAGED
            near = abs(self._mean - self._chance) <= _NEAR * self._chance
        if not near:
            self._since = update

    @property
    def remark(self) -> str:
        """What to say about it, and what to try; empty while there is nothing to say."""
        stood = self._update - self._since
        if self._chance is None or self._mean is None or stood < self._patience:
            return ""
        return (
            f"The loss has stayed at {self._chance:.4g} for {stood:,} updates. That is the loss "
            "of guessing, with all classes equally likely: nothing is being learned. Try a lower "
            "base_lr, larger initial weights (weight_filler xavier or msra, not a constant), "
            "inputs scaled to about 1 (transform_param.scale) or shuffled records, and make sure "
            "that no lr_mult is 0."
        )

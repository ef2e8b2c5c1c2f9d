"""What accumulation does to a training: causes, verdicts and findings.

The question is always the same: is training at (batch_size b, iter_size k) the training that the
recipe means at (b*k, 1)? A finding answers it for one cause in one layer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from caffe_batch.memory.base import MemoryModel
from caffe_batch.planning.edits.changes import Change


class Verdict(str, Enum):
    """How (b, k) compares with (b*k, 1) in one respect; the value is the one in plan.json."""

    #: The same up to the order of floating-point sums.
    EXACT = "exact"
    #: The same, because the plan changes something to that end.
    COMPENSATED = "compensated"
    #: The same on average, or nearly, but not number for number.
    APPROXIMATE = "approximate"
    #: Another training.
    DIFFERENT = "different"
    #: It depends on code that can't be read here.
    UNKNOWN = "unknown"


class Cause(str, Enum):
    """What can make a difference; the value is the one that ``--no-compensate`` takes."""

    CLIP_GRADIENTS = "clip_gradients"
    WEIGHT_DECAY = "weight_decay"
    LOSS_NORMALIZATION = "loss_normalization"
    LOSS_SUM = "loss_sum"
    IGNORE_LABEL = "ignore_label"
    BATCH_NORM_STATISTICS = "batch_norm_statistics"
    BATCH_NORM_AVERAGE = "batch_norm_average"
    RANDOM_DRAWS = "random_draws"
    OVERWRITTEN_GRADIENT = "overwritten_gradient"
    OVERWRITTEN_LOSS_WEIGHT = "overwritten_loss_weight"
    OVERWRITTEN_DATA = "overwritten_data"
    SPOILED_GRADIENT = "spoiled_gradient"
    DATA_ORDER = "data_order"
    WINDOW_DATA = "window_data"
    RECURRENT_STATE = "recurrent_state"
    PACE = "pace"
    MIXED_SAMPLES = "mixed_samples"
    LITERAL_BATCH = "literal_batch"
    UNKNOWN_LAYER = "unknown_layer"
    LOG_OUTPUTS = "log_outputs"
    LAYER_WISE_REDUCE = "layer_wise_reduce"
    TEST_BATCHES = "test_batches"
    ENGINE_DRAWS = "engine_draws"
    MEMORY_LAYOUT = "memory_layout"
    PRECISION = "precision"


class Scope(str, Enum):
    """What a difference affects."""

    TRAINING = "training"
    TEST = "test"
    LOG = "log"
    #: The training, however the batch is split: how it compares with Caffe's.
    ENGINE = "engine"


@dataclass(frozen=True, slots=True)
class Finding:
    """One cause in one place, judged.

    Attributes:
        cause: What makes, or could make, a difference.
        layer: Name of the layer, or None for the solver or the whole net.
        verdict: How the accumulated training compares.
        explanation: Why, in a sentence.
        changes: What the plan sets to compensate; empty if there is nothing to do or
            compensation was refused.
        offer: What the user could do about it, in a sentence; empty if there is nothing.
        scope: Whether it affects the training itself, the test scores, or only the log; or whether
            it is about the engine, compared with Caffe.
    """

    cause: Cause
    layer: str | None
    verdict: Verdict
    explanation: str
    changes: tuple[Change, ...] = ()
    offer: str = ""
    scope: Scope = Scope.TRAINING

    def json(self) -> dict[str, Any]:
        """As in plan.json: ``change`` is a sentence, or None."""
        made = "; ".join(f"{c.field}: {c.before} -> {c.after}" for c in self.changes)
        return {
            "cause": self.cause.value,
            "layer": self.layer,
            "verdict": self.verdict.value,
            "explanation": self.explanation,
            "change": made or self.offer or None,
            "changed": bool(self.changes),
            "scope": self.scope.value,
        }


class Audit(Protocol):
    """Says what makes an accumulated training differ from that of the whole batch."""

    def __call__(
        self,
        model: MemoryModel,
        *,
        batch_size: int,
        iter_size: int,
        gpus: int = 1,
        own_gpus: int = 1,
        summed_iter: int | None = None,
        refused: Collection[Cause] = (),
    ) -> tuple[Finding, ...]:
        """The findings for one split (see :func:`caffe_batch.planning.audit.audit.audit`)."""


#: The causes that the plan compensates, unless ``--no-compensate`` refuses.
COMPENSATED = (
    Cause.CLIP_GRADIENTS,
    Cause.LOSS_NORMALIZATION,
    Cause.LOSS_SUM,
    Cause.BATCH_NORM_AVERAGE,
)

#: Verdicts that ``caffe-batch verify`` holds to 1e-5.
SAME = (Verdict.EXACT, Verdict.COMPENSATED)


def compensations(findings: Iterable[Finding]) -> tuple[Change, ...]:
    """The changes of some findings, each once."""
    return tuple(dict.fromkeys(change for each in findings for change in each.changes))

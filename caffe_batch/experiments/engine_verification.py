"""How much one training differs between two engines, parameter by parameter, and what may differ.

Both engines calculate in single precision and add in another order, so they differ by rounding. How
much that is depends on the net: an activation at the edge of a ReLU, or a BatchNorm over a few
samples, can turn the last bit of a number into a thousandth of a gradient. So neither engine is
compared with the other, but both with the same training in double precision; and three more runs
there, in which the result of each operation is moved by as much as single precision rounds, are
the control. An engine whose error is at most ``FACTOR`` times the largest of theirs, or at most
``TOLERANCE``, calculates the same training. (Factor and tolerance are those of the project's own
tests of the PyTorch engine.)

Where the training itself ends in inf or nan, only its first update is judged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from caffe_batch.experiments.variants import DataUse
from caffe_batch.experiments.verification import TOLERANCE, Judgement, largest
from caffe_batch.layers.base import Shape
from caffe_batch.planning.audit.findings import Finding
from caffe_batch.planning.precision import Precision

#: How much larger than the control's an error may be: three controls don't show the worst case.
FACTOR = 4


@dataclass(frozen=True, slots=True)
class EngineErrors:
    """Relative L2 errors of one array, or the worst of several.

    Attributes:
        engines: Of both engines against double precision, in the order of their names.
        apart: Of the first against the second.
        control: The largest of the controls.
    """

    engines: tuple[float, float]
    apart: float
    control: float

    @property
    def allowed(self) -> float:
        """The largest error that rounding explains."""
        return max(TOLERANCE, FACTOR * self.control)

    @property
    def agree(self) -> bool:
        """Whether rounding explains the errors of both; nan never is."""
        return all(error <= self.allowed for error in self.engines)

    def scaled(self, factor: float) -> EngineErrors:
        """The errors relative to something larger by 1 / factor."""
        first, second = self.engines
        return EngineErrors(
            (first * factor, second * factor), self.apart * factor, self.control * factor
        )

    @classmethod
    def worst(cls, errors: Sequence[EngineErrors]) -> EngineErrors:
        """The largest of each; 0 without any."""
        first, second = (largest([each.engines[i] for each in errors]) for i in range(2))
        return cls(
            (first, second),
            largest([each.apart for each in errors]),
            largest([each.control for each in errors]),
        )


@dataclass(frozen=True, slots=True)
class ArrayErrors:
    """The errors of one array of numbers.

    Attributes:
        layer: Name of its layer.
        index: Which of the layer's parameters; for BatchNorm's averages 0 is the mean and 1 the
            variance.
        shape: Its shape.
        gradient: The errors of the gradient of the first update, clipped, before momentum, decay
            and rate; None where there is no gradient. Those of a vanishing one are relative to the
            RMS of the net's gradients.
        weights: The errors of its values after the updates.
        vanishing: Whether its gradient is zero in theory. What an adaptive rule makes of its
            rounding is chance, so its weights aren't judged.
    """

    layer: str
    index: int
    shape: Shape
    gradient: EngineErrors | None
    weights: EngineErrors
    vanishing: bool = False


@dataclass(frozen=True, slots=True)
class EngineLosses:
    """A loss.

    Attributes:
        exact: In double precision.
        engines: Of both engines.
        errors: Their relative errors.
    """

    exact: float
    engines: tuple[float, float]
    errors: EngineErrors


@dataclass(frozen=True)
class EngineVerification:
    """One training on two engines, measured.

    Attributes:
        engines: Their names: the one that is verified, and the one that it is verified against.
        titles: Their names in sentences.
        batch_size, iter_size: The split that both ran.
        updates: The number of updates after which weights and loss are compared.
        solver_type: Caffe's name of the update rule.
        precision: How exactly the first engine calculated.
        parameters: The errors of the learned parameters.
        statistics: The errors of the averages of BatchNorm layers, as a TEST net would use them.
        first_loss: The loss of the first update, before the weights change.
        loss: The smoothed loss after the updates.
        data: Where the samples came from, one entry for each layer.
        held: How random draws are held equal, one phrase each; empty where nothing is drawn.
        findings: What the audit says about the engine.
        notes: What the user should know about the choice of the split.
    """

    engines: tuple[str, str]
    titles: tuple[str, str]
    batch_size: int
    iter_size: int
    updates: int
    solver_type: str
    precision: Precision
    parameters: tuple[ArrayErrors, ...]
    statistics: tuple[ArrayErrors, ...]
    first_loss: EngineLosses
    loss: EngineLosses
    data: tuple[DataUse, ...]
    held: tuple[str, ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()

    @property
    def gradient(self) -> EngineErrors:
        """The worst errors of any gradient."""
        rows = [row.gradient for row in self.parameters if row.gradient is not None]
        return EngineErrors.worst(rows)

    @property
    def weights(self) -> EngineErrors:
        """The worst errors of any weights, except those whose gradient vanishes."""
        return EngineErrors.worst([row.weights for row in self.parameters if not row.vanishing])

    @property
    def averages(self) -> EngineErrors:
        """The worst errors of any average of a BatchNorm layer."""
        return EngineErrors.worst([row.weights for row in self.statistics])

    @property
    def diverges(self) -> bool:
        """Whether the training itself ends in inf or nan; or beyond single precision, on both."""
        after = (self.weights, self.averages, self.loss.errors)
        return not all(math.isfinite(each.control) for each in after) or any(
            not any(map(math.isfinite, each.engines)) for each in after
        )

    @property
    def judged(self) -> dict[str, EngineErrors]:
        """What is judged, by its name in sentences."""
        first = {"first loss": self.first_loss.errors, "gradient": self.gradient}
        if self.diverges:
            return first
        after = {f"weights after {self.updates} updates": self.weights, "loss": self.loss.errors}
        if self.statistics:
            after["averages"] = self.averages
        return {**first, **after}

    @property
    def agrees(self) -> bool:
        """Whether rounding explains all errors of both engines."""
        return all(each.agree for each in self.judged.values())

    @property
    def judgement(self) -> Judgement:
        """Whether both engines train alike, in words with the numbers."""
        one, other = self.titles
        split = f"batch_size {self.batch_size} x iter_size {self.iter_size}"
        if self.agrees:
            sizes = ", ".join(f"{name} {_sizes(each)}" for name, each in self.judged.items())
            text = (
                f"The same training on {one} and {other}, as far as single precision allows: "
                f"{split}, errors of {one} and {other} {sizes}"
            )
        else:
            sizes = ", ".join(
                f"{name} {_sizes(each)}, {each.allowed:.1e} is allowed"
                for name, each in self.judged.items()
                if not each.agree
            )
            named = ", ".join(
                dict.fromkeys(
                    f"{each.cause.value}{f' ({each.layer})' if each.layer else ''}"
                    for each in self.findings
                )
            )
            why = f"; the audit names {named}" if named else ", and the audit names no cause"
            text = (
                f"NOT the same training on {one} as on {other}: {split}, errors of {one} and "
                f"{other} {sizes}{why}"
            )
        return Judgement(True, self.agrees, text)

    def json(self) -> dict[str, Any]:
        """The JSON of ``caffe-batch verify --against``; inf and nan are null."""
        return {
            "engines": list(self.engines),
            "batch_size": self.batch_size,
            "iter_size": self.iter_size,
            "updates": self.updates,
            "solver_type": self.solver_type,
            "precision": self.precision.value,
            "agrees": self.agrees,
            "diverges": self.diverges,
            "verdict": self.judgement.sentence,
            "gradient": self._errors(self.gradient),
            "weights": self._errors(self.weights),
            "batch_norm_averages": self._errors(self.averages) if self.statistics else None,
            "first_loss": self._losses(self.first_loss),
            "loss": self._losses(self.loss),
            "parameters": [self._row(row) for row in self.parameters],
            "statistics": [self._row(row) for row in self.statistics],
            "data": [use.json() for use in self.data],
            "held": list(self.held),
            "audit": [finding.json() for finding in self.findings],
            "notes": list(self.notes),
        }

    def _row(self, row: ArrayErrors) -> dict[str, Any]:
        return {
            "layer": row.layer,
            "index": row.index,
            "shape": list(row.shape),
            "gradient": None if row.gradient is None else self._errors(row.gradient),
            "weights": self._errors(row.weights),
            "vanishing": row.vanishing,
        }

    def _losses(self, losses: EngineLosses) -> dict[str, Any]:
        values = map(_finite, losses.engines)
        return {
            "exact": _finite(losses.exact),
            **dict(zip(self.engines, values, strict=True)),
            "errors": self._errors(losses.errors),
        }

    def _errors(self, errors: EngineErrors) -> dict[str, float | None]:
        values = map(_finite, errors.engines)
        return {
            **dict(zip(self.engines, values, strict=True)),
            "apart": _finite(errors.apart),
            "control": _finite(errors.control),
            "allowed": _finite(errors.allowed),
        }


def _sizes(errors: EngineErrors) -> str:
    return " and ".join(f"{error:.1e}" for error in errors.engines)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None

"""What accumulation changes in a job, as plan.json has it, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from caffe_batch.planning.findings import Scope, Verdict

#: Verdicts that a person should hear of before the training begins.
_WARNED = (Verdict.DIFFERENT, Verdict.UNKNOWN, Verdict.APPROXIMATE)


@dataclass(frozen=True)
class AuditRow:
    """Findings that say the same of several layers.

    Attributes:
        verdict: How the accumulated training compares.
        cause: What makes, or could make, a difference.
        layers: Where; empty for the solver or the whole net.
        explanation: Why, in a sentence.
        change: What the plan sets for it, or what could be done; None for nothing.
        scope: ``training``, ``test`` or ``log``.
    """

    verdict: str
    cause: str
    layers: tuple[str, ...]
    explanation: str
    change: str | None
    scope: str

    @property
    def where(self) -> str:
        """The layers in a few words; empty for the whole net."""
        if not self.layers:
            return ""
        more = len(self.layers) - 1
        return self.layers[0] + (f" and {more} more" if more else "")


def audit_rows(audit: Sequence[Mapping[str, Any]]) -> list[AuditRow]:
    """The findings of plan.json, those that say the same in one row, in their order."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    for finding in audit:
        key = (
            finding.get("verdict"),
            finding.get("cause"),
            finding.get("explanation"),
            finding.get("change"),
            finding.get("scope", Scope.TRAINING.value),
        )
        layer = finding.get("layer")
        groups.setdefault(key, []).extend([] if layer is None else [str(layer)])
    return [
        AuditRow(str(verdict), str(cause), tuple(layers), str(why), change, str(scope))
        for (verdict, cause, why, change, scope), layers in groups.items()
    ]


def audit_warnings(audit: Sequence[Mapping[str, Any]]) -> list[str]:
    """What of the audit touches the training and is not the same: a sentence each, worst first.

    >>> audit_warnings([{"cause": "batch_norm_statistics", "layer": layer, "verdict": "different",
    ...                  "explanation": "So it is."} for layer in ("bn1", "bn2")])
    ['accumulation makes batch_norm_statistics (bn1 and 1 more) different: So it is.']
    """
    rows = [
        row
        for verdict in _WARNED
        for row in audit_rows(audit)
        if row.verdict == verdict.value and row.scope == Scope.TRAINING.value
    ]
    return [
        f"accumulation makes {row.cause}{f' ({row.where})' if row.where else ''} {row.verdict}: "
        f"{row.explanation}"
        for row in rows
    ]

"""The audit of plan.json, prepared for display: what accumulation changes in a job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from caffe_batch.planning.audit.findings import Scope, Verdict

#: Verdicts to warn about before the training begins.
_WARNED = (Verdict.DIFFERENT, Verdict.UNKNOWN, Verdict.APPROXIMATE)

#: What makes the difference, by the scope of a finding.
_WHO = {Scope.TRAINING.value: "accumulation", Scope.ENGINE.value: "the engine"}


@dataclass(frozen=True)
class AuditRow:
    """Findings that are the same for several layers.

    Attributes:
        verdict: How the accumulated training compares.
        cause: What makes, or could make, a difference.
        layers: The layers; empty for the solver or the whole net.
        explanation: Why, in a sentence.
        change: What the plan changes for it in the first of the layers, or what could be done; None
            if nothing.
        scope: ``training``, ``test``, ``log`` or ``engine``.
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
    """The findings of plan.json in their order, with equal ones in one row."""
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for finding in audit:
        key = tuple(str(finding.get(name)) for name in ("verdict", "cause", "explanation", "scope"))
        groups.setdefault(key, []).append(finding)
    return [
        AuditRow(
            verdict=verdict,
            cause=cause,
            layers=tuple(str(each["layer"]) for each in equal if each.get("layer") is not None),
            explanation=explanation,
            change=equal[0].get("change"),
            scope=scope,
        )
        for (verdict, cause, explanation, scope), equal in groups.items()
    ]


def audit_warnings(audit: Sequence[Mapping[str, Any]]) -> list[str]:
    """The findings that make the training different: a sentence each, worst first.

    What accumulation does comes before what the engine does.

    >>> audit_warnings([{"cause": "batch_norm_statistics", "layer": layer, "verdict": "different",
    ...                  "explanation": "So it is.", "scope": "training"}
    ...                 for layer in ("bn1", "bn2")])
    ['accumulation makes batch_norm_statistics (bn1 and 1 more) different: So it is.']
    """
    rows = [
        row
        for scope in _WHO
        for verdict in _WARNED
        for row in audit_rows(audit)
        if row.verdict == verdict.value and row.scope == scope
    ]
    return [
        f"{_WHO[row.scope]} makes {row.cause}{f' ({row.where})' if row.where else ''} "
        f"{row.verdict}: {row.explanation}"
        for row in rows
    ]

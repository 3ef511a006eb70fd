"""What a rule found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing a rule saw at one site.

    Args:
        rule: Name of the rule.
        severity: `"error"`, `"warning"` or `"info"`.
        site: Name of the site.
        first_step: First observed step of what was found.
        last_step: Last observed step of what was found.
        message: What was seen, in one or two plain sentences.
        evidence: The numbers behind the message, and the thresholds they were held against.
        remedy: What to do about it.

    Example:
        >>> Finding("dead_units", "warning", "conv_1", 40, 90, "Half is off.").to_json()["site"]
        'conv_1'
    """

    rule: str
    severity: Severity
    site: str
    first_step: int
    last_step: int
    message: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    remedy: str = ""

    def to_json(self) -> dict[str, Any]:
        """The finding as a JSON object."""
        return {**asdict(self), "evidence": dict(self.evidence)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Finding:
        """The finding that `to_json` wrote; a field of a later version is left out.

        Args:
            value: The JSON object.
        """
        severity = value.get("severity", "info")
        return cls(
            rule=str(value.get("rule", "unknown")),
            severity=severity if severity in SEVERITIES else "info",
            site=str(value.get("site", "")),
            first_step=int(value.get("first_step", 0)),
            last_step=int(value.get("last_step", 0)),
            message=str(value.get("message", "")),
            evidence=dict(value.get("evidence", {})),
            remedy=str(value.get("remedy", "")),
        )


def by_severity(findings: list[Finding]) -> list[Finding]:
    """The findings, the most severe first; among equals the order stays."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))

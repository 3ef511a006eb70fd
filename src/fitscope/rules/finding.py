"""What a rule found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

Severity = Literal["fault", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("fault", "warning", "note")
# What runs of fitscope 0.1 hold.
_EARLIER: Mapping[str, Severity] = {"error": "fault", "info": "note"}

Stage = Literal["contract", "training"]
"""Before the first step, from model, settings and data; or from what a run recorded."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing a rule saw at one site.

    Args:
        rule: Id of the rule.
        severity: `"fault"`, `"warning"` or `"note"`.
        site: Where: the name of a site or layer; `"x"`, `"y"`, `"loss"`, `"optimizer"` or `"fit"`.
        first_step: First observed step of what was found; 0 for the contract.
        last_step: Last observed step of what was found; 0 for the contract.
        message: What was seen, in one plain sentence.
        evidence: The numbers behind the message, and the thresholds they were held against.
        remedy: The first thing to try.
        why: Why it matters.
        confidence: How sure the rule is that this is a fault of the training, 0 to 1.
        stage: `"contract"` or `"training"`.
        consequences: Findings that this one explains.
        explains: Ids of rules whose findings follow from this one's; `None` for all that its rule
            names.

    Example:
        >>> print(Finding("dead_units", "warning", "conv_1", 40, 90, "Half is off."))
        warning  conv_1, steps 40 to 90: Half is off. [dead_units]
    """

    rule: str
    severity: Severity
    site: str
    first_step: int
    last_step: int
    message: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    remedy: str = ""
    why: str = ""
    confidence: float = 1.0
    stage: Stage = "training"
    consequences: tuple[Finding, ...] = ()
    explains: tuple[str, ...] | None = None

    @property
    def since(self) -> str:
        """When it was, in words."""
        if self.stage == "contract":
            return "before the first step"
        if self.first_step == self.last_step:
            return f"step {self.first_step}"
        return f"steps {self.first_step} to {self.last_step}"

    @property
    def lines(self) -> list[str]:
        """The finding for people, three lines at most: what and where, why, what to try."""
        text = [f"{self.severity}  {self.site}, {self.since}: {self.message} [{self.rule}]"]
        why = self.why
        if self.consequences:
            told = "; ".join(f"{c.rule} at {c.site}" for c in self.consequences[:_MOST])
            more = len(self.consequences) - _MOST
            why += f" It explains: {told}{f' and {more} more' if more > 0 else ''}."
        if why:
            text.append(f"  Why: {why.strip()}")
        if self.remedy:
            text.append(f"  Try: {self.remedy}")
        return text

    def __str__(self) -> str:
        return "\n".join(self.lines)

    def explaining(self, others: Iterable[Finding]) -> Finding:
        """This finding with others as its consequences, and as grave as the gravest of them."""
        told = (*self.consequences, *others)
        gravest = min((self, *told), key=lambda f: SEVERITIES.index(f.severity))
        return replace(self, consequences=told, severity=gravest.severity)

    def to_json(self) -> dict[str, Any]:
        """The finding as a JSON object."""
        value = {each.name: getattr(self, each.name) for each in fields(self)}
        value["evidence"] = dict(self.evidence)
        value["consequences"] = [finding.to_json() for finding in self.consequences]
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Finding:
        """The finding that `to_json` wrote; a field of a later version is left out.

        Args:
            value: The JSON object.
        """
        severity = value.get("severity", "note")
        severity = _EARLIER.get(severity, severity)
        return cls(
            rule=str(value.get("rule", "unknown")),
            severity=severity if severity in SEVERITIES else "note",
            site=str(value.get("site", "")),
            first_step=int(value.get("first_step", 0)),
            last_step=int(value.get("last_step", 0)),
            message=str(value.get("message", "")),
            evidence=dict(value.get("evidence", {})),
            remedy=str(value.get("remedy", "")),
            why=str(value.get("why", "")),
            confidence=float(value.get("confidence", 1.0)),
            stage="contract" if value.get("stage") == "contract" else "training",
            consequences=tuple(cls.from_json(each) for each in value.get("consequences", ())),
            explains=None if value.get("explains") is None else tuple(value["explains"]),
        )


_MOST = 3


class Findings(list[Finding]):
    """Findings, the gravest first; printed, they are sentences.

    Example:
        >>> Findings()
        No findings: the rules saw nothing wrong.
    """

    @property
    def faults(self) -> Findings:
        """Those of severity `"fault"`."""
        return Findings(finding for finding in self if finding.severity == "fault")

    def of(self, rule: str) -> Findings:
        """Those of one rule, consequences included.

        Args:
            rule: Its id.
        """
        found = [f for each in self for f in (each, *each.consequences) if f.rule == rule]
        return Findings(found)

    def to_json(self) -> list[dict[str, Any]]:
        """The findings as JSON objects."""
        return [finding.to_json() for finding in self]

    def __repr__(self) -> str:
        if not self:
            return "No findings: the rules saw nothing wrong."
        noun = "finding" if len(self) == 1 else "findings"
        return "\n".join([f"{len(self)} {noun}", *map(str, self)])


def by_severity(findings: Iterable[Finding]) -> list[Finding]:
    """The findings, the most severe first.

    Among equals those that explain most, then the contract, then the surer one.
    """
    return sorted(findings, key=lambda f: (weight(f)[0], -len(f.consequences), *weight(f)[1:]))


def weight(finding: Finding) -> tuple[int, bool, float]:
    """What comes first: the graver, then what the contract found, then the surer.

    Args:
        finding: The finding.
    """
    is_later = finding.stage != "contract"
    return SEVERITIES.index(finding.severity), is_later, -finding.confidence

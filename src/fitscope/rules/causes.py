"""Findings that share a cause are told as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fitscope.rules.finding import Finding, Findings, by_severity, weight
from fitscope.rules.rule import Rule


def told_once(findings: Sequence[Finding], rules: Mapping[str, Rule]) -> Findings:
    """Put each finding that another one explains under that one.

    A rule names the rules whose findings follow from its own. An explanation must not come later
    than what it explains. A cause takes over the gravest severity among its consequences: inputs of
    a large scale are a warning, and a fault once the training diverges.

    Args:
        findings: All findings.
        rules: The rules by id.
    """
    found = by_severity(findings)
    ranks = _ranks(found, rules)
    ordered = [found[place] for place in sorted(range(len(found)), key=ranks.__getitem__)]
    told: list[Finding] = []
    for finding in ordered:
        causes = [place for place, cause in enumerate(told) if _explains(cause, finding, rules)]
        if causes:
            # Of several, the likeliest: a note must not take what a warning explains as well.
            place = min(causes, key=lambda i: weight(told[i]))
            told[place] = told[place].explaining([finding])
        else:
            told.append(finding)
    return Findings(by_severity(told))


def _explains(cause: Finding, finding: Finding, rules: Mapping[str, Rule]) -> bool:
    known = rules.get(cause.rule)
    if known is None or (cause.stage == "training" and finding.stage == "contract"):
        return False
    explained = known.explains if cause.explains is None else cause.explains
    return finding.rule in explained


def _ranks(findings: Sequence[Finding], rules: Mapping[str, Rule]) -> list[int]:
    """How long the longest chain of causes above each finding is: causes are told before effects.

    Only what was found counts: over all rules the chains form rings, as of updates that are too
    long (which throw weights, which turns units off, which ends updates).
    """
    ranks: dict[int, int] = {}

    def rank(place: int, below: frozenset[int]) -> int:
        if place not in ranks:
            above = [
                other
                for other, cause in enumerate(findings)
                if other not in below and _explains(cause, findings[place], rules)
            ]
            ranks[place] = max((1 + rank(c, below | {place}) for c in above), default=0)
        return ranks[place]

    return [rank(place, frozenset({place})) for place in range(len(findings))]

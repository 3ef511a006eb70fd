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
    ranks = _ranks(rules)
    ordered = sorted(by_severity(findings), key=lambda f: ranks.get(f.rule, 0))
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


def _ranks(rules: Mapping[str, Rule]) -> dict[str, int]:
    """How long the longest chain of causes above each rule is: causes are told before effects."""
    ranks: dict[str, int] = {}

    def rank(name: str, below: frozenset[str]) -> int:
        if name not in ranks:
            above = [r.id for r in rules.values() if name in r.explains and r.id not in below]
            ranks[name] = max((1 + rank(cause, below | {name}) for cause in above), default=0)
        return ranks[name]

    for name in rules:
        rank(name, frozenset({name}))
    return ranks

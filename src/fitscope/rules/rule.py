"""A rule: an id, a sentence for people, and a function that looks for signs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fitscope.errors import FitscopeError
from fitscope.rules.finding import SEVERITIES, Finding, Severity, Stage


@dataclass(frozen=True, slots=True)
class Sign:
    """What a rule's function yields: one thing seen at one site.

    Args:
        site: Where; see `Finding`.
        message: What was seen: one plain sentence with the numbers.
        why: Why it matters.
        remedy: The first thing to try.
        evidence: The numbers, and the thresholds they were held against.
        first_step: First observed step.
        last_step: Last observed step.
        severity: In place of the rule's own.
        confidence: In place of the rule's own.
        explains: In place of the rule's own, and narrower.
    """

    site: str
    message: str
    why: str = ""
    remedy: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    first_step: int = 0
    last_step: int = 0
    severity: Severity | None = None
    confidence: float | None = None
    explains: tuple[str, ...] | None = None


Check = Callable[..., Iterable[Sign]]


@dataclass(frozen=True, slots=True)
class Rule:
    """A named check. Made by `rule`.

    Args:
        id: What it is called in findings and settings.
        sentence: What it looks for, for people.
        severity: How grave a sign is, where the sign does not say.
        stage: `"contract"`: called with a `Fit` before the first step; `"training"`: with a `Run`.
        check: The function.
        explains: Ids of rules whose findings follow from this one's.
        confidence: How sure it is, where the sign does not say.
        settings: Values for the keyword-only arguments of the function.
        fixed_severity: A severity for all its findings, set by the user.
    """

    id: str
    sentence: str
    severity: Severity
    stage: Stage
    check: Check
    explains: tuple[str, ...] = ()
    confidence: float = 1.0
    settings: Mapping[str, Any] = field(default_factory=dict)
    fixed_severity: Severity | None = None

    def __call__(self, subject: Any, **settings: Any) -> list[Finding]:
        """What the rule finds in a `Fit` or a `Run`.

        Args:
            subject: The `Fit` or `Run`.
            **settings: Thresholds in place of the rule's own.
        """
        return [self._finding(s) for s in self.check(subject, **{**self.settings, **settings})]

    @property
    def thresholds(self) -> dict[str, Any]:
        """The values that can be tuned, by name, as they are now."""
        parameters = inspect.signature(self.check).parameters.values()
        known = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
        return {**known, **self.settings}

    def tuned(self, changes: Mapping[str, Any]) -> Rule:
        """The rule with other thresholds, or another severity.

        Args:
            changes: By name; `severity` is one, too.

        Raises:
            FitscopeError: The rule has no such threshold, or there is no such severity.
        """
        changes = dict(changes)
        severity = changes.pop("severity", self.fixed_severity)
        if severity is not None and severity not in SEVERITIES:
            raise FitscopeError(
                f"rule {self.id!r}: the severity {severity!r} is not one of "
                f"{', '.join(SEVERITIES)}."
            )
        unknown = sorted(set(changes) - set(self.thresholds))
        if unknown:
            known = ", ".join(["severity", *self.thresholds])
            raise FitscopeError(
                f"rule {self.id!r} has no setting {unknown[0]!r}. It can be tuned by: {known}; "
                "False silences it."
            )
        return replace(self, settings={**self.settings, **changes}, fixed_severity=severity)

    def _finding(self, sign: Sign) -> Finding:
        return Finding(
            rule=self.id,
            severity=self.fixed_severity or sign.severity or self.severity,
            site=sign.site,
            first_step=sign.first_step,
            last_step=sign.last_step,
            message=sign.message,
            evidence=sign.evidence,
            remedy=sign.remedy,
            why=sign.why,
            confidence=self.confidence if sign.confidence is None else sign.confidence,
            stage=self.stage,
            explains=sign.explains,
        )


def rule(
    id: str,  # noqa: A002 - the field's word
    sentence: str,
    *,
    severity: Severity = "warning",
    stage: Stage = "training",
    explains: Iterable[str] = (),
    confidence: float = 1.0,
) -> Callable[[Check], Rule]:
    """Make a rule of a function that yields a `Sign` for each thing it sees.

    Args:
        id: What the rule is called in findings and settings.
        sentence: What it looks for, for people.
        severity: How grave a sign is.
        stage: `"training"`: the function is given the `Run`; `"contract"`: the `Fit`.
        explains: Ids of rules whose findings follow from this one's and are told with it.
        confidence: How sure it is, 0 to 1.

    Returns:
        A decorator. Keyword-only arguments of the function are its thresholds; users tune them by
        name.

    Example:
        ```python
        @fs.rule("loss_above", "The loss is higher than it should be.", severity="warning")
        def loss_above(run, *, limit=10.0):
            for record in run.history:
                if record["event"] == "epoch" and record["logs"]["loss"] > limit:
                    yield fs.Sign("loss", f"The loss of epoch {record['epoch']} is above {limit}.")

        scope = fs.Scope(rules=[loss_above])
        ```
    """

    def make(check: Check) -> Rule:
        return Rule(id, sentence, severity, stage, check, tuple(explains), confidence)

    return make

"""What a scope keeps and says when a `fit` is over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from fitscope.run.writer import RunWriter

if TYPE_CHECKING:
    from fitscope.rules.finding import Finding
    from fitscope.rules.fit import Fit
    from fitscope.rules.rule import Rule


class Conclusion:
    """Keeps the findings of one run, each once, and tells each once.

    Args:
        rules: The rules by id.
    """

    def __init__(self, rules: Mapping[str, Rule]) -> None:
        self._known: set[tuple[str, str, int, str]] = set()
        self._rules = rules

    def new_findings(self, writer: RunWriter) -> list[Finding]:
        """Findings that no earlier `fit` of this run had; they are written into the run."""
        # Imported here: rules stand behind the run, and are of no use to whoever only records.
        from fitscope.rules.registry import findings

        return self._keep(findings(writer.run, self._rules), writer)

    def before_training(self, fit: Fit, writer: RunWriter) -> list[Finding]:
        """What the contract's rules find; written into the run, each once.

        Args:
            fit: The facts of the training.
            writer: The run.
        """
        from fitscope.rules.registry import contract

        return self._keep(contract(fit, self._rules), writer)

    def _keep(self, found: Iterable[Finding], writer: RunWriter) -> list[Finding]:
        fresh: list[Finding] = []
        for finding in found:
            key = (finding.rule, finding.site, finding.first_step, finding.severity)
            if key not in self._known:
                self._known.add(key)
                fresh.append(finding)
                writer.add_finding(finding.to_json())
        return fresh


def warn_before(found: Iterable[Finding]) -> None:
    """Print what the contract found, notes aside, before the first step.

    Args:
        found: The findings that are new.
    """
    from rich.text import Text

    from fitscope.terminal.console import make_console
    from fitscope.terminal.report import findings_text

    told = [finding for finding in found if finding.severity != "note"]
    if told:
        console = make_console()
        text = Text("fitscope, before the first step. ")
        text.append_text(findings_text(told, console.width))
        console.print(text, soft_wrap=True)


def say(found: list[Finding], unseen: int, cost: Mapping[str, Any]) -> None:
    """Print what was watched, what was found and how much was not seen.

    Args:
        found: The findings that are new.
        unseen: How many selected sites were not seen.
        cost: `Scope.cost`.
    """
    from rich.text import Text

    from fitscope.terminal.console import make_console
    from fitscope.terminal.progress import cost_text
    from fitscope.terminal.report import findings_text

    console = make_console()
    text = Text(f"fitscope: {cost_text(cost)}.")
    if unseen:
        text.append(f" Not seen: {unseen}, see scope.unseen.")
    if found:
        text.append("\n")
        text.append_text(findings_text(found, console.width))
    console.print(text, soft_wrap=True)

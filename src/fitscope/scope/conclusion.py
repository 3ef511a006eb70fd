"""What a scope keeps and says when a `fit` is over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fitscope.run.writer import RunWriter

if TYPE_CHECKING:
    from fitscope.rules.finding import Finding


class Conclusion:
    """Keeps the findings of one run, each once, and tells each once."""

    def __init__(self) -> None:
        self._known: set[tuple[str, str, int, str]] = set()

    def new_findings(self, writer: RunWriter) -> list[Finding]:
        """Findings that no earlier `fit` of this run had; they are written into the run."""
        # Imported here: rules stand behind the run, and are of no use to whoever only records.
        from fitscope.rules.registry import findings

        fresh: list[Finding] = []
        for finding in findings(writer.run):
            key = (finding.rule, finding.site, finding.first_step, finding.severity)
            if key not in self._known:
                self._known.add(key)
                fresh.append(finding)
                writer.add_finding(finding.to_json())
        return fresh


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

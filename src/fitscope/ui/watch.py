"""Findings of a run, kept up to date beside the requests."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field, replace
from typing import Any

from fitscope.rules.finding import Finding, by_severity
from fitscope.rules.registry import findings as rules
from fitscope.run.reader import Run
from fitscope.ui.recent import RecentStore, first_step
from fitscope.ui.source import Source

RULE_ROWS = 2_000_000
"""Statistics up to which the rules are run over the whole run; beyond it over its newest steps."""

PAUSE = 200.0
"""Times the last computation took that pass before the next one: the page may run on the machine
that trains."""

EAGER, EAGER_PAUSE = 5, 25.0
"""The first few follow sooner: who has just opened the page waits for them."""

_LEAST_PAUSE = 2.0


@dataclass
class Findings:
    """What the page shows of findings.

    Args:
        found: The findings as JSON objects, the gravest first.
        complete: Whether the rules were run over the run as it is in the page.
        note: What is left to say.
        fresh: Whether they are of the run as it is now, and not of a moment ago.
        wait: Seconds until it is worth asking again.
    """

    found: list[dict[str, Any]] = field(default_factory=list)
    complete: bool = True
    note: str = ""
    fresh: bool = True
    wait: float = 0.0


class FindingsWatch:
    """Computes the findings of one run, not more often than it can afford.

    Args:
        source: The run, for this watch alone.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._latest = Findings()
        self._version: object = None
        self._next = 0.0
        self._count = 0
        self._asked = False

    def latest(self, version: object, rows: int, *, running: bool = True) -> Findings:
        """The findings; those of a moment ago when a new computation would come too soon.

        Args:
            version: Changes when the run has changed.
            rows: How many statistics the run holds.
            running: Whether a training goes on; where none does, nothing is taken from it.
        """
        with self._lock:
            if version == self._version:
                return self._latest
            wait = self._next - time.monotonic() if running else 0.0
            if wait > 0:
                return replace(self._latest, fresh=False, wait=wait)
            if rows > RULE_ROWS and not self._asked:
                # The first picture goes before; what was found earlier is told at once.
                self._asked = True
                stored = [Finding.from_json(value) for value in self._source.run.findings]
                self._latest = _told(_newest(stored), "The rules are looking at it.")
                return replace(self._latest, fresh=False, wait=_LEAST_PAUSE)
            began = time.monotonic()
            self._latest = self._compute(rows)
            took = time.monotonic() - began
            self._count += 1
            pause = took * (EAGER_PAUSE if self._count <= EAGER else PAUSE)
            self._version, self._next = version, began + max(_LEAST_PAUSE, pause)
            return self._latest

    def _compute(self, rows: int) -> Findings:
        run = self._source.run
        stored = _newest([Finding.from_json(value) for value in run.findings])
        note = ""
        try:
            if rows > RULE_ROWS:
                run = Run(RecentStore(self._source.path))
                note = (
                    f"This run holds {rows:,} statistics: the rules looked at its newest steps, "
                    f"from step {first_step(run):,} on. fitscope show RUN looks at all."
                )
            found = [_since(finding, stored) for finding in rules(run)]
        except Exception as error:  # noqa: BLE001 - a rule that fails must not take the page away
            note = f"A rule failed here ({type(error).__name__}: {error})."
            return _told(stored, note)
        known = {(finding.rule, finding.site) for finding in found}
        return _told([*found, *(f for f in stored if (f.rule, f.site) not in known)], note)


def _told(found: list[Finding], note: str) -> Findings:
    return Findings([finding.to_json() for finding in by_severity(found)], not note, note)


def _since(finding: Finding, stored: list[Finding]) -> Finding:
    """A finding, since when it was found first: the newest steps do not tell."""
    same = [f.first_step for f in stored if (f.rule, f.site) == (finding.rule, finding.site)]
    return replace(finding, first_step=min([finding.first_step, *same]))


def _newest(stored: list[Finding]) -> list[Finding]:
    """Of each rule at each site the one that was written last."""
    return list({(finding.rule, finding.site): finding for finding in stored}.values())

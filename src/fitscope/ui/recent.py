"""A long run as its newest steps tell it: for rules, which read all that they are given."""

from __future__ import annotations

from pathlib import Path

from fitscope.run.parts import Part
from fitscope.run.reader import Run
from fitscope.run.store import DiskStore
from fitscope.ui.source import rows_of

RECENT_ROWS = 500_000
"""Statistics that are read at least, where the run has as many; whole files, so up to half as many
more."""


class RecentStore(DiskStore):
    """A run directory of which only the newest files are read.

    Args:
        path: The run directory.
        rows: How many rows of a stream to read at least.
    """

    def __init__(self, path: Path, rows: int = RECENT_ROWS) -> None:
        super().__init__(path)
        self._rows = rows

    def parts(self, kind: str) -> list[Part]:
        """The newest ones, in order."""
        kept: list[Part] = []
        rows = 0
        for part in reversed(super().parts(kind)):
            kept.insert(0, part)
            rows += rows_of(part)
            if rows >= self._rows:
                break
        return kept


def first_step(run: Run) -> int:
    """The first training step that such a run still has; 0 where it has none."""
    for site in run.sites:
        steps = run.stats(site.name, "count", phase="train").to_arrow().column("step")
        if len(steps):
            return int(steps[0].as_py())
    return 0

"""Which steps were edited and how strongly, for the run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

_MOST = 256
"""Ranges of steps in one record."""


@dataclasses.dataclass
class _Edited:
    """The steps of one phase in which one edit has acted since the last record."""

    ranges: list[list[int]] = dataclasses.field(default_factory=list)
    """First and last step of each run of neighbouring ones."""
    strengths: list[list[float]] = dataclasses.field(default_factory=list)
    """The strength in the first and in the last step of each."""
    least: float = float("inf")
    most: float = float("-inf")
    announced: list[tuple[int, float]] = dataclasses.field(default_factory=list)
    """The steps of the last execution, which may not all run."""

    def settle(self, steps: int) -> None:
        """Take in what was announced and ran: the steps before the `steps`-th."""
        for step, strength in self.announced:
            if step < steps:
                self._add(step, strength)
        self.announced.clear()

    def _add(self, step: int, strength: float) -> None:
        if self.ranges and self.ranges[-1][1] == step - 1:
            self.ranges[-1][1] = step
            self.strengths[-1][1] = strength
        else:
            self.ranges.append([step, step])
            self.strengths.append([strength, strength])
        self.least, self.most = min(self.least, strength), max(self.most, strength)


class EditedSteps:
    """Collects the steps in which edits act, and records them in ranges.

    Args:
        names: of the edits.
        record: called with each record: `{"event": "edited", "edit", "phase", "steps", "ranges":
            [[first, last], ...], "strengths": [[at first, at last], ...], "least", "most"}`.
    """

    def __init__(self, names: Sequence[str], record: Callable[[dict[str, Any]], None]) -> None:
        self._names = tuple(names)
        self._record = record
        self._open: dict[tuple[str, str], _Edited] = {}

    def add(self, phase: str, first: int, strengths: Sequence[Sequence[float | None]]) -> None:
        """Note an execution that is about to run; those before it have run.

        Args:
            phase: the phase.
            first: its first step.
            strengths: by step, of each edit; None for not at all.
        """
        for (name, its_phase), edited in list(self._open.items()):
            if its_phase == phase:
                edited.settle(first)
                if len(edited.ranges) >= _MOST:
                    self._write(name, phase)
        for step, row in enumerate(strengths, first):
            for name, strength in zip(self._names, row, strict=True):
                if strength is not None:
                    edited = self._open.setdefault((name, phase), _Edited())
                    edited.announced.append((step, strength))

    def flush(self, phase: str, steps: int) -> None:
        """Record what was noted of a phase.

        Args:
            phase: the phase.
            steps: how many steps of it have run; later ones were announced and did not.
        """
        for name, its_phase in list(self._open):
            if its_phase == phase:
                self._open[name, phase].settle(steps)
                self._write(name, phase)

    def _write(self, name: str, phase: str) -> None:
        edited = self._open.pop((name, phase))
        if not edited.ranges:
            return
        self._record(
            {
                "event": "edited",
                "edit": name,
                "phase": phase,
                "steps": sum(last - first + 1 for first, last in edited.ranges),
                "ranges": edited.ranges,
                "strengths": edited.strengths,
                "least": edited.least,
                "most": edited.most,
            }
        )

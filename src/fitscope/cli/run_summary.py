"""What `fitscope show` says of a run, before it is laid out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fitscope.cli.extent import Extent, extents_of
from fitscope.errors import RunError
from fitscope.rules.finding import Finding, Findings, by_severity
from fitscope.rules.registry import RULES
from fitscope.rules.registry import findings as findings_of
from fitscope.rules.series import series_of
from fitscope.run.reader import open_run
from fitscope.statistics.moments import COLUMNS, DERIVED, derive, merge
from fitscope.terminal.rows import SiteRow, site_rows

if TYPE_CHECKING:
    from fitscope.run.reader import Run
    from fitscope.select.unseen import Unseen

StepRange = tuple[int | None, int | None]


@dataclass(frozen=True, slots=True, eq=False)
class RunSummary:
    """What `fitscope show` says of a run."""

    run: Run
    phase: str
    steps: range
    extents: Mapping[str, Extent]
    rows: Sequence[SiteRow]
    unseen: Sequence[Unseen]
    findings: Sequence[Finding]

    def with_histograms(self, rows: Sequence[SiteRow]) -> list[SiteRow]:
        """Rows with their histograms, read for these rows alone.

        Args:
            rows: Some of `self.rows`.
        """
        return [
            replace(
                row,
                histogram=np.asarray(
                    self.run.histogram(row.site, steps=self.steps, phase=self.phase).counts
                ),
            )
            for row in rows
        ]

    def to_json(self) -> dict[str, Any]:
        """The summary as a JSON object; what is not known is null."""
        value = {
            "run": str(self.run.path),
            "status": self.run.status,
            "config": dict(self.run.config),
            "phase": self.phase,
            "steps": {"from": self.steps.start, "to": self.steps.stop},
            "observed": {phase: asdict(extent) for phase, extent in self.extents.items()},
            "sites": [_row_json(row) for row in self.rows],
            "unseen": [gap.to_json() for gap in self.unseen],
            "findings": [finding.to_json() for finding in self.findings],
        }
        return plain(value)


def summarize(
    path: str | Path, *, phase: str = "train", steps: StepRange | None = None, select: str = "**"
) -> RunSummary:
    """Read a run's summary.

    Args:
        path: The run directory.
        phase: The phase to summarize.
        steps: First step and the one after the last; the last observed step by default.
        select: The sites.

    Raises:
        RunError: It is no run, or holds nothing of that phase or of those steps.
        SelectionError: No site is selected.
    """
    run = open_run(path)
    extents = extents_of(run)
    extent = extents.get(phase, Extent())
    if extent.last is None and (extents or steps is not None):
        held = ", ".join(extents) or "no phase yet"
        raise RunError(f"{path} holds no observed {phase} step; it holds: {held}.")
    last = extent.last if extent.last is not None else -1
    wanted = range(max(last, 0), last + 1) if steps is None else _range(steps, last)
    values = _merged(run, select, phase, wanted) if last >= 0 else {}
    if last >= 0 and not values:
        raise RunError(
            f"{path} holds no observed {phase} step from {wanted.start} to {wanted.stop - 1}; "
            f"observed are {extent.observed} steps from {extent.first} to {extent.last}."
        )
    rows = site_rows(run.sites, values)
    shown = {row.site for row in rows}
    return RunSummary(
        run=run,
        phase=phase,
        steps=wanted,
        extents=extents,
        rows=rows,
        unseen=list(run.unseen),
        findings=[f for f in all_findings(run) if select == "**" or f.site in shown],
    )


def all_findings(run: Run) -> Findings:
    """The findings of the rules, and those the run holds from elsewhere.

    Args:
        run: The run.
    """
    found = findings_of(run)
    known = {(part.rule, part.site) for each in found for part in (each, *each.consequences)}
    stored = [Finding.from_json(value) for value in run.findings]
    elsewhere = [f for f in stored if (f.rule, f.site) not in known and f.rule not in RULES]
    return Findings(by_severity([*found, *elsewhere]))


def _merged(run: Run, select: str, phase: str, steps: range) -> dict[str, dict[str, float]]:
    """All statistics of each site over the steps together."""
    merged: dict[str, dict[str, float]] = {}
    for site, series in series_of(run, COLUMNS, select, phase, steps).items():
        moments = _together(np.stack([series[name] for name in COLUMNS], axis=-1))
        merged[site] = {name: float(derive(moments, name)) for name in (*COLUMNS, *DERIVED)}
    return merged


def _together(moments: NDArray[np.float64]) -> NDArray[np.float64]:
    """Merge `[steps, columns]` in pairs, which keeps rounding at the logarithm of the steps."""
    while len(moments) > 1:
        half = len(moments) // 2
        pairs = merge(moments[:half], moments[half : 2 * half])
        moments = np.concatenate([pairs, moments[2 * half :]])
    return moments[0]


def _range(steps: StepRange, last: int) -> range:
    first, stop = steps
    return range(first or 0, last + 1 if stop is None else stop)


def _row_json(row: SiteRow) -> dict[str, Any]:
    names = ("mean", "rms", "zeros", "dead", "saturated", "nonfinite")
    return {
        "site": row.site,
        "class": row.layer_class,
        "shape": list(row.shape),
        **{name: getattr(row, name) for name in names},
    }


def plain(value: Any) -> Any:
    """What JSON can say; it has no NaN, so null says "not known".

    Args:
        value: A tree of mappings, lists and values.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (str, int, float)) else str(value)

"""Several statistics of one site over time: every file is read once for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fitscope.run.layout import ROLLUP, Span, rollup_name
from fitscope.run.parts import Part, Rows, SegmentPart
from fitscope.run.query import moments_of
from fitscope.run.rollup import rollup_columns
from fitscope.run.schema import phase_codes
from fitscope.run.statistic_names import compute, needed
from fitscope.ui.blocks import FINE, Blocks

Lines = NDArray[np.float64]
"""`[blocks, 3 + 3 * statistics]`: first step, last step, observations; then of each statistic its
minimum, mean and maximum. Steps are whole numbers up to 2**53, which float64 holds."""


@dataclass(slots=True, eq=False)
class SiteLines:
    """What the sealed rollups say of one site, by segment and phase; it grows with the run.

    Args:
        statistics: The statistics, in the order of the columns.
        lines: By segment, its lines by phase.
    """

    statistics: tuple[str, ...]
    lines: dict[Span, dict[int, Lines]] = field(default_factory=dict)

    def arrays(self) -> list[NDArray[Any]]:
        """Everything that takes memory."""
        return [lines for phases in self.lines.values() for lines in phases.values()]

    def read(self, parts: Sequence[SegmentPart], site: int) -> None:
        """Read the segments that are new, and forget those that were merged."""
        known = self.lines
        self.lines = {}
        for part in parts:
            found = known.get(part.span)
            self.lines[part.span] = rolled(part, self.statistics, site) if found is None else found

    def of(self, part: SegmentPart, phase: int) -> Lines:
        """The lines of a segment."""
        return self.lines[part.span].get(phase, nothing(self.statistics))


def nothing(statistics: Sequence[str]) -> Lines:
    """No lines."""
    return np.empty((0, 3 + 3 * len(statistics)))


def rolled(part: SegmentPart, statistics: Sequence[str], site: int) -> dict[int, Lines]:
    """The rollup of a segment for one site, by phase; without a rollup its single observations."""
    path = part.path.parent.parent / ROLLUP / rollup_name(FINE, part.span)
    names = [f"{name}.{reduction}" for name in statistics for reduction in ("min", "mean", "max")]
    wanted = ["step", "last_step", "rows", *names]
    try:
        # See `read_rollup` for how it is opened.
        with pq.ParquetFile(path, pre_buffer=False) as file:
            table = file.read(columns=["site", "phase", *wanted], use_threads=False)
    except FileNotFoundError:
        codes = range(4)
        return {code: exact(part, statistics, code, site) for code in codes}
    # The file is in the order of sites.
    start, stop = np.searchsorted(table.column("site").to_numpy(), (site, site + 1))
    table = table.slice(int(start), int(stop - start))
    columns = rollup_columns(table, wanted)
    codes = phase_codes(table)
    lines = np.stack([columns[name].astype(np.float64) for name in wanted], axis=1)
    return {int(code): lines[codes == code] for code in np.unique(codes)}


def exact(part: Part, statistics: Sequence[str], phase: int, site: int) -> Lines:
    """Every observation of a site in a part as a line of its own."""
    columns = needed(list(statistics))
    table = part.read(columns, Rows(sites=np.array([site]), phase=phase))
    moments = moments_of(table, columns)
    step = table.column("step").to_numpy().astype(np.float64)
    lines = np.empty((len(step), 3 + 3 * len(statistics)))
    lines[:, 0] = lines[:, 1] = step
    lines[:, 2] = 1
    for place, name in enumerate(statistics):
        lines[:, 3 + 3 * place : 6 + 3 * place] = compute(moments, name)[:, None]
    return lines


def blocks_of(lines: Lines, place: int, site: int) -> Blocks:
    """One statistic of the lines, as blocks."""
    first, last, rows = (lines[:, i].astype(np.int64) for i in range(3))
    low, mean, high = (np.ascontiguousarray(lines[:, 3 + 3 * place + i]) for i in range(3))
    return Blocks(np.full(len(lines), site, np.int32), first, last, rows, low, mean, high)

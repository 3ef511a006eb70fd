"""A run's statistic as blocks: stretches of observations of a site with minimum, mean, maximum.

A block is one observation, or what a rollup made of 64. What is sealed never changes, so its
blocks are read once; the hot end of a run is read anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fitscope.run.layout import ROLLUP, rollup_name
from fitscope.run.parts import Part, Rows, SegmentPart
from fitscope.run.query import moments_of
from fitscope.run.rollup import LEVELS, rollup_columns
from fitscope.run.schema import PHASE_CODES, phase_codes
from fitscope.run.statistic_names import compute, needed

FINE, COARSE = LEVELS


@dataclass(slots=True, eq=False)
class Blocks:
    """Blocks of one statistic in one phase, by site and then by time.

    Args:
        site: int32 `[n]`, indices of sites.
        first: int64 `[n]`, the first step of each block.
        last: int64 `[n]`, the last one.
        rows: int64 `[n]`, observations.
        low: float64 `[n]`.
        mean: float64 `[n]`.
        high: float64 `[n]`.
    """

    site: NDArray[np.int32]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    rows: NDArray[np.int64]
    low: NDArray[np.float64]
    mean: NDArray[np.float64]
    high: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.site)

    def arrays(self) -> list[NDArray[Any]]:
        """The columns."""
        return [getattr(self, field.name) for field in fields(self)]

    def take(self, places: Any) -> Blocks:
        """Some of the blocks."""
        first = self.first[places]
        last = first if self.last is self.first else self.last[places]
        mean = self.mean[places]
        single = self.low is self.mean
        low = mean if single else self.low[places]
        high = mean if single else self.high[places]
        return Blocks(self.site[places], first, last, self.rows[places], low, mean, high)

    def of_site(self, site: int) -> Blocks:
        """The blocks of one site."""
        start, stop = np.searchsorted(self.site, (site, site + 1))
        return self.take(slice(int(start), int(stop)))

    @classmethod
    def empty(cls) -> Blocks:
        """No blocks."""
        whole, real = np.empty(0, np.int64), np.empty(0)
        return cls(np.empty(0, np.int32), whole, whole, whole, real, real, real)


def joined(parts: Sequence[Blocks]) -> Blocks:
    """Blocks of several stretches of time, in their order, as one."""
    parts = [part for part in parts if len(part)]
    if not parts:
        return Blocks.empty()
    if len(parts) == 1:
        return parts[0]
    site = np.concatenate([part.site for part in parts])
    # 16-bit integers are sorted by radix.
    small = site.astype(np.uint16) if site.max() < 65_536 else site
    order = np.argsort(small, kind="stable")
    columns = [
        np.concatenate([getattr(part, field.name) for part in parts])[order]
        for field in fields(Blocks)
    ]
    return Blocks(*columns)


def read_fine(part: SegmentPart, statistic: str) -> dict[int, Blocks] | None:
    """The rollup beside a segment, by phase; None where there is none."""
    return read_rollup(part.path.parent.parent / ROLLUP / rollup_name(FINE, part.span), statistic)


def read_rollup(path: Path, statistic: str) -> dict[int, Blocks] | None:
    """A rollup file, by phase; None where there is none."""
    names = [f"{statistic}.{reduction}" for reduction in ("min", "mean", "max")]
    wanted = ["site", "step", "last_step", "rows", *names]
    try:
        # Many small reads: read-ahead and threads cost more than they bring.
        with pq.ParquetFile(path, pre_buffer=False) as file:
            only = _only_phase(file.metadata)
            asked = wanted if only is not None else [*wanted, "phase"]
            table = file.read(columns=asked, use_threads=False)
    except FileNotFoundError:
        return None
    columns = rollup_columns(table, wanted)
    if only is not None:
        return {only: _blocks(columns, names, slice(None))}
    codes = phase_codes(table)
    return {
        int(phase): _blocks(columns, names, np.flatnonzero(codes == phase))
        for phase in np.unique(codes)
    }


def _blocks(columns: dict[str, NDArray[Any]], names: Sequence[str], kept: Any) -> Blocks:
    low, mean, high = (columns[name][kept].astype(np.float64, copy=False) for name in names)
    return Blocks(
        columns["site"][kept].astype(np.int32, copy=False),
        columns["step"][kept],
        columns["last_step"][kept],
        columns["rows"][kept].astype(np.int64, copy=False),
        low,
        mean,
        high,
    )


def _only_phase(metadata: pq.FileMetaData) -> int | None:
    """The phase of a file that holds one, as its own statistics tell."""
    column = metadata.schema.names.index("phase")
    found: set[Any] = set()
    for group in range(metadata.num_row_groups):
        told = metadata.row_group(group).column(column).statistics
        if told is None or not told.has_min_max or told.min != told.max:
            return None
        found.add(told.min)
    return PHASE_CODES.get(str(found.pop())) if len(found) == 1 else None


def read_exact(part: Part, statistic: str, phase: int, sites: Any = None) -> Blocks:
    """Every observation of a part as a block of its own."""
    columns = needed([statistic])
    table = part.read(columns, Rows(sites=sites, phase=phase))
    return single(table, compute(moments_of(table, columns), statistic))


def single(table: Any, values: NDArray[np.float64]) -> Blocks:
    """Rows of a stream as blocks of one observation."""
    site = table.column("site").to_numpy().astype(np.int32, copy=False)
    step = table.column("step").to_numpy()
    blocks = Blocks(site, step, step, np.ones(len(site), np.int64), values, values, values)
    if len(site) and (site[1:] < site[:-1]).any():
        blocks = blocks.take(np.argsort(site, kind="stable"))
    return blocks

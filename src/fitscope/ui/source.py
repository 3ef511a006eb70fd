"""The blocks of one open run, read once and kept within a bound."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fitscope.errors import FitscopeError, StatisticError
from fitscope.run.histograms import SparseRows
from fitscope.run.layout import RUN_FILE
from fitscope.run.parts import BatchesPart, Part, Rows, SegmentPart
from fitscope.run.reader import Run
from fitscope.run.record import PHASES
from fitscope.run.statistic_names import COLUMN_STATISTICS
from fitscope.run.store import DiskStore
from fitscope.statistics.descriptions import ALL, HISTOGRAM_DESCRIPTIONS
from fitscope.ui.blocks import Blocks, joined, read_exact, read_fine, single
from fitscope.ui.cache import ByteCache

EXACT_ROWS = 700_000
"""Observations up to which a picture is made of single ones and not of rollups."""

EXACT_PARTS = 48
OTHER_ROWS = 3_000_000
"""Observations up to which a statistic that is in no rollup is drawn."""

_ATTEMPTS = 20


class TooLargeError(FitscopeError):
    """The page would have to read more than it can in a moment."""


class Source:
    """Reads one run for the page.

    Not for several threads at once; hold `lock`.

    Args:
        path: The run directory.
        cache: Where blocks are kept.
    """

    def __init__(self, path: Path, cache: ByteCache) -> None:
        self.path = path
        self.store = DiskStore(path)
        self.run = Run(self.store)
        self.lock = threading.RLock()
        self._cache = cache
        # A run that was deleted and made again has the same names and other data.
        self.identity = identity(path)

    def blocks(
        self,
        statistic: str,
        phase: str,
        steps: tuple[int, int] | None = None,
        sites: NDArray[np.int64] | None = None,
    ) -> Blocks:
        """Blocks that cover some steps: single observations where these are few, else rollups.

        Args:
            statistic: Its name.
            phase: The phase.
            steps: First and last step; None for all.
            sites: Site indices, ascending; None for all. Blocks of others may come, too.

        Raises:
            StatisticError: There is no such statistic.
            TooLargeError: The statistic is in no rollup, and the steps are too many.
        """
        code = PHASES.index(phase)
        for attempt in range(_ATTEMPTS):
            try:
                if statistic not in COLUMN_STATISTICS:
                    return self._others(statistic, code, steps)
                return self._blocks(statistic, code, steps, sites)
            except FileNotFoundError:  # merged into a larger segment since it was listed
                if attempt == _ATTEMPTS - 1:
                    raise
        return Blocks.empty()

    def overview(self, statistic: str, phase: str) -> Blocks:
        """The whole run in its rollups and its hot end."""
        code = PHASES.index(phase)
        for attempt in range(_ATTEMPTS):
            try:
                return self._overview(self.store.parts("stats"), statistic, code)[0]
            except FileNotFoundError:
                if attempt == _ATTEMPTS - 1:
                    raise
        return Blocks.empty()

    def _blocks(
        self, statistic: str, phase: int, steps: tuple[int, int] | None, sites: Any
    ) -> Blocks:
        parts = self.store.parts("stats")
        overview, ranges = self._overview(parts, statistic, phase)
        inside = np.ones(len(overview), bool)
        if steps is not None:
            inside &= (overview.last >= steps[0]) & (overview.first <= steps[1])
        if sites is not None:
            inside &= np.isin(overview.site, sites)
        wanted = [
            part
            for part, (first, last) in zip(parts, ranges, strict=True)
            if first <= last and (steps is None or (last >= steps[0] and first <= steps[1]))
        ]
        exact = (
            int(overview.rows[inside].sum()) <= EXACT_ROWS
            and sum(isinstance(part, SegmentPart) for part in wanted) <= EXACT_PARTS
        )
        if not exact:
            return overview
        few = sites is not None and len(sites) <= 8
        return joined([self._exact(p, statistic, phase, sites if few else None) for p in wanted])

    def _exact(self, part: Part, statistic: str, phase: int, sites: Any) -> Blocks:
        if not isinstance(part, SegmentPart):
            return read_exact(part, statistic, phase, sites)
        chosen = None if sites is None else tuple(int(site) for site in sites)
        key = (self.identity, str(part.path), "exact", statistic, phase, chosen)
        return self._cache.get(key, lambda: read_exact(part, statistic, phase, sites))

    def _overview(
        self, parts: list[Part], statistic: str, phase: int
    ) -> tuple[Blocks, list[tuple[int, int]]]:
        """All blocks, and the steps that each part covers in this phase."""
        sealed = [part for part in parts if isinstance(part, SegmentPart)]
        spans = tuple((part.span.first, part.span.last) for part in sealed)
        key = (self.identity, str(self.path), "overview", statistic, phase)
        known = self._cache.peek(key)
        if known is None or known[0] != spans:
            pieces = [self._fine(part, statistic, phase) for part in sealed]
            known = (spans, joined(pieces), [_range(piece) for piece in pieces])
            self._cache.put(key, known)
        _, blocks, ranges = known
        hot = [read_exact(part, statistic, phase) for part in parts if part not in sealed]
        if not any(len(piece) for piece in hot):
            return blocks, [*ranges, *map(_range, hot)]
        return joined([blocks, *hot]), [*ranges, *map(_range, hot)]

    def _fine(self, part: SegmentPart, statistic: str, phase: int) -> Blocks:
        key = (self.identity, str(part.path), "fine", statistic, phase)

        def make() -> Blocks:
            found = read_fine(part, statistic, phase)
            return read_exact(part, statistic, phase) if found is None else found

        return self._cache.get(key, make)

    def _others(self, statistic: str, phase: int, steps: tuple[int, int] | None) -> Blocks:
        """A statistic from the histograms, or the user's own; it is in no rollup."""
        from_histogram = statistic in HISTOGRAM_DESCRIPTIONS
        if not from_histogram and statistic not in self.run.user_statistics:
            raise StatisticError(
                f"this run holds no statistic {statistic!r}. It has {', '.join(ALL)}."
            )
        kind = "hist" if from_histogram else "extra"
        parts = self.store.parts(kind)
        if steps is not None:
            parts = [part for part in parts if _touches(part, steps)]
        rows = sum(_rows(part) for part in parts)
        if rows > OTHER_ROWS:
            raise TooLargeError(
                f"{statistic} is in no rollup, and here it would be read from {rows:,} rows. Zoom "
                f"in (to about {OTHER_ROWS:,} rows), or choose another statistic."
            )
        return joined([self._other(part, kind, statistic, phase) for part in parts])

    def _other(self, part: Part, kind: str, statistic: str, phase: int) -> Blocks:
        def make() -> Blocks:
            if kind == "hist":
                table = part.read(["bins", "counts"], Rows(phase=phase))
                return single(table, SparseRows(table).statistic(statistic))
            table = part.read(["statistic", "value"], Rows(phase=phase, statistics=[statistic]))
            return single(table, table.column("value").to_numpy())

        if not isinstance(part, SegmentPart):
            return make()
        return self._cache.get((self.identity, str(part.path), kind, statistic, phase), make)


def identity(path: Path) -> tuple[int, int]:
    """Tells a run from a later one of the same name."""
    try:
        stat = (path / RUN_FILE).stat()
    except OSError:
        return (0, 0)
    return (stat.st_ino, stat.st_mtime_ns)


def _range(blocks: Blocks) -> tuple[int, int]:
    if not len(blocks):
        return 0, -1
    return int(blocks.first.min()), int(blocks.last.max())


def _touches(part: Part, steps: tuple[int, int]) -> bool:
    held = steps_of(part)
    return held is None or (held[1] >= steps[0] and held[0] <= steps[1])


def steps_of(part: Part) -> tuple[int, int] | None:
    """The first and the last step of a sealed segment, as its writer noted them."""
    if not isinstance(part, SegmentPart):
        return None
    noted = pq.read_metadata(part.path).metadata or {}
    first, dash, last = noted.get(b"fitscope.steps", b"").decode().partition("-")
    return (int(first), int(last)) if dash and first.isdigit() and last.isdigit() else None


def _rows(part: Part) -> int:
    if isinstance(part, SegmentPart):
        return pq.read_metadata(part.path).num_rows
    if isinstance(part, BatchesPart):
        return sum(batch.num_rows for batch in part.batches)
    return 0

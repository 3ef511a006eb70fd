"""The blocks of one open run, read once and kept within a bound."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fitscope.errors import FitscopeError, StatisticError
from fitscope.run.histograms import SparseRows
from fitscope.run.layout import ROLLUP, RUN_FILE, Span, list_rollups, rollup_name
from fitscope.run.parts import BatchesPart, Part, Rows, SegmentPart
from fitscope.run.reader import Run
from fitscope.run.record import PHASES
from fitscope.run.recorded import Piece
from fitscope.run.statistic_names import COLUMN_STATISTICS
from fitscope.run.store import DiskStore
from fitscope.statistics.descriptions import ALL, HISTOGRAM_DESCRIPTIONS
from fitscope.ui.blocks import COARSE, Blocks, read_exact, read_fine, read_rollup, single
from fitscope.ui.cache import ByteCache
from fitscope.ui.dense import Dense, densified, together
from fitscope.ui.sealed import Pieces, Sealed, steps_covered
from fitscope.ui.site_series import Lines, SiteLines, blocks_of, exact, nothing

EXACT_ROWS = 400_000
"""Observations up to which a picture is made of single ones and not of rollups."""

EXACT_PARTS = 48
OTHER_ROWS = 3_000_000
"""Observations up to which a statistic that is in no rollup is drawn."""

_ATTEMPTS = 20
_T = TypeVar("_T")


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
        self._steps: dict[Path, tuple[int, int] | None] = {}
        # A run that was deleted and made again has the same names and other data.
        self.identity = identity(path)

    def blocks(
        self,
        statistic: str,
        phase: str,
        steps: tuple[int, int] | None = None,
        sites: NDArray[np.int64] | None = None,
    ) -> Dense | Blocks:
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
        if statistic not in COLUMN_STATISTICS:
            return self._again(lambda: self._others(statistic, code, steps))
        return self._again(lambda: self._blocks(statistic, code, steps, sites))

    def of_site(
        self, site: int, statistics: Sequence[str], phase: str, steps: tuple[int, int]
    ) -> dict[str, Blocks]:
        """Blocks of one site: single observations where these are few, else rollups.

        Args:
            site: Its index.
            statistics: Their names; several cost little more than one.
            phase: The phase.
            steps: First and last step.

        Raises:
            StatisticError: There is no such statistic.
            TooLargeError: A statistic is in no rollup, and the steps are too many.
        """
        code = PHASES.index(phase)
        stored = tuple(name for name in statistics if name in COLUMN_STATISTICS)
        found: dict[str, Blocks] = {}
        if stored:
            lines = self._again(lambda: self._lines(site, stored, code, steps))
            found = {name: blocks_of(lines, i, site) for i, name in enumerate(stored)}
        for name in statistics:
            if name not in found:
                found[name] = self.blocks(name, phase, steps, np.array([site])).of_site(site)
        return found

    def _lines(
        self, site: int, statistics: tuple[str, ...], phase: int, steps: tuple[int, int]
    ) -> Lines:
        parts = self.store.parts("stats")
        sealed = [part for part in parts if isinstance(part, SegmentPart)]
        key = (self.identity, str(self.path), "site", site, statistics)
        known: SiteLines = self._cache.peek(key) or SiteLines(statistics)
        known.read(sealed, site)
        self._cache.put(key, known)
        inside = {part.span: _within(known.of(part, phase), steps) for part in sealed}
        rows = sum(int(lines[:, 2].sum()) for lines in inside.values())
        few = sum(len(lines) > 0 for lines in inside.values()) <= EXACT_PARTS
        pieces: list[Lines] = []
        for part in parts:
            if not isinstance(part, SegmentPart):
                pieces.append(exact(part, statistics, phase, site))
            elif not few or rows > EXACT_ROWS:
                pieces.append(known.of(part, phase))
            elif len(inside[part.span]):
                pieces.append(self._exact_lines(part, statistics, phase, site))
        return np.concatenate([nothing(statistics), *pieces])

    def _exact_lines(
        self, part: SegmentPart, statistics: tuple[str, ...], phase: int, site: int
    ) -> Lines:
        key = (self.identity, str(part.path), "lines", statistics, phase, site)
        return self._cache.get(key, lambda: exact(part, statistics, phase, site))

    def quick(self, statistic: str, phase: str) -> Dense | Blocks:
        """The whole run in its coarsest rollups: every extreme is in it, and few files are read."""
        code = PHASES.index(phase)
        return self._again(lambda: self._quick(statistic, code, self.store.parts("stats")))

    def phases(self, statistic: str) -> dict[str, Dense | Blocks]:
        """`quick` of each phase that holds something; the directory is looked into once."""

        def read() -> dict[str, Dense | Blocks]:
            parts = self.store.parts("stats")
            found = {name: self._quick(statistic, i, parts) for i, name in enumerate(PHASES)}
            return {name: blocks for name, blocks in found.items() if len(blocks)}

        return self._again(read)

    def touching(self, parts: Sequence[Part], steps: tuple[int, int]) -> list[Part]:
        """The parts that may hold some steps."""
        return [part for part in parts if self._touches(part, steps)]

    def _touches(self, part: Part, steps: tuple[int, int]) -> bool:
        if not isinstance(part, SegmentPart):
            return True
        # Of hundreds of segments, finding out takes longer than the picture.
        if part.path not in self._steps:
            self._steps[part.path] = _steps_of(part)
        held = self._steps[part.path]
        return held is None or (held[1] >= steps[0] and held[0] <= steps[1])

    def of_piece(self, name: str, piece: Piece, make: Callable[[], Any]) -> Any:
        """What `make` makes of a recorded tensor, kept: what was recorded does not change."""
        key = (self.identity, str(self.path), "units", name, piece.seq)
        return self._cache.get(key, make)

    def _quick(self, statistic: str, phase: int, parts: list[Part]) -> Dense | Blocks:
        sealed = [part for part in parts if isinstance(part, SegmentPart)]
        coarse = list_rollups(self.store.folder / ROLLUP, COARSE)
        known = self._cache.peek((self.identity, str(self.path), "sealed", statistic))
        if not coarse or (known is not None and known.spans == [part.span for part in sealed]):
            return self._overview(statistic, phase, parts)[0]
        rest = [part for part in sealed if not any(span.covers(part.span) for span in coarse)]
        pieces = [self._coarse(span, statistic) for span in coarse]
        pieces += [self._rest(part, statistic) for part in rest]
        hot = [
            densified(read_exact(part, statistic, phase))
            for part in parts
            if not isinstance(part, SegmentPart)
        ]
        return together([piece[phase] for piece in pieces if phase in piece] + hot)

    def _coarse(self, span: Span, statistic: str) -> Pieces:
        path = self.store.folder / ROLLUP / rollup_name(COARSE, span)

        def make() -> Pieces:
            found = read_rollup(path, statistic) or {}
            return {code: densified(blocks) for code, blocks in found.items()}

        return self._cache.get((self.identity, str(path), "coarse", statistic), make)

    def _rest(self, part: SegmentPart, statistic: str) -> Pieces:
        key = (self.identity, str(part.path), "rest", statistic)
        return self._cache.get(key, lambda: _fine(part, statistic))

    @staticmethod
    def _again(read: Callable[[], _T]) -> _T:
        for _ in range(_ATTEMPTS - 1):
            try:
                return read()
            except FileNotFoundError:  # merged into a larger segment since it was listed
                continue
        return read()

    def _blocks(
        self, statistic: str, phase: int, steps: tuple[int, int] | None, sites: Any
    ) -> Dense | Blocks:
        parts = self.store.parts("stats")
        overview, ranges = self._overview(statistic, phase, parts)
        wanted = [
            part
            for part, (first, last) in zip(parts, ranges, strict=True)
            if first <= last and (steps is None or (last >= steps[0] and first <= steps[1]))
        ]
        few = sum(isinstance(part, SegmentPart) for part in wanted) <= EXACT_PARTS
        if not few or _rows_within(overview, steps, sites) > EXACT_ROWS:
            return overview
        chosen = sites if sites is not None and len(sites) <= 8 else None
        return together([self._exact(part, statistic, phase, chosen) for part in wanted])

    def _exact(self, part: Part, statistic: str, phase: int, sites: Any) -> Dense | Blocks:
        if not isinstance(part, SegmentPart):
            return densified(read_exact(part, statistic, phase, sites))
        chosen = None if sites is None else tuple(int(site) for site in sites)
        key = (self.identity, str(part.path), "exact", statistic, phase, chosen)
        return self._cache.get(key, lambda: densified(read_exact(part, statistic, phase, sites)))

    def _overview(
        self, statistic: str, phase: int, parts: list[Part]
    ) -> tuple[Dense | Blocks, list[tuple[int, int]]]:
        """All blocks, and the steps that each part covers in this phase."""
        sealed = [part for part in parts if isinstance(part, SegmentPart)]
        whole = self._sealed(statistic, sealed)
        blocks, ranges = whole.of(phase)
        hot = [
            densified(read_exact(part, statistic, phase))
            for part in parts
            if not isinstance(part, SegmentPart)
        ]
        if any(len(piece) for piece in hot):
            blocks = together([blocks, *hot])
        return blocks, [*ranges, *map(steps_covered, hot)]

    def _sealed(self, statistic: str, parts: list[SegmentPart]) -> Sealed:
        """All rollups of a statistic; only those written since the last time are read."""
        key = (self.identity, str(self.path), "sealed", statistic)
        known: Sealed | None = self._cache.peek(key)
        spans = [part.span for part in parts]
        if known is not None and known.spans == spans:
            self._cache.get(key, lambda: known)  # used just now
            return known
        grown = Sealed.grown(known, spans, lambda place: _fine(parts[place], statistic))
        self._cache.put(key, grown)
        return grown

    def _others(self, statistic: str, phase: int, steps: tuple[int, int] | None) -> Dense | Blocks:
        """A statistic from the histograms, or the user's own; it is in no rollup."""
        from_histogram = statistic in HISTOGRAM_DESCRIPTIONS
        if not from_histogram and statistic not in self.run.user_statistics:
            raise StatisticError(
                f"this run holds no statistic {statistic!r}. It has {', '.join(ALL)}."
            )
        kind = "hist" if from_histogram else "extra"
        parts = self.store.parts(kind)
        if steps is not None:
            parts = self.touching(parts, steps)
        rows = sum(rows_of(part) for part in parts)
        if rows > OTHER_ROWS:
            raise TooLargeError(
                f"{statistic} is in no rollup, and here it would be read from {rows:,} rows. Zoom "
                f"in (to about {OTHER_ROWS:,} rows), or choose another statistic."
            )
        return together([self._other(part, kind, statistic, phase) for part in parts])

    def _other(self, part: Part, kind: str, statistic: str, phase: int) -> Dense | Blocks:
        def make() -> Dense | Blocks:
            if kind == "hist":
                table = part.read(["bins", "counts"], Rows(phase=phase))
                return densified(single(table, SparseRows(table).statistic(statistic)))
            table = part.read(["statistic", "value"], Rows(phase=phase, statistics=[statistic]))
            return densified(single(table, table.column("value").to_numpy()))

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


def _fine(part: SegmentPart, statistic: str) -> Pieces:
    found = read_fine(part, statistic)
    if found is None:
        found = {code: read_exact(part, statistic, code) for code in range(len(PHASES))}
    return {code: densified(blocks) for code, blocks in found.items() if len(blocks)}


def _within(lines: Lines, steps: tuple[int, int]) -> Lines:
    return lines[(lines[:, 1] >= steps[0]) & (lines[:, 0] <= steps[1])]


def _rows_within(blocks: Dense | Blocks, steps: tuple[int, int] | None, sites: Any) -> int:
    """Observations within some steps."""
    inside = np.ones(len(blocks.first), bool)
    if steps is not None:
        inside &= (blocks.last >= steps[0]) & (blocks.first <= steps[1])
    if isinstance(blocks, Dense):
        count = len(blocks.sites) if sites is None else int(np.isin(blocks.sites, sites).sum())
        return int(blocks.rows[inside].sum()) * count
    if sites is not None:
        inside &= np.isin(blocks.site, sites)
    return int(blocks.rows[inside].sum())


def _steps_of(part: SegmentPart) -> tuple[int, int] | None:
    """The first and the last step of a sealed segment, as its writer noted them."""
    noted = pq.read_metadata(part.path).metadata or {}
    first, dash, last = noted.get(b"fitscope.steps", b"").decode().partition("-")
    return (int(first), int(last)) if dash and first.isdigit() and last.isdigit() else None


def rows_of(part: Part) -> int:
    """How many rows a part holds."""
    if isinstance(part, SegmentPart):
        return pq.read_metadata(part.path).num_rows
    if isinstance(part, BatchesPart):
        return sum(batch.num_rows for batch in part.batches)
    return 0

"""Reading a stream as parts in order: sealed segments, the hot end, what is still in memory.

A read projects columns and skips row groups by site, so one series of a long run touches a small
share of the files. All parts give the same columns: the keys, with `phase` as int8 codes, and
the columns asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fitscope.errors import RunFormatError
from fitscope.run.hot import Tail
from fitscope.run.layout import Span, hot_name, list_stream, segment_name
from fitscope.run.schema import KEYS, SCHEMAS, phase_codes

_ATTEMPTS = 20


@dataclass(frozen=True, slots=True)
class Rows:
    """Which rows of a stream to read; `None` means no restriction.

    Args:
        sites: Site indices, ascending.
        phase: A phase code.
        steps: A mask over an array of step numbers.
        statistics: Values of the `statistic` column (`extra` only).
    """

    sites: NDArray[np.int64] | None = None
    phase: int | None = None
    steps: Callable[[NDArray[np.int64]], NDArray[np.bool_]] | None = None
    statistics: Sequence[str] | None = None


class Part(Protocol):
    """A stretch of a stream."""

    def read(self, columns: Sequence[str], rows: Rows) -> pa.Table:
        """The keys and `columns` of the wanted rows, by time within each site."""
        ...


@dataclass(slots=True)
class BatchesPart:
    """A part in memory."""

    kind: str
    batches: Iterable[pa.RecordBatch]

    def read(self, columns: Sequence[str], rows: Rows) -> pa.Table:
        """See `Part.read`."""
        table = pa.Table.from_batches(list(self.batches), SCHEMAS[self.kind])
        return _filtered(table.select([*KEYS, *columns]), rows)


class SegmentPart:
    """A sealed segment; its footer is read once and kept."""

    def __init__(self, folder: Path, span: Span) -> None:
        self.path = folder / segment_name(span)
        self.span = span
        self._metadata: pq.FileMetaData | None = None
        self._groups: NDArray[np.int64] | None = None  # [row groups, first and last site]

    def read(self, columns: Sequence[str], rows: Rows) -> pa.Table:
        """See `Part.read`."""
        try:
            with pq.ParquetFile(self.path, metadata=self._metadata) as file:
                if self._metadata is None:
                    self._metadata = file.metadata
                    self._groups = _site_ranges(file.metadata)
                groups = self._wanted(rows.sites)
                names = [*KEYS, *columns]
                if not len(groups):
                    return _filtered(file.schema_arrow.empty_table().select(names), Rows())
                table = file.read_row_groups(groups, columns=names, use_threads=False)
        except pa.ArrowInvalid as error:
            raise RunFormatError(
                f"{self.path} is not a readable Parquet file ({error}). Move the file away to "
                "read the rest of the run."
            ) from error
        return _filtered(table.select(names), rows)

    def _wanted(self, sites: NDArray[np.int64] | None) -> list[int]:
        ranges = self._groups
        if ranges is None:
            return []
        if sites is None:
            return list(range(len(ranges)))
        # A group holds a wanted site when one lies between its first and its last.
        low = np.searchsorted(sites, ranges[:, 0], side="left")
        high = np.searchsorted(sites, ranges[:, 1], side="right")
        return [int(i) for i in np.flatnonzero(low < high)]


class StreamReader:
    """The files of one stream, listed anew at each read.

    Args:
        folder: The folder of the stream; it may be missing.
        kind: `"stats"`, `"hist"` or `"extra"`.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder = folder
        self.kind = kind
        self._segments: dict[Span, SegmentPart] = {}
        self._tails: dict[int, Tail] = {}

    def parts(self) -> list[Part]:
        """What is on disk now, in order; hot files are read as a side effect."""
        for _ in range(_ATTEMPTS):
            spans, hots = self._listing()
            self._segments = {
                span: self._segments.get(span) or SegmentPart(self.folder, span) for span in spans
            }
            self._tails = {n: self._tails.get(n) or Tail(self.folder / hot_name(n)) for n in hots}
            try:
                batches = [self._tails[n].refresh() for n in hots]
            except FileNotFoundError:
                continue  # sealed since the listing
            parts: list[Part] = [self._segments[span] for span in spans]
            # A copy, because the tail goes on growing.
            parts += [BatchesPart(self.kind, list(read)) for read in batches]
            return parts
        raise RunFormatError(
            f"{self.folder} keeps changing: {_ATTEMPTS} listings named files that were gone when "
            "they were opened. Are two processes writing to it, or is it being deleted?"
        )

    def read(self, columns: Sequence[str], rows: Rows) -> pa.Table:
        """The wanted rows, by time within each site."""
        return read_parts(self.parts, self.kind, columns, rows)

    def _listing(self) -> tuple[list[Span], list[int]]:
        # Listing a directory while a segment is renamed and its predecessor deleted may name
        # neither. That shows as a gap; a gap that stays is real (steps lost to a full disk).
        previous: tuple[list[Span], list[int]] | None = None
        for _ in range(_ATTEMPTS):
            listing = list_stream(self.folder)
            if listing == previous or _contiguous(*listing):
                return listing
            previous = listing
        return list_stream(self.folder)


def read_parts(
    parts: Callable[[], list[Part]], kind: str, columns: Sequence[str], rows: Rows
) -> pa.Table:
    """Read all parts, starting again when one is merged away meanwhile."""
    attempt = 0
    while True:
        try:
            tables = [part.read(columns, rows) for part in parts()]
        except FileNotFoundError:
            attempt += 1
            if attempt == _ATTEMPTS:
                raise
        else:
            return pa.concat_tables([_empty(kind, columns), *tables])


def _contiguous(spans: list[Span], hots: list[int]) -> bool:
    starts = [span.first for span in spans] + hots[:1]
    ends = [0] + [span.last + 1 for span in spans]
    return all(start == end for start, end in zip(starts, ends, strict=False))


def _site_ranges(metadata: pq.FileMetaData) -> NDArray[np.int64]:
    column = metadata.schema.names.index("site")
    ranges = np.empty((metadata.num_row_groups, 2), np.int64)
    for group in range(metadata.num_row_groups):
        statistics = metadata.row_group(group).column(column).statistics
        ranges[group] = (statistics.min, statistics.max)
    return ranges


def _empty(kind: str, columns: Sequence[str]) -> pa.Table:
    return _coded(SCHEMAS[kind].empty_table().select([*KEYS, *columns]))


def _coded(table: pa.Table) -> pa.Table:
    codes = pa.array(phase_codes(table), pa.int8())
    return table.set_column(table.column_names.index("phase"), "phase", codes)


def _filtered(table: pa.Table, rows: Rows) -> pa.Table:
    table = _coded(table)
    mask: NDArray[np.bool_] | None = None
    if rows.sites is not None:
        site = table.column("site").to_numpy()
        mask = site == rows.sites[0] if len(rows.sites) == 1 else np.isin(site, rows.sites)
    if rows.phase is not None:
        mask = _both(mask, table.column("phase").to_numpy() == rows.phase)
    if rows.steps is not None:
        mask = _both(mask, rows.steps(table.column("step").to_numpy()))
    if rows.statistics is not None:
        names = table.column("statistic").to_numpy(zero_copy_only=False)
        mask = _both(mask, np.isin(names.astype(str), list(rows.statistics)))
    return table if mask is None or mask.all() else table.filter(pa.array(mask))


def _both(mask: NDArray[np.bool_] | None, other: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return other if mask is None else mask & other

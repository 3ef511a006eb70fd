"""Sealing: a hot stream becomes a site-major Parquet segment with its rollup.

Everything is written under a temporary name and renamed, and what a new file replaces is deleted
last, so a kill at any instant leaves each record in at least one whole file; a record in two is
recognised by the ranges in the names.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fitscope.run.layout import (
    FORMAT,
    TEMPORARY,
    Span,
    list_rollups,
    list_stream,
    rollup_name,
    segment_name,
)
from fitscope.run.rollup import LEVELS, roll, roll_again, rollup_columns, rollup_table
from fitscope.run.schema import KEYS, SCHEMAS, phase_array, phase_codes
from fitscope.statistics.moments import COLUMNS

SEGMENT_ROWS = 262_144  # a smaller segment is merged with the one after it, up to this size
GROUP_ROWS = 32_768
SECOND_LEVEL_RECORDS = 16_384  # records worth a file of the coarser rollup: four rows of a site

_DICTIONARIES = ("phase", "name", "statistic", "bins.list.element", "counts.list.element")


def seal(
    kind: str,
    batches: Sequence[pa.RecordBatch],
    folder: Path,
    rollups: Path,
    names: Sequence[str],
) -> Span:
    """Write batches as the next segment of a stream, merged with a small one before it.

    Args:
        kind: The stream.
        batches: All batches of the hot file, in order.
        folder: The folder of the stream.
        rollups: The folder of the rollups.
        names: The site names, by index.

    Returns:
        The span of the new segment.

    Raises:
        OSError: The disk refused; nothing has changed but for a temporary file.
    """
    table = pa.Table.from_batches(batches, SCHEMAS[kind])
    seq = table.column("seq").to_numpy()
    span = Span(int(seq[0]), int(seq[-1]))
    segments, _ = list_stream(folder)
    previous = next((s for s in segments if s.last + 1 == span.first), None)
    if previous is not None:
        path = folder / segment_name(previous)
        if pq.read_metadata(path).num_rows + table.num_rows <= SEGMENT_ROWS:
            table = pa.concat_tables([_read_segment(kind, path), table])
            span = Span(previous.first, span.last)
        else:
            previous = None
    _write_segment(kind, table, folder / segment_name(span), rollups, span, names)
    if previous is not None:
        (folder / segment_name(previous)).unlink(missing_ok=True)
        if kind == "stats":
            (rollups / rollup_name(LEVELS[0], previous)).unlink(missing_ok=True)
    if kind == "stats":
        _roll_second_level(folder, rollups, names)
    return span


def _read_segment(kind: str, path: Path) -> pa.Table:
    with pq.ParquetFile(path) as file:
        table = file.read(columns=SCHEMAS[kind].names, use_threads=False)
    phase = phase_array(phase_codes(table))
    return table.set_column(table.column_names.index("phase"), "phase", phase).cast(SCHEMAS[kind])


def _write_segment(
    kind: str, table: pa.Table, path: Path, rollups: Path, span: Span, names: Sequence[str]
) -> None:
    site = table.column("site").to_numpy()
    order = _site_major(site)
    site_names = pa.array(names, pa.string())
    steps = table.column("step").to_numpy()
    schema = SCHEMAS[kind].append(pa.field("name", pa.string(), nullable=False))
    schema = schema.with_metadata(
        {
            "fitscope.format": str(FORMAT),
            "fitscope.steps": f"{int(steps.min())}-{int(steps.max())}",
        }
    )
    gather = _gather_columns if kind == "stats" else _gather_rows
    rolled: list[dict[str, NDArray[Any]]] = []
    with _Replacing(path) as temporary:
        with pq.ParquetWriter(temporary, schema, **_options(schema)) as writer:
            # A few sites at a time: the gathered columns then stay in cache for the rollup.
            for group in gather(kind, table, order, site[order]):
                named = group.append_column(
                    schema.field("name"), site_names.take(group.column("site").combine_chunks())
                )
                writer.write_table(named.cast(schema), row_group_size=GROUP_ROWS)
                if kind == "stats":
                    rolled.append(_rolled(group))
        if kind == "stats":
            # The rollup first: without its segment it is ignored, while a segment without its
            # rollup would have to be rolled up by every reader.
            columns = {name: np.concatenate([r[name] for r in rolled]) for name in rolled[0]}
            _write_rollup(columns, rollups / rollup_name(LEVELS[0], span), names)


def _gather_columns(
    kind: str, table: pa.Table, order: NDArray[np.int64], site: NDArray[np.int32]
) -> Iterator[pa.Table]:
    """Rows in site-major order, whole sites at a time, for columns of plain numbers."""
    columns = {
        name: phase_codes(table) if name == "phase" else table.column(name).to_numpy()
        for name in SCHEMAS[kind].names
    }
    for rows in _site_groups(site):
        arrays = [
            phase_array(column[order[rows]]) if name == "phase" else pa.array(column[order[rows]])
            for name, column in columns.items()
        ]
        yield pa.Table.from_arrays(arrays, schema=SCHEMAS[kind])


def _gather_rows(
    kind: str, table: pa.Table, order: NDArray[np.int64], site: NDArray[np.int32]
) -> Iterator[pa.Table]:
    """The same for columns of any type."""
    del kind
    table = table.combine_chunks()
    for rows in _site_groups(site):
        yield table.take(pa.array(order[rows]))


def _site_groups(site: NDArray[np.int32]) -> Iterator[slice]:
    """Stretches of whole sites with about `GROUP_ROWS` rows."""
    ends = np.append(np.flatnonzero(site[1:] != site[:-1]) + 1, len(site))
    start = 0
    while start < len(site):
        # The last boundary within the size, or the next one when a single site is larger.
        fitting = int(np.searchsorted(ends, start + GROUP_ROWS, side="right")) - 1
        if fitting < 0 or ends[fitting] <= start:
            fitting += 1
        stop = int(ends[fitting])
        yield slice(start, stop)
        start = stop


def _rolled(group: pa.Table) -> dict[str, NDArray[Any]]:
    keys = {
        name: phase_codes(group) if name == "phase" else group.column(name).to_numpy()
        for name in KEYS
    }
    return roll(keys, [group.column(name).to_numpy() for name in COLUMNS], LEVELS[0])


def _write_rollup(columns: dict[str, NDArray[Any]], path: Path, names: Sequence[str]) -> None:
    table = rollup_table(columns, names)
    with _Replacing(path) as temporary:
        pq.write_table(table, temporary, **_options(table.schema))


def _roll_second_level(folder: Path, rollups: Path, names: Sequence[str]) -> None:
    """Roll the segments that no coarse rollup covers yet up again, once there are enough.

    The last segment stays out, because the next one may be merged into it.
    """
    fine, coarse = LEVELS
    covered = list_rollups(rollups, coarse)
    start = covered[-1].last + 1 if covered else 0
    segments, _ = list_stream(folder)
    spans = [span for span in segments[:-1] if span.first >= start]
    if sum(span.last - span.first + 1 for span in spans) < SECOND_LEVEL_RECORDS:
        return
    tables: list[pa.Table] = []
    for span in spans:
        path = rollups / rollup_name(fine, span)
        if not path.exists():
            return
        tables.append(pq.read_table(path, use_threads=False))
    columns = rollup_columns(
        pa.concat_tables(tables), [name for name in tables[0].column_names if name != "name"]
    )
    path = rollups / rollup_name(coarse, Span(spans[0].first, spans[-1].last))
    _write_rollup(roll_again(columns, coarse // fine), path, names)


def _site_major(site: NDArray[np.int32]) -> NDArray[np.int64]:
    # NumPy sorts 16-bit integers by radix, about ten times faster.
    small = site.astype(np.uint16) if not len(site) or site.max() < 65_536 else site
    return np.argsort(small, kind="stable")


def _options(schema: pa.Schema) -> dict[str, Any]:
    floats = [field.name for field in schema if pa.types.is_floating(field.type)]
    integers = [field.name for field in schema if pa.types.is_integer(field.type)]
    encodings = dict.fromkeys(floats, "BYTE_STREAM_SPLIT")
    encodings |= dict.fromkeys(integers, "DELTA_BINARY_PACKED")
    return {
        "compression": "zstd",
        "use_dictionary": [name for name in _DICTIONARIES if name in schema.names],
        "column_encoding": encodings,
    }


class _Replacing(contextlib.AbstractContextManager[Path]):
    """Write to a temporary name; rename when all went well, else delete."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = path.with_name(path.name + TEMPORARY)

    def __enter__(self) -> Path:
        return self._temporary

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self._temporary.replace(self._path)
        else:
            with contextlib.suppress(OSError):
                self._temporary.unlink(missing_ok=True)

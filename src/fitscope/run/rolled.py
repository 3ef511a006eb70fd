"""Reading rollups: from their files, and computed here for what is not sealed yet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fitscope.errors import RunError
from fitscope.run.layout import ROLLUP, Span, list_rollups, rollup_name
from fitscope.run.parts import Part, Rows, SegmentPart
from fitscope.run.query import moments_of, named
from fitscope.run.record import PHASES
from fitscope.run.rollup import KEY_COLUMNS, LEVELS, roll, roll_again, rollup_columns
from fitscope.run.schema import KEYS
from fitscope.run.statistic_names import needed
from fitscope.run.store import Store

Columns = dict[str, NDArray[Any]]
_ATTEMPTS = 20


def rolled(
    store: Store, rows: Rows, statistics: Sequence[str], names: Sequence[str], level: int
) -> pa.Table:
    """Blocks of observations, ordered by site, statistic and time; see `Run.rollup`."""
    if level not in LEVELS:
        raise RunError(f"there is no rollup of level {level}; the levels are 64 and 4096.")
    attempt = 0
    while True:
        try:
            return _tidy(_pieces(store, rows, statistics, level), rows, statistics, names)
        except FileNotFoundError:  # merged away since it was listed
            attempt += 1
            if attempt == _ATTEMPTS:
                raise


def _pieces(store: Store, rows: Rows, statistics: Sequence[str], level: int) -> list[Columns]:
    fine: list[Columns] = []
    pieces: list[Columns] = []
    parts = store.parts("stats")
    covered: list[Span] = []
    folder: Path | None = None
    for part in parts:
        if isinstance(part, SegmentPart):
            folder = part.path.parent.parent / ROLLUP
            break
    if folder is not None and level == LEVELS[1]:
        covered = list_rollups(folder, level)
        pieces = [_read(folder / rollup_name(level, span), statistics) for span in covered]
    for part in parts:
        if isinstance(part, SegmentPart):
            span = part.span
            if any(wide.covers(span) for wide in covered):
                continue
            path = part.path.parent.parent / ROLLUP / rollup_name(LEVELS[0], span)
            if path.exists():
                fine.append(_read(path, statistics))
                continue
        fine.append(_rolled_here(part, rows, statistics))
    if level == LEVELS[0]:
        return fine
    if fine:
        joined = {name: np.concatenate([piece[name] for piece in fine]) for name in fine[0]}
        pieces.append(roll_again(joined, LEVELS[1] // LEVELS[0], statistics))
    return pieces


def _read(path: Path, statistics: Sequence[str]) -> Columns:
    wanted = [*KEY_COLUMNS, *(f"{n}.{r}" for n in statistics for r in ("min", "mean", "max"))]
    # Not `read_table`: its dataset layer costs more than these small files do.
    with pq.ParquetFile(path) as file:
        return rollup_columns(file.read(columns=wanted, use_threads=False), wanted)


def _rolled_here(part: Part, rows: Rows, statistics: Sequence[str]) -> Columns:
    columns = needed([*statistics, "finite"])
    table = part.read(columns, rows)
    keys = {name: table.column(name).to_numpy() for name in KEYS}
    return roll(keys, list(moments_of(table, columns).T), LEVELS[0], statistics)


def _tidy(
    pieces: list[Columns], rows: Rows, statistics: Sequence[str], names: Sequence[str]
) -> pa.Table:
    columns = {
        name: np.concatenate([np.empty(0, np.int64), *(p[name].astype(np.int64) for p in pieces)])
        for name in KEY_COLUMNS
    }
    keep = columns["site"] < len(names)
    if rows.sites is not None:
        keep &= np.isin(columns["site"], rows.sites)
    if rows.phase is not None:
        keep &= columns["phase"] == rows.phase
    # Blocks of two phases may interleave; their first records tell the time.
    kept = np.flatnonzero(keep)
    kept = kept[np.argsort(columns["seq"][kept], kind="stable")]
    site = np.tile(columns["site"][kept], len(statistics))
    code = np.repeat(np.arange(len(statistics)), len(kept))
    order = np.argsort(site * len(statistics) + code, kind="stable")
    row = np.tile(kept, len(statistics))[order]
    data: dict[str, Any] = {name: columns[name][row] for name in ("step", "last_step")}
    data["epoch"] = columns["epoch"][row].astype(np.int32)
    data["phase"] = named(columns["phase"][row], PHASES)
    data["site"] = named(columns["site"][row], names)
    data["statistic"] = named(code[order], statistics)
    data["rows"] = columns["rows"][row]
    for reduction in ("min", "mean", "max"):
        values = [
            np.concatenate([np.empty(0), *(p[f"{name}.{reduction}"] for p in pieces)])[kept]
            for name in statistics
        ]
        data[reduction] = np.concatenate(values)[order] if values else np.empty(0)
    return pa.table(data)

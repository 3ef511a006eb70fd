"""From the parts of a run to a tidy table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fitscope.run.histograms import SparseRows
from fitscope.run.parts import Rows
from fitscope.run.record import PHASES
from fitscope.run.schema import KEYS
from fitscope.run.statistic_names import COLUMN_STATISTICS, compute, needed
from fitscope.statistics.descriptions import HISTOGRAM_DESCRIPTIONS
from fitscope.statistics.moments import COLUMNS, PLACE

Read = Callable[[str, Sequence[str], Rows], pa.Table]


@dataclass(slots=True)
class Piece:
    """Values of one or several statistics, as flat columns of equal length."""

    keys: dict[str, NDArray[Any]]
    statistic: NDArray[np.int64]
    value: NDArray[np.float64]


def tidy(read: Read, rows: Rows, statistics: Sequence[str], names: Sequence[str]) -> pa.Table:
    """Statistics as one row per step, site and statistic.

    Args:
        read: Reads rows of a stream.
        rows: Which rows.
        statistics: Their names, in the order wanted.
        names: Site names, by index.

    Returns:
        Columns step, epoch, phase, site, statistic, value; ordered by site (in the run's order),
        statistic (as asked for) and time of writing.
    """
    pieces = [
        *_from_columns(read, rows, statistics),
        *_from_histograms(read, rows, statistics),
        *_from_users(read, rows, statistics),
    ]
    keys = {
        name: np.concatenate([np.empty(0, np.int64), *(piece.keys[name] for piece in pieces)])
        for name in ("step", "epoch", "phase", "site")
    }
    code = np.concatenate([np.empty(0, np.int64), *(piece.statistic for piece in pieces)])
    value = np.concatenate([np.empty(0), *(piece.value for piece in pieces)])
    # Within a site and statistic every piece is in time order already, so a stable sort keeps it.
    order = np.argsort(keys["site"] * len(statistics) + code, kind="stable")
    # A writer may have added sites since the list of sites was read.
    order = order[keys["site"][order] < len(names)]
    return pa.table(
        {
            "step": pa.array(keys["step"][order]),
            "epoch": pa.array(keys["epoch"][order].astype(np.int32)),
            "phase": named(keys["phase"][order], PHASES),
            "site": named(keys["site"][order], names),
            "statistic": named(code[order], statistics),
            "value": pa.array(value[order]),
        }
    )


def moments_of(table: pa.Table, columns: Sequence[str]) -> NDArray[np.float64]:
    """The rows of a table as moments; columns that were not read are NaN."""
    moments = np.full((len(COLUMNS), table.num_rows), np.nan)
    for name in columns:
        moments[PLACE[name]] = table.column(name).to_numpy()
    return moments.T


def _from_columns(read: Read, rows: Rows, statistics: Sequence[str]) -> list[Piece]:
    wanted = [(code, name) for code, name in enumerate(statistics) if name in COLUMN_STATISTICS]
    if not wanted:
        return []
    columns = needed(name for _, name in wanted)
    table = read("stats", columns, rows)
    moments = moments_of(table, columns)
    return _pieces(table, [(code, compute(moments, name)) for code, name in wanted])


def _from_histograms(read: Read, rows: Rows, statistics: Sequence[str]) -> list[Piece]:
    wanted = [
        (code, name) for code, name in enumerate(statistics) if name in HISTOGRAM_DESCRIPTIONS
    ]
    if not wanted:
        return []
    table = read("hist", ["bins", "counts"], rows)
    histograms = SparseRows(table)
    return _pieces(table, [(code, histograms.statistic(name)) for code, name in wanted])


def _from_users(read: Read, rows: Rows, statistics: Sequence[str]) -> list[Piece]:
    built_in = {*COLUMN_STATISTICS, *HISTOGRAM_DESCRIPTIONS}
    wanted = {name: code for code, name in enumerate(statistics) if name not in built_in}
    if not wanted:
        return []
    table = read(
        "extra",
        ["statistic", "value"],
        Rows(rows.sites, rows.phase, rows.steps, list(wanted)),
    )
    column = table.column("statistic").to_pylist()
    codes = np.array([wanted[name] for name in column], np.int64)
    return [Piece(_keys(table), codes, table.column("value").to_numpy())]


def _pieces(table: pa.Table, values: Sequence[tuple[int, NDArray[np.float64]]]) -> list[Piece]:
    keys = _keys(table)
    return [Piece(keys, np.full(len(value), code, np.int64), value) for code, value in values]


def _keys(table: pa.Table) -> dict[str, NDArray[Any]]:
    return {name: table.column(name).to_numpy().astype(np.int64) for name in KEYS}


def named(codes: NDArray[np.int64], names: Sequence[str]) -> pa.DictionaryArray:
    """A column of names; its dictionary holds only the names that occur."""
    present = np.zeros(len(names), bool)
    present[codes] = True
    place = (np.cumsum(present) - 1).astype(np.int32)
    kept = [name for name, there in zip(names, present, strict=True) if there]
    return pa.DictionaryArray.from_arrays(pa.array(place[codes]), pa.array(kept, pa.string()))

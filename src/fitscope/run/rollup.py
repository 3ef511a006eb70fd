"""Rollups: 64 (or 4,096) observations of a site in one row, with minimum, mean and maximum.

A rollup row covers consecutive observations of one site in one phase within one segment, so the
last row of a site in a segment may cover fewer; `rows` says how many. NaN (a statistic of a
tensor without a finite element) is left out; `finite_rows` says how many observations had one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fitscope.run.record import PHASES
from fitscope.run.schema import phase_codes
from fitscope.run.statistic_names import COLUMN_STATISTICS, compute
from fitscope.statistics.moments import COLUMNS

LEVELS: tuple[int, ...] = (64, 4096)

_COUNTS = frozenset(COLUMNS[:9]) | {"hist_count", "finite", "nonfinite"}
KEY_COLUMNS: tuple[str, ...] = (
    *("seq", "site", "phase", "epoch", "step", "last_step", "rows", "finite_rows"),
)


def over_finite(statistic: str) -> bool:
    """Whether a statistic is NaN for a tensor without a finite element."""
    return statistic not in _COUNTS and not statistic.endswith("_fraction")


def roll(
    keys: dict[str, NDArray[Any]],
    columns: Sequence[NDArray[np.float64]],
    level: int,
    statistics: Sequence[str] = COLUMN_STATISTICS,
) -> dict[str, NDArray[Any]]:
    """Roll observations up.

    Args:
        keys: `seq`, `step`, `epoch`, `phase` (codes) and `site` of each row, by time within each
            site.
        columns: The stored columns of those rows, in the order of `COLUMNS`.
        level: Observations per row.
        statistics: What to roll up.

    Returns:
        The columns of the rollup, sorted by site and phase.
    """
    order, starts = _blocks(keys["site"], keys["phase"], level)
    result = _block_keys(keys, order, starts)
    result["rows"] = _lengths(starts, len(order))
    # Stacked by column, because every reduction below reads one column.
    moments = np.stack([column[order] for column in columns]).T
    finite = compute(moments, "finite")
    result["finite_rows"] = (
        np.add.reduceat((finite > 0).astype(np.int64), starts) if len(starts) else starts
    )
    for name in statistics:
        values = compute(moments, name)
        for reduction, column in zip(("min", "mean", "max"), _reduced(values, starts), strict=True):
            result[f"{name}.{reduction}"] = column
    return result


def roll_again(
    columns: dict[str, NDArray[Any]],
    level: int,
    statistics: Sequence[str] = COLUMN_STATISTICS,
) -> dict[str, NDArray[Any]]:
    """Roll `level` rollup rows into one; the input is by time within each site."""
    order, starts = _blocks(columns["site"], columns["phase"], level)
    keys = {name: columns[name] for name in ("seq", "step", "epoch", "phase", "site")}
    result = _block_keys(keys, order, starts)
    if len(starts):
        last = np.append(starts[1:], len(order)) - 1
        result["last_step"] = columns["last_step"][order][last]
    for name in ("rows", "finite_rows"):
        result[name] = np.add.reduceat(columns[name][order], starts) if len(starts) else starts
    for name in statistics:
        weight = columns["finite_rows" if over_finite(name) else "rows"][order].astype(np.float64)
        low, mean, high = (
            columns[f"{name}.{reduction}"][order].astype(np.float64)
            for reduction in ("min", "mean", "max")
        )
        weight = np.where(np.isnan(mean), 0.0, weight)
        if not len(starts):
            total = count = mean
        else:
            total = np.add.reduceat(np.where(weight > 0, mean, 0.0) * weight, starts)
            count = np.add.reduceat(weight, starts)
            low, high = np.fmin.reduceat(low, starts), np.fmax.reduceat(high, starts)
        result[f"{name}.min"] = low
        result[f"{name}.mean"] = _ratio(total, count)
        result[f"{name}.max"] = high
    return result


def rollup_table(columns: dict[str, NDArray[Any]], names: Sequence[str]) -> pa.Table:
    """A rollup as an Arrow table, with site and phase names for other tools."""
    arrays: dict[str, pa.Array] = {}
    for name, values in columns.items():
        if name == "phase":
            arrays[name] = pa.array(PHASES).take(pa.array(values, pa.int8()))
        else:
            arrays[name] = pa.array(values)
        if name == "site":
            arrays["name"] = pa.array(names, pa.string()).take(arrays[name])
    return pa.table(arrays)


def rollup_columns(table: pa.Table, wanted: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The inverse of `rollup_table`, for some columns; phases become codes."""
    columns: dict[str, NDArray[Any]] = {}
    for name in wanted:
        column = phase_codes(table) if name == "phase" else table.column(name).to_numpy()
        columns[name] = column
    return columns


def _blocks(
    site: NDArray[Any], phase: NDArray[Any], level: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """An order by site and phase, and where each block of at most `level` rows starts in it."""
    key = site.astype(np.int64) * len(PHASES) + phase.astype(np.int64)
    order = np.argsort(key, kind="stable")
    if not len(order):
        return order, np.empty(0, np.int64)
    key = key[order]
    group_starts = np.flatnonzero(np.append(True, key[1:] != key[:-1]))
    sizes = _lengths(group_starts, len(key))
    place = np.arange(len(key)) - np.repeat(group_starts, sizes)
    return order, np.flatnonzero(place % level == 0)


def _block_keys(
    keys: dict[str, NDArray[Any]], order: NDArray[np.int64], starts: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    first = order[starts]
    result = {name: keys[name][first] for name in ("seq", "site", "phase", "epoch", "step")}
    result["last_step"] = result["step"]
    if len(starts):
        result["last_step"] = keys["step"][order[np.append(starts[1:], len(order)) - 1]]
    return result


def _reduced(
    values: NDArray[np.float64], starts: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    if not len(starts):
        return values, values, values
    low, high = np.fmin.reduceat(values, starts), np.fmax.reduceat(values, starts)
    missing = np.isnan(values)
    if not missing.any():
        return low, np.add.reduceat(values, starts) / _lengths(starts, len(values)), high
    total = np.add.reduceat(np.where(missing, 0.0, values), starts)
    return low, _ratio(total, np.add.reduceat((~missing).astype(np.float64), starts)), high


def _ratio(total: NDArray[np.float64], count: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(count > 0, total / count, np.nan)


def _lengths(starts: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    return np.diff(np.append(starts, total))

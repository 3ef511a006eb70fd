"""Blocks into the columns of a picture, without losing an extreme."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fitscope.ui.blocks import Blocks
from fitscope.ui.dense import Dense

Grid = NDArray[np.floating]

STANDS_OUT = 3.0
"""An extreme is shown in place of the mean when it is further from the site's median than this
many times the usual spread within a column."""


@dataclass(slots=True, eq=False)
class Columns:
    """Minimum, mean and maximum per site and column; NaN where nothing was observed.

    Args:
        low: float64 `[sites, columns]`.
        mean: The same.
        high: The same.
        rows: int64 `[sites, columns]`, observations; one in two columns counts in both.
    """

    low: Grid
    mean: Grid
    high: Grid
    rows: NDArray[np.int64]

    def narrow(self) -> Columns:
        """The same in float32, in which a picture is sent; what follows is twice as fast."""
        with np.errstate(over="ignore"):
            low, mean, high = (grid.astype(np.float32) for grid in (self.low, self.mean, self.high))
        return Columns(low, mean, high, self.rows)


def to_columns(
    blocks: Dense | Blocks, sites: NDArray[np.int64], first: int, last: int, columns: int
) -> Columns:
    """Reduce blocks to the columns of a picture.

    A block that reaches over several columns is in each of them: nothing that happened is left
    out of the picture, at the price of at most one block's width.

    Args:
        blocks: The blocks.
        sites: int64 `[rows]`, which site each row of the picture shows.
        first: The first step of the picture.
        last: The last one.
        columns: How many columns.
    """
    if isinstance(blocks, Dense):
        if (blocks.last[1:] < blocks.last[:-1]).any():
            return to_columns(blocks.to_blocks(), sites, first, last, columns)
        return _from_dense(blocks, sites, first, last, columns)
    height = len(sites)
    size = height * columns
    low, high = np.full(size, np.nan), np.full(size, np.nan)
    total, weight, rows = np.zeros(size), np.zeros(size), np.zeros(size, np.int64)
    row_of = np.full(max(int(blocks.site[-1]) + 1 if len(blocks) else 0, 1), -1, np.int64)
    for row, site in enumerate(sites):
        if site < len(row_of):
            row_of[site] = row
    inside = (blocks.last >= first) & (blocks.first <= last)
    if not inside.all():
        blocks = blocks.take(np.flatnonzero(inside))
    row = row_of[blocks.site]
    if (row < 0).any():
        kept = np.flatnonzero(row >= 0)
        blocks, row = blocks.take(kept), row[kept]
    if len(blocks):
        width = last - first + 1
        begin = np.maximum(blocks.first - first, 0) * columns // width
        end = np.minimum(blocks.last - first, width - 1) * columns // width
        key = row * columns + begin
        reach = end - begin
        place: NDArray[np.int64] | None = None
        if reach.any():
            repeat = reach + 1
            place = np.repeat(np.arange(len(key)), repeat)
            ends = np.cumsum(repeat)
            key = key[place] + np.arange(len(place)) - np.repeat(ends - repeat, repeat)
        values = [
            blocks.low if place is None else blocks.low[place],
            blocks.mean if place is None else blocks.mean[place],
            blocks.high if place is None else blocks.high[place],
        ]
        count = blocks.rows if place is None else blocks.rows[place]
        if (key[1:] < key[:-1]).any():  # steps that begin anew, or rows in another order
            order = np.argsort(key, kind="stable")
            key, count = key[order], count[order]
            values = [value[order] for value in values]
        starts = np.flatnonzero(np.append(True, key[1:] != key[:-1]))
        at = key[starts]
        low[at] = np.fmin.reduceat(values[0], starts)
        high[at] = np.fmax.reduceat(values[2], starts)
        known = ~np.isnan(values[1])
        share = np.where(known, count, 0)
        # An infinite mean stays infinite; only NaN is left out.
        total[at] = np.add.reduceat(np.where(known, values[1], 0.0) * share, starts)
        weight[at] = np.add.reduceat(share, starts)
        rows[at] = np.add.reduceat(count, starts)
    mean = np.divide(total, weight, out=np.full(size, np.nan), where=weight > 0)
    shape = (height, columns)
    return Columns(
        low.reshape(shape), mean.reshape(shape), high.reshape(shape), rows.reshape(shape)
    )


def _from_dense(
    blocks: Dense, sites: NDArray[np.int64], first: int, last: int, columns: int
) -> Columns:
    # The steps of column c are edges[c] to edges[c + 1] - 1; its blocks are one stretch of time.
    edges = first - (-np.arange(columns + 1) * (last - first + 1) // columns)
    begin = np.searchsorted(blocks.last, edges[:-1], side="left")
    end = np.searchsorted(blocks.first, edges[1:], side="left")
    shape = (columns, len(blocks.sites))
    low, mean, high = (np.full(shape, np.nan) for _ in range(3))
    rows = np.zeros(columns, np.int64)
    weight = blocks.rows.astype(np.float64)
    # Without NaN the plain minimum says the same, and is several times faster.
    gaps = blocks.has_nan
    least, most = (np.fmin, np.fmax) if gaps else (np.minimum, np.maximum)
    for column, (start, stop) in enumerate(zip(begin.tolist(), end.tolist(), strict=True)):
        if stop <= start:
            continue
        rows[column] = blocks.rows[start:stop].sum()
        if stop - start == 1:
            low[column], mean[column] = blocks.low[start], blocks.mean[start]
            high[column] = blocks.high[start]
            continue
        # Column by column, because NumPy's own reduceat is seven times slower along this axis.
        least.reduce(blocks.low[start:stop], axis=0, out=low[column])
        most.reduce(blocks.high[start:stop], axis=0, out=high[column])
        middle, counts = blocks.mean[start:stop], weight[start:stop]
        if gaps:
            known = ~np.isnan(middle)
            total, counted = counts @ np.where(known, middle, 0.0), counts @ known
            np.divide(total, counted, out=mean[column], where=counted > 0)
        else:
            np.divide(counts @ middle, counts.sum(), out=mean[column])
    place = np.minimum(np.searchsorted(blocks.sites, sites), len(blocks.sites) - 1)
    there = blocks.sites[place] == sites
    result = Columns(
        np.ascontiguousarray(low.T)[place],
        np.ascontiguousarray(mean.T)[place],
        np.ascontiguousarray(high.T)[place],
        np.where(there[:, None], rows, 0),
    )
    if not there.all():
        for grid in (result.low, result.mean, result.high):
            grid[~there] = np.nan
    return result


@dataclass(slots=True, eq=False)
class Outside:
    """What lies before and behind a picture, per row.

    Args:
        before: Low, mean and high of the last block before the picture, `[3, rows]`; NaN where
            there is none.
        earlier: bool `[rows]`, whether there is one.
        later: bool `[rows]`, whether a block follows behind the picture.
    """

    before: Grid
    earlier: NDArray[np.bool_]
    later: NDArray[np.bool_]


def outside(blocks: Dense | Blocks, sites: NDArray[np.int64], first: int, last: int) -> Outside:
    """What lies before and behind a picture.

    Args:
        blocks: The blocks, from somewhat before `first` to somewhat behind `last`.
        sites: int64 `[rows]`.
        first: The first step of the picture.
        last: The last one.
    """
    count = len(sites)
    found = Outside(np.full((3, count), np.nan), np.zeros(count, bool), np.zeros(count, bool))
    if isinstance(blocks, Dense):
        _outside_dense(found, blocks, sites, first, last)
        return found
    begin = np.searchsorted(blocks.site, sites, side="left")
    end = np.searchsorted(blocks.site, sites, side="right")
    for row, (start, stop) in enumerate(zip(begin, end, strict=True)):
        steps = blocks.first[start:stop]
        place = start + int(np.searchsorted(steps, first, side="left")) - 1
        found.later[row] = np.searchsorted(steps, last, side="right") < len(steps)
        if place >= start:
            found.earlier[row] = True
            found.before[:, row] = blocks.low[place], blocks.mean[place], blocks.high[place]
    return found


def _outside_dense(
    found: Outside, blocks: Dense, sites: NDArray[np.int64], first: int, last: int
) -> None:
    place = np.searchsorted(blocks.sites, sites)
    there = place < len(blocks.sites)
    there[there] = blocks.sites[place[there]] == sites[there]
    before = int(np.searchsorted(blocks.first, first, side="left")) - 1
    later = int(np.searchsorted(blocks.first, last, side="right")) < len(blocks.first)
    found.later[:] = there & later
    if before >= 0:
        found.earlier[:] = there
        for grid, matrix in zip(found.before, (blocks.low, blocks.mean, blocks.high), strict=True):
            grid[there] = matrix[before, place[there]]


def held(columns: Columns, around: Outside) -> Columns:
    """Every observation held until the next one, so that few observed steps make a picture.

    Nothing is held beyond the last observation of a site.

    Args:
        columns: What was observed.
        around: What lies before and behind.
    """
    observed = columns.rows > 0
    if observed.all():
        return columns
    width = observed.shape[1]
    place = np.maximum.accumulate(np.where(observed, np.arange(width), -1), axis=1)
    last = np.where(observed.any(1), width - 1 - observed[:, ::-1].argmax(1), -1)
    until = np.where(around.later, width - 1, last)
    empty = ~observed & (np.arange(width) <= until[:, None])
    row, column = np.nonzero(empty & (place >= 0))
    left = np.nonzero(empty & (place < 0) & around.earlier[:, None])
    low, mean, high = columns.low.copy(), columns.mean.copy(), columns.high.copy()
    for grid, before in zip((low, mean, high), around.before, strict=True):
        grid[row, column] = grid[row, place[row, column]]
        grid[left] = before[left[0]]
    rows = columns.rows.copy()
    rows[row, column] = 1
    rows[left] = 1
    return Columns(low, mean, high, rows)


def shown(columns: Columns, mode: str, *, by_ratio: bool) -> Grid:
    """The one value that a cell shows.

    Args:
        columns: The columns.
        mode: `"min"`, `"mean"`, `"max"`, or `"notable"`: the mean, unless the smallest or largest
            value stands out from what is usual at that site; then that value.
        by_ratio: Whether distances are ratios, as for magnitudes.
    """
    if mode == "min":
        return columns.low
    if mode == "max":
        return columns.high
    if mode == "mean":
        return columns.mean
    low, mean, high = columns.low, columns.mean, columns.high
    result = mean.copy()
    with np.errstate(all="ignore"):
        # Of one or two columns none tells what is usual in the others.
        few = mean.shape[1] <= 2
        if by_ratio:
            tiny = np.finfo(mean.dtype).tiny
            low, mean, high = (np.maximum(np.abs(x), tiny) for x in (low, mean, high))
            middle = _median(mean)[:, None]
            limit = 1.0 if few else _median(high / low)[:, None] ** STANDS_OUT
            above, below = high / middle, middle / low
        else:
            middle = _median(mean)[:, None]
            limit = 0.0 if few else STANDS_OUT * _median(high - low)[:, None]
            above, below = high - middle, middle - low
        up = (above > limit) & (above >= below) & (columns.high != columns.mean)
        down = (below > limit) & (below > above) & (columns.low != columns.mean)
    np.copyto(result, columns.high, where=up)
    np.copyto(result, columns.low, where=down)
    return result


def _median(values: Grid) -> Grid:
    """The median of each row's known values."""
    if not values.shape[1]:
        return np.full(len(values), np.nan)
    known = (~np.isnan(values)).sum(1)
    width = values.shape[1]
    if (known == width).all():
        return np.partition(values, width // 2, axis=1)[:, width // 2]
    ordered = np.sort(values, axis=1)  # NaN last
    middle = ordered[np.arange(len(values)), np.minimum(known // 2, width - 1)]
    return np.where(known > 0, middle, values.dtype.type(np.nan))

"""Blocks of a run whose sites were all observed in the same steps, as nearly all are: matrices.

The time of a block is then the same for every site, and a picture is a reduction along time. Time
is the first axis: a reduction then goes over whole rows in memory, several times faster.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fitscope.ui.blocks import Blocks, joined

_OF_SITES = ("low", "mean", "high")


@dataclass(slots=True, eq=False)
class Dense:
    """Blocks as matrices, by time.

    Args:
        sites: int32 `[sites]`, ascending.
        first: int64 `[blocks]`, the first step of each block, ascending.
        last: int64 `[blocks]`, the last one.
        rows: int64 `[blocks]`, observations of each site.
        low: float64 `[blocks, sites]`.
        mean: The same.
        high: The same.
    """

    sites: NDArray[np.int32]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    rows: NDArray[np.int64]
    low: NDArray[np.float64]
    mean: NDArray[np.float64]
    high: NDArray[np.float64]

    has_nan: bool = field(init=False)

    def __post_init__(self) -> None:
        # Once, because it decides how every picture is made.
        self.has_nan = bool(np.isnan(self.mean).any() or np.isnan(self.low).any())

    def __len__(self) -> int:
        return self.mean.size

    def arrays(self) -> list[NDArray[Any]]:
        """The parts."""
        return [getattr(self, each.name) for each in fields(self) if each.init]

    def until(self, blocks: int) -> Dense:
        """The first so many blocks; nothing is copied."""
        times = (self.first[:blocks], self.last[:blocks], self.rows[:blocks])
        values = (getattr(self, name)[:blocks] for name in _OF_SITES)
        return Dense(self.sites, *(*times, *values))

    def of_site(self, site: int) -> Blocks:
        """The blocks of one site."""
        place = int(np.searchsorted(self.sites, site))
        if place == len(self.sites) or self.sites[place] != site:
            return Blocks.empty()
        values = (np.ascontiguousarray(getattr(self, name)[:, place]) for name in _OF_SITES)
        which = np.full(len(self.first), site, np.int32)
        return Blocks(which, self.first, self.last, self.rows, *values)

    def to_blocks(self) -> Blocks:
        """The same, site by site."""
        blocks, count = self.mean.shape
        first, last, rows = (np.tile(time, count) for time in (self.first, self.last, self.rows))
        low, mean, high = (values.T.ravel() for values in (self.low, self.mean, self.high))
        return Blocks(np.repeat(self.sites, blocks), first, last, rows, low, mean, high)


def densified(blocks: Blocks) -> Dense | Blocks:
    """Blocks as matrices, where the sites share their times."""
    if not len(blocks):
        return blocks
    count = 1 + int((blocks.site[1:] != blocks.site[:-1]).sum())
    if len(blocks) % count:
        return blocks
    shape = (count, len(blocks) // count)
    sites = blocks.site.reshape(shape)
    if (sites != sites[:, :1]).any():
        return blocks
    times = [time.reshape(shape) for time in (blocks.first, blocks.last, blocks.rows)]
    if any((time != time[0]).any() for time in times):
        return blocks
    first, last, rows = (time[0].copy() for time in times)
    if (first[1:] < first[:-1]).any():  # steps that begin anew
        return blocks
    mean = np.ascontiguousarray(blocks.mean.reshape(shape).T)
    single = blocks.low is blocks.mean
    low = mean if single else np.ascontiguousarray(blocks.low.reshape(shape).T)
    high = mean if single else np.ascontiguousarray(blocks.high.reshape(shape).T)
    return Dense(sites[:, 0].copy(), first, last, rows, low, mean, high)


def together(parts: Sequence[Dense | Blocks]) -> Dense | Blocks:
    """Several stretches of time as one."""
    parts = [part for part in parts if len(part)]
    if not parts:
        return Blocks.empty()
    if len(parts) == 1:
        return parts[0]
    dense = [part for part in parts if isinstance(part, Dense)]
    if len(dense) == len(parts) and _fit(dense):
        first, last, rows, low, mean, high = (
            np.concatenate([getattr(part, name) for part in dense])
            for name in ("first", "last", "rows", *_OF_SITES)
        )
        if all(part.low is part.mean for part in dense):
            low = high = mean  # each block is a single observation
        return Dense(dense[0].sites, first, last, rows, low, mean, high)
    return joined([part.to_blocks() if isinstance(part, Dense) else part for part in parts])


def _fit(parts: Sequence[Dense]) -> bool:
    sites = parts[0].sites
    return all(
        np.array_equal(part.sites, sites) and part.first[0] >= before.first[-1]
        for before, part in itertools.pairwise(parts)
    )

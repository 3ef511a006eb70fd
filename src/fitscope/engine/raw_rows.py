"""From the raw sums of an observed step to moments, in float64 on the host.

On JAX, the sums of each tensor arrive one after the other:

    total, sum of magnitudes, sum of squares around the mean of the scaled values, scale
    nonzero elements, in parts
    least, greatest, saturated elements of each unit
    blocks, zero unless needed

and behind them the states of the user statistics.

A block holds `BLOCK_LENGTH` numbers: nan, +inf, -inf, zeros, finite elements, least, greatest;
of the finite elements divided by 2**exponent, the exponent, a middle value, the sum of the
distances from the middle, of their squares, and of the magnitudes; and the place in the block of
the first element that is not finite.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fitscope.statistics.activation import Zones
from fitscope.statistics.moments import COLUMNS, empty, merge

BLOCK = 16384
BLOCK_LENGTH = 13
SUMS = 4
"""How many numbers a tensor has before its units; `bare` reads them."""

_PLACE = {name: i for i, name in enumerate(COLUMNS)}


@dataclasses.dataclass(frozen=True)
class Shape:
    """What the host must know of a tensor to read its part of a row."""

    size: int
    n_units: int
    zones: Zones
    sampled: int

    @property
    def parts(self) -> int:
        """Into how many parts counts are split, so that float32 holds each exactly."""
        least = max(1, math.ceil(self.size / 2**24))
        return next(p for p in range(least, max(self.size, 1) + 1) if self.size % p == 0)

    @property
    def saturates(self) -> bool:
        return self.zones.saturated_below is not None or self.zones.saturated_above is not None


def blocks_of(shape: Shape) -> int:
    """Into how many blocks a tensor is cut."""
    return -(-shape.size // BLOCK)


def read_row(
    row: NDArray[np.float32], shapes: Sequence[Shape], states: int
) -> tuple[NDArray[np.float64], NDArray[np.float32], NDArray[np.int64]]:
    """Read the vector of one step.

    Args:
        row: the vector.
        shapes: of its tensors.
        states: the length of the user statistics' states together.

    Returns:
        `(moments [tensors, len(COLUMNS)], states of user statistics, places [tensors])`; a place is
        that of the first element that is not finite in the flat tensor, -1 where all are.
    """
    reader = Reader(row.astype(np.float64))
    moments = empty(len(shapes))
    places = np.full(len(shapes), -1, np.int64)
    for i, shape in enumerate(shapes):
        sums = reader.take(SUMS)
        nonzero = reader.take(shape.parts if shape.size else 1).sum()
        moments[i] = bare(shape, sums, nonzero, read_units(reader, shape))
        blocks = reader.take(BLOCK_LENGTH * blocks_of(shape)).reshape(BLOCK_LENGTH, -1)
        if blocks.any():
            _replace(moments[i], blocks)
            places[i] = _first_bad(blocks)
    return moments, reader.take(states).astype(np.float32), places


class Reader:
    """Takes a flat vector apart from the front."""

    def __init__(self, row: NDArray[np.float64]) -> None:
        self._row = row
        self._at = 0

    def take(self, n: int) -> NDArray[np.float64]:
        part = self._row[self._at : self._at + n]
        self._at += n
        return part

    def rest(self) -> NDArray[np.float64]:
        """What nothing took."""
        return self._row[self._at :]


def read_units(
    reader: Reader, shape: Shape, *, always: bool = False
) -> tuple[float, float, float, float, float]:
    """Least and greatest value, dead units, saturated elements and units.

    Args:
        reader: Stands at the units of the tensor.
        shape: The tensor's.
        always: Whether an empty tensor has units in the vector, too.
    """
    if not shape.size:
        if always:
            reader.take((3 if shape.saturates else 2) * shape.n_units)
        return math.nan, math.nan, 0.0, 0.0, 0.0
    low, high = reader.take(shape.n_units), reader.take(shape.n_units)
    dead = 0.0
    if shape.zones.dead is not None:
        # A unit that puts out a NaN or an infinity compares false: it is not dead.
        first, last = shape.zones.dead
        dead = float(((low >= first) & (high <= last)).sum())
    if not shape.saturates:
        return low.min(), high.max(), dead, 0.0, 0.0
    saturated = reader.take(shape.n_units)
    whole = float((saturated >= shape.size // shape.n_units).sum())
    return low.min(), high.max(), dead, saturated.sum(), whole


def bare(shape: Shape, sums: Any, nonzero: float, units: Any) -> NDArray[np.float64]:
    """The moments that the bare sums of a tensor tell."""
    out = np.zeros(len(COLUMNS))
    total, l1, m2, scale = sums
    low, high, dead, saturated, saturated_units = units
    size = shape.size or math.nan
    with np.errstate(invalid="ignore", divide="ignore"):  # replaced from the blocks when not finite
        values = {
            "count": shape.size,
            "zeros": shape.size - nonzero,
            "saturated": saturated,
            "units": shape.n_units,
            "dead_units": dead,
            "saturated_units": saturated_units,
            "mean": total / size,
            "std": np.sqrt(m2 / size) / scale,
            "mean_abs": l1 / size,
            "min": low,
            "max": high,
            "hist_count": shape.sampled,
        }
    for name, value in values.items():
        out[_PLACE[name]] = value
    return out


def _first_bad(blocks: NDArray[np.float64]) -> int:
    """The place of a tensor's first element that is not finite, -1 for none."""
    bad = np.flatnonzero(blocks[:3].any(0))
    return int(bad[0]) * BLOCK + int(blocks[-1, bad[0]]) if len(bad) else -1


def _replace(moments: NDArray[np.float64], blocks: NDArray[np.float64]) -> None:
    """Put in what the blocks say of the finite elements, which holds whatever the values."""
    nan, posinf, neginf, zeros, n, low, high, exponent, middle, offset, squares, l1, _ = blocks
    scale = np.exp2(exponent)
    parts = empty(len(n))
    some = n > 0
    safe = np.where(some, n, 1.0)
    mean = middle + offset / safe
    variance = np.maximum(squares / safe - (offset / safe) ** 2, 0.0)
    for name, value in {
        "mean": mean * scale,
        "std": np.sqrt(variance) * scale,
        "mean_abs": l1 / safe * scale,
        "min": low,
        "max": high,
    }.items():
        parts[:, _PLACE[name]] = np.where(some, value, np.nan)
    for name, value in {
        "count": n + nan + posinf + neginf,
        "nan": nan,
        "posinf": posinf,
        "neginf": neginf,
        "zeros": zeros,
    }.items():
        parts[:, _PLACE[name]] = value
    merged = parts[0]
    for part in parts[1:]:
        merged = merge(merged, part)
    for name in (
        "count",
        "nan",
        "posinf",
        "neginf",
        "zeros",
        "mean",
        "std",
        "mean_abs",
        "min",
        "max",
    ):
        moments[_PLACE[name]] = merged[_PLACE[name]]

"""From the raw sums of an observed step to moments, in float64 on the host.

On JAX, the sums of each tensor arrive in one vector:

    total, sum of magnitudes, sum of squares of the scaled distances from a center, scale, center
    nonzero elements, in parts
    least, greatest, saturated elements of each unit

and with it the sums of its blocks, which are zero or left out where they are not needed.

A block holds `BLOCK_LENGTH` numbers: nan, +inf, -inf, zeros, finite elements, least, greatest;
of the finite elements divided by 2**exponent, the exponent, a middle value, the sum of the
distances from the middle, of their squares, and of the magnitudes; and the place in the block of
the first element that is not finite.
"""

from __future__ import annotations

import dataclasses
import functools
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

    @functools.cached_property
    def parts(self) -> int:
        """Into how many parts counts are split, so that float32 holds each exactly."""
        least = max(1, math.ceil(self.size / 2**24))
        return next(p for p in range(least, max(self.size, 1) + 1) if self.size % p == 0)

    @property
    def saturates(self) -> bool:
        return self.zones.saturated_below is not None or self.zones.saturated_above is not None

    @functools.cached_property
    def length(self) -> int:
        """How many numbers the vector of a tensor has."""
        if not self.size:
            return SUMS + 2
        return SUMS + 1 + self.parts + (3 if self.saturates else 2) * self.n_units


def blocks_of(shape: Shape) -> int:
    """Into how many blocks a tensor is cut."""
    return -(-shape.size // BLOCK)


def split_row(
    row: NDArray[np.float32], shapes: Sequence[Shape]
) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
    """Take a flat row apart into `(vectors, blocks)`."""
    reader = Reader(row)
    vectors: list[NDArray[np.float32]] = []
    blocks: list[NDArray[np.float32]] = []
    for shape in shapes:
        vectors.append(reader.take(shape.length))
        blocks.append(reader.take(BLOCK_LENGTH * blocks_of(shape)).reshape(BLOCK_LENGTH, -1))
    return vectors, blocks


def read_tensors(
    vectors: Sequence[NDArray[np.float32]],
    blocks: Sequence[NDArray[np.float32] | None],
    shapes: Sequence[Shape],
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Read what a step took of its tensors.

    Args:
        vectors: by tensor.
        blocks: by tensor, zero or None where its vector tells the truth.
        shapes: by tensor.

    Returns:
        `(moments [tensors, len(COLUMNS)], places [tensors])`; a place is that of the first element
        that is not finite in the flat tensor, -1 where all are.
    """
    moments = empty(len(shapes))
    alike: dict[Shape, list[int]] = {}
    for i, shape in enumerate(shapes):
        alike.setdefault(shape, []).append(i)
    for shape, tensors in alike.items():  # a network has many tensors of few shapes
        moments[tensors] = _read(shape, np.stack([vectors[i] for i in tensors]))
    places = np.full(len(shapes), -1, np.int64)
    for i, found in enumerate(blocks):
        if found is not None and found.any():
            exact = found.astype(np.float64)
            _replace(moments[i], exact)
            places[i] = _first_bad(exact)
    return moments, places


def _read(shape: Shape, table: NDArray[np.float32]) -> NDArray[np.float64]:
    """The moments of tensors of one shape, `[tensors, len(COLUMNS)]`."""
    total, l1, m2, scale, center = table[:, : SUMS + 1].T.astype(np.float64)
    n = shape.parts if shape.size else 1
    nonzero, rest = table[:, SUMS + 1 : SUMS + 1 + n], table[:, SUMS + 1 + n :]
    with np.errstate(invalid="ignore", over="ignore"):  # replaced from the blocks when not finite
        # The mean of a tensor is known once all of it was read.
        aside = shape.size * ((total / (shape.size or 1) - center) * scale) ** 2
        m2 = np.maximum(m2 - aside, 0.0)
    found = NONE
    if shape.size:
        found = of_units(shape, *rest.reshape(len(table), -1, shape.n_units).swapaxes(0, 1))
    nonzero = nonzero.sum(1, dtype=np.float64)
    return bare(shape, (total, l1, m2, scale), nonzero, found)


class Reader:
    """Takes a flat vector apart from the front."""

    def __init__(self, row: NDArray[Any]) -> None:
        self._row = row
        self._at = 0

    def take(self, n: int) -> NDArray[Any]:
        part = self._row[self._at : self._at + n]
        self._at += n
        return part


NONE = (math.nan, math.nan, 0.0, 0.0, 0.0)
"""What `of_units` gives of a tensor without elements."""


def of_units(
    shape: Shape, low: NDArray[Any], high: NDArray[Any], saturated: NDArray[Any] | None = None
) -> tuple[Any, Any, Any, Any, Any]:
    """Least and greatest value, dead units, saturated elements and units.

    Args:
        shape: The tensor's.
        low: The least value of each unit, along the last axis.
        high: The greatest, in the same way.
        saturated: How many elements of each are saturated; None where none can be.
    """
    dead: Any = 0.0
    if shape.zones.dead is not None:
        # A unit that puts out a NaN or an infinity compares false: it is not dead.
        first, last = shape.zones.dead
        dead = ((low >= first) & (high <= last)).sum(-1)
    if saturated is None:
        return low.min(-1), high.max(-1), dead, 0.0, 0.0
    whole = (saturated >= shape.size // shape.n_units).sum(-1)
    return low.min(-1), high.max(-1), dead, saturated.sum(-1, dtype=np.float64), whole


def bare(shape: Shape, sums: Any, nonzero: Any, units: Any) -> NDArray[np.float64]:
    """The moments that bare sums tell, of one tensor or of several of a shape.

    Returns:
        `[..., len(COLUMNS)]`.
    """
    total, l1, m2, scale = sums
    low, high, dead, saturated, saturated_units = units
    size = shape.size or math.nan
    out = np.zeros((*np.shape(total), len(COLUMNS)))
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
        out[..., _PLACE[name]] = value
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

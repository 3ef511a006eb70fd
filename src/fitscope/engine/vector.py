"""The fixed-length vector in which a device hands over the moments of one tensor.

Counts of elements travel as two float32 numbers, `high * 4096 + low`, because one float32 holds
integers only up to 2**24. Moments are of the finite elements and are zero when there are none.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fitscope.statistics.moments import COLUMNS

BASE = 4096

COUNTS = ("count", "nan", "posinf", "neginf", "zeros", "saturated")
"""Element counts, two places each."""

SCALARS = (
    "units",
    "dead_units",
    "saturated_units",
    "mean",
    "std",
    "mean_abs",
    "min",
    "max",
    "hist_count",
)
"""Plain float32 places behind the counts."""

LENGTH = 2 * len(COUNTS) + len(SCALARS) + 2
"""The last two places hold that of the first element that is not finite, counted from 1 (0: none),
as counts travel."""

SAMPLES = 8192
"""Elements a histogram is made from; larger tensors are sampled at an even stride."""

BINS = 2048

_OVER_FINITE = ("mean", "std", "mean_abs", "min", "max")


def decode(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Turn device vectors `[..., LENGTH]` into moments `[..., len(COLUMNS)]` in float64."""
    source = vectors.astype(np.float64)
    out = np.empty((*vectors.shape[:-1], len(COLUMNS)), np.float64)
    place = {name: i for i, name in enumerate(COLUMNS)}
    for i, name in enumerate(COUNTS):
        out[..., place[name]] = source[..., 2 * i] * BASE + source[..., 2 * i + 1]
    first = 2 * len(COUNTS)
    for i, name in enumerate(SCALARS):
        out[..., place[name]] = source[..., first + i]
    finite = out[..., place["count"]] - sum(
        out[..., place[name]] for name in ("nan", "posinf", "neginf")
    )
    empty = finite <= 0
    for name in _OVER_FINITE:
        out[..., place[name]] = np.where(empty, np.nan, out[..., place[name]])
    return out


def first_bad(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """By vector, the place in the flat tensor of the first element that is not finite, or -1."""
    high, low = vectors[..., -2].astype(np.int64), vectors[..., -1].astype(np.int64)
    return high * BASE + low - 1


def stride(size: int) -> tuple[int, int]:
    """How a flat tensor of `size` elements is sampled for its histogram.

    Returns:
        `(step, count)`: elements `0, step, 2 * step, ...`, `count` of them. The step is odd and
        shares no small factor with common layer widths, so that every unit is met.
    """
    if size <= SAMPLES:
        return 1, size
    step = -(-size // SAMPLES)
    while any(step % prime == 0 for prime in (2, 3, 5, 7)):
        step += 1
    return step, -(-size // step)

"""A magnitude histogram as a few bars on a linear axis."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fitscope.errors import StatisticError
from fitscope.statistics.bins import IN_ORDER, bin_edges

_LOWER, _UPPER = bin_edges(IN_ORDER)
# The outermost share of each side is not drawn: magnitudes span 77 decades, and one outlier on a
# linear axis would leave all others in a single bar.
_TAIL = 0.005


def value_range(counts: NDArray[np.generic]) -> tuple[float, float]:
    """The values between which a histogram is drawn.

    Args:
        counts: Counts `[2048]`.

    Returns:
        The outer edges of the bins of the 0.5% and 99.5% quantiles; (nan, nan) without finite
        elements.
    """
    running: NDArray[np.float64] = np.cumsum(counts[IN_ORDER], dtype=np.float64)
    total = float(running[-1])
    if total <= 0:
        return float("nan"), float("nan")
    first = int(np.searchsorted(running, _TAIL * total, side="right"))
    last = int(np.searchsorted(running, (1 - _TAIL) * total, side="left"))
    return float(_LOWER[first]), float(_UPPER[max(first, last)])


def bars(counts: NDArray[np.generic], width: int) -> NDArray[np.float64]:
    """Relative heights over `value_range`; a bin is spread evenly over the bars it covers.

    Args:
        counts: Counts `[2048]`.
        width: Number of bars.

    Returns:
        float64 `[width]`, the highest is 1; all 0 without finite elements.

    Raises:
        StatisticError: `width` is not positive.
    """
    if width < 1:
        raise StatisticError(f"a width of {width} holds no bars. Accepted are integers from 1.")
    low, high = value_range(counts)
    if not low < high:
        return np.zeros(width)
    axis = low + (high - low) * (np.arange(width + 1) / width)
    # Rounding must not leave the last bin's mass outside.
    axis[-1] = high
    running = np.append(0.0, np.cumsum(counts[IN_ORDER], dtype=np.float64))
    edges = np.append(_LOWER, _UPPER[-1])
    heights = np.diff(np.interp(axis, edges, running))
    top = heights.max()
    return np.maximum(heights, 0.0) / top if top > 0 else np.zeros(width)

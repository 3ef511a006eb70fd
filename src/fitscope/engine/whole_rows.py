"""Moments of small tensors that left a step whole, in float64 on the host.

Dozens of operations on a device for a few thousand elements take longer than to hand these over.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fitscope.engine.raw_rows import NONE, Shape, of_units
from fitscope.engine.vector import BINS, stride
from fitscope.statistics.moments import COLUMNS, PLACE

LARGEST = 4096
"""Elements of a tensor up to which it is to leave whole; where a batch turns out larger than could
be known when the step was traced, there are more."""


def read_whole(
    values: NDArray[np.float32], shape: Shape
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Reduce tensors of one shape.

    Args:
        values: `[tensors, size]`, each flat, its units along its last axis.
        shape: theirs.

    Returns:
        `(moments [tensors, len(COLUMNS)], counts [tensors, BINS], places [tensors])`; a place is
        that of the first element that is not finite, -1 where all are.
    """
    tensors = len(values)
    out = np.zeros((tensors, len(COLUMNS)))
    finite = np.isfinite(values)
    found = _of_finite(values) if finite.all() and shape.size else _of_any(values, finite)
    found |= {"count": shape.size, "units": shape.n_units, "hist_count": shape.sampled}
    found["zeros"] = shape.size - np.count_nonzero(values, 1)
    of = _units(values, shape) if shape.size else NONE
    found |= zip(("dead_units", "saturated", "saturated_units"), of[2:], strict=True)
    for name, value in found.items():
        out[:, PLACE[name]] = value
    sample = np.ascontiguousarray(values[:, :: stride(shape.size)[0]])
    bins = (sample.view(np.uint32) >> 21) + np.arange(tensors, dtype=np.uint32)[:, None] * BINS
    counts = np.bincount(bins.reshape(-1), minlength=tensors * BINS).reshape(tensors, BINS)
    places = np.full(tensors, -1, np.int64)
    for i in np.flatnonzero(~finite.all(1)):
        places[i] = finite[i].argmin()
    return out, counts, places


def _of_finite(values: NDArray[np.float32]) -> dict[str, Any]:
    """Some of the moments of tensors all elements of which are finite, as nearly always."""
    exact = values.astype(np.float64)
    mean = exact.mean(1)
    away = exact - mean[:, None]
    return {
        "mean": mean,
        "std": np.sqrt(np.square(away, out=away).mean(1)),
        "mean_abs": np.abs(exact, out=exact).mean(1),
        "min": values.min(1),
        "max": values.max(1),
    }


def _of_any(values: NDArray[np.float32], finite: NDArray[np.bool_]) -> dict[str, Any]:
    """As `_of_finite`, and how many elements are not finite."""
    n = finite.sum(1)
    exact = np.where(finite, values, 0).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):  # of no element there is no mean
        mean = exact.sum(1) / n
        away = np.where(finite, exact - mean[:, None], 0.0)
        return {
            "nan": np.isnan(values).sum(1),
            "posinf": (values == np.inf).sum(1),
            "neginf": (values == -np.inf).sum(1),
            "mean": mean,
            "std": np.sqrt(np.square(away).sum(1) / n),
            "mean_abs": np.abs(exact).sum(1) / n,
            "min": _of_some(np.where(finite, values, np.inf).min(1, initial=np.inf), n),
            "max": _of_some(np.where(finite, values, -np.inf).max(1, initial=-np.inf), n),
        }


def _of_some(extreme: NDArray[np.float32], n: NDArray[np.int64]) -> NDArray[np.float32]:
    return np.where(n > 0, extreme, np.nan)


def _units(values: NDArray[np.float32], shape: Shape) -> tuple[Any, ...]:
    rows = values.reshape(len(values), -1, shape.n_units)
    low, high = shape.zones.saturated_below, shape.zones.saturated_above
    saturated = None
    if shape.saturates:
        inside = np.zeros(rows.shape, bool)
        if low is not None:
            inside |= rows <= np.float32(low)
        if high is not None:
            inside |= rows >= np.float32(high)
        saturated = inside.sum(1)
    return of_units(shape, rows.min(1), rows.max(1), saturated)

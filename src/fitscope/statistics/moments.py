"""The moments of one tensor: what is stored, how it is merged, what follows from it.

A row holds `COLUMNS` in this order, as float64. `mean` to `max` are over the finite elements and
NaN when there is none; all others are exact counts (float64 counts exactly up to 2**53).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fitscope.errors import StatisticError
from fitscope.statistics.descriptions import ALL as ALL
from fitscope.statistics.descriptions import COLUMN_DESCRIPTIONS, DERIVED_DESCRIPTIONS, unknown
from fitscope.statistics.descriptions import describe as describe

Array = NDArray[np.float64]

COLUMNS: tuple[str, ...] = tuple(COLUMN_DESCRIPTIONS)
DERIVED: tuple[str, ...] = tuple(DERIVED_DESCRIPTIONS)
PLACE: dict[str, int] = {name: place for place, name in enumerate(COLUMNS)}

_ADDED = [PLACE[name] for name in ("count", "nan", "posinf", "neginf", "zeros", "saturated")]
_ADDED.append(PLACE["hist_count"])
_JOINED = ("mean", "std", "mean_abs")


def empty(*shape: int) -> Array:
    """Moments of no data at all, the neutral element of `merge`.

    Args:
        shape: Leading shape.

    Returns:
        float64 array `[*shape, len(COLUMNS)]`.
    """
    moments = np.zeros((*shape, len(COLUMNS)), np.float64)
    moments[..., PLACE["mean"] : PLACE["max"] + 1] = np.nan
    return moments


def merge(a: ArrayLike, b: ArrayLike) -> Array:
    """Moments of two disjoint pieces of data together.

    Counts add. Means and standard deviations merge by Chan, Golub and LeVeque (1983), "Algorithms
    for computing the sample variance", on the finite counts. Which units are dead over both pieces
    is not known from the pieces: the shares of dead and saturated units are averaged, weighted by
    count, over the pieces that have units.

    Args:
        a: Float array `[..., len(COLUMNS)]`.
        b: The same, broadcast against `a`.

    Returns:
        float64 array of the broadcast shape. Exactly commutative, associative to rounding.

    Raises:
        StatisticError: The last axis does not hold `COLUMNS`.

    Example:
        >>> merge(empty(), empty())[PLACE["count"]].item()
        0.0
    """
    a, b = np.broadcast_arrays(_moments(a), _moments(b))
    merged = np.empty(a.shape, np.float64)
    merged[..., _ADDED] = a[..., _ADDED] + b[..., _ADDED]
    _merge_units(a, b, merged)
    na, nb = derive(a, "finite"), derive(b, "finite")
    # The piece with more data is the base, ties by mean, so that the order cannot matter.
    mean_a, mean_b = a[..., PLACE["mean"]], b[..., PLACE["mean"]]
    swap = (nb > na) | ((nb == na) & (mean_b < mean_a))
    base, other = np.where(swap[..., None], b, a), np.where(swap[..., None], a, b)
    n_base, n_other = np.maximum(na, nb), np.minimum(na, nb)
    share = n_other / np.maximum(n_base + n_other, 1.0)
    mean, std, mean_abs = (base[..., PLACE[name]] for name in _JOINED)
    other_mean, other_std, other_mean_abs = (other[..., PLACE[name]] for name in _JOINED)
    # A device that sums in float32 may overflow and hand over infinite moments: no warning then.
    with np.errstate(invalid="ignore", over="ignore"):
        delta = other_mean - mean
        variance = (1.0 - share) * std**2 + share * (other_std**2 + (1.0 - share) * delta**2)
        joined = (
            mean + share * delta,
            np.sqrt(variance),
            mean_abs + share * (other_mean_abs - mean_abs),
        )
    for name, values in zip(_JOINED, joined, strict=True):
        # Without finite elements in the other piece its NaNs must not spread.
        merged[..., PLACE[name]] = np.where(n_other > 0, values, base[..., PLACE[name]])
    merged[..., PLACE["min"]] = np.fmin(a[..., PLACE["min"]], b[..., PLACE["min"]])
    merged[..., PLACE["max"]] = np.fmax(a[..., PLACE["max"]], b[..., PLACE["max"]])
    return merged


def derive(columns: ArrayLike, name: str) -> Array:
    """A statistic of moments.

    Args:
        columns: Float array `[..., len(COLUMNS)]`.
        name: One of `COLUMNS` or `DERIVED`.

    Returns:
        float64 array of the leading shape; NaN where it is undefined (no finite elements, or a
        share of nothing).

    Raises:
        StatisticError: `name` is neither, or the last axis does not hold `COLUMNS`.
    """
    moments = _moments(columns)
    if name in PLACE:
        return moments[..., PLACE[name]]
    if name not in _FORMULAS:
        raise unknown(name, COLUMN_DESCRIPTIONS | DERIVED_DESCRIPTIONS)
    with np.errstate(invalid="ignore", over="ignore"):
        return np.asarray(_FORMULAS[name](lambda column: moments[..., PLACE[column]]), np.float64)


_Get = Callable[[str], Array]


def _share(part: Array, whole: Array) -> Array:
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole > 0)


def _finite(get: _Get) -> Array:
    return get("count") - get("nan") - get("posinf") - get("neginf")


def _nonfinite(get: _Get) -> Array:
    return get("nan") + get("posinf") + get("neginf")


def _rms(get: _Get) -> Array:
    return np.hypot(get("std"), get("mean"))


_FORMULAS: dict[str, Callable[[_Get], Array]] = {
    "finite": _finite,
    "rms": _rms,
    "absmax": lambda get: np.maximum(np.abs(get("min")), np.abs(get("max"))),
    "l1": lambda get: get("mean_abs") * _finite(get),
    "l2": lambda get: _rms(get) * np.sqrt(_finite(get)),
    "zero_fraction": lambda get: _share(get("zeros"), get("count")),
    "nonfinite": _nonfinite,
    "nonfinite_fraction": lambda get: _share(_nonfinite(get), get("count")),
    "dead_fraction": lambda get: _share(get("dead_units"), get("units")),
    "saturated_fraction": lambda get: _share(get("saturated"), get("count")),
    "saturated_unit_fraction": lambda get: _share(get("saturated_units"), get("units")),
    "sampled_fraction": lambda get: _share(get("hist_count"), get("count")),
}


def _merge_units(a: Array, b: Array, merged: Array) -> None:
    units = np.maximum(a[..., PLACE["units"]], b[..., PLACE["units"]])
    merged[..., PLACE["units"]] = units
    weight_a = np.where(a[..., PLACE["units"]] > 0, a[..., PLACE["count"]], 0.0)
    weight_b = np.where(b[..., PLACE["units"]] > 0, b[..., PLACE["count"]], 0.0)
    for column in ("dead_units", "saturated_units"):
        part_a, part_b = (_share(m[..., PLACE[column]], m[..., PLACE["units"]]) for m in (a, b))
        total = weight_a * np.nan_to_num(part_a) + weight_b * np.nan_to_num(part_b)
        # Two pieces of equal share keep it to the bit, which keeps whole counts whole.
        part = np.where(part_a == part_b, part_a, _share(total, weight_a + weight_b))
        merged[..., PLACE[column]] = np.nan_to_num(part) * units


def _moments(columns: ArrayLike) -> Array:
    moments = np.asarray(columns, np.float64)
    if moments.ndim == 0 or moments.shape[-1] != len(COLUMNS):
        raise StatisticError(
            f"an array of shape {moments.shape} does not hold moments. Accepted is "
            f"[..., {len(COLUMNS)}], with the columns {', '.join(COLUMNS)}."
        )
    return moments

"""Every built-in statistic once more, in NumPy and float64, straight from its definition."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

QUANTILES = {"q01": 1, "q05": 5, "q25": 25, "q50": 50, "q75": 75, "q95": 95, "q99": 99}
COUNTS = (
    "count", "nan", "posinf", "neginf", "zeros", "saturated", "units", "dead_units",
    "saturated_units", "hist_count", "finite", "nonfinite",
)  # fmt: skip
OVER_RMS = ("mean", "std", "mean_abs", "rms")
OVER_EXTREME = ("min", "max", "absmax")
SUMS = ("l1", "l2")
SHARES = (
    "zero_fraction", "nonfinite_fraction", "dead_fraction", "saturated_fraction",
    "saturated_unit_fraction", "sampled_fraction",
)  # fmt: skip
NAMES = [*COUNTS, *OVER_RMS, *OVER_EXTREME, *SUMS, *SHARES, *QUANTILES]


def activation(target: Any) -> str:
    if isinstance(target, keras.layers.ReLU):
        return "relu6" if target.max_value == 6 else "relu"
    if not isinstance(target, keras.layers.Layer):
        return type(target).__name__.lower()
    if isinstance(target, keras.layers.Softmax):
        return "softmax"
    if isinstance(target, keras.layers.RNN):
        return "linear"
    return getattr(getattr(target, "activation", None), "__name__", "linear")


def zone_masks(x: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Which elements are in the dead zone and which are saturated, from the derivative.

    Saturated: the derivative is below 2% of its largest. Dead: zero, for gelu the tail.
    """
    with np.errstate(invalid="ignore"):
        dead = (x >= -1e-3) & (x <= 0) if name == "gelu" else x == 0
        if name == "sigmoid":
            return dead, x * (1 - x) <= 0.25 * 0.02
        if name == "softmax":
            return dead, (x * (1 - x) <= 0.25 * 0.02) & (x > 0.5)
        if name == "tanh":
            return dead, 1 - x * x <= 0.02
        if name == "relu6":
            return dead, x >= 6
    return dead, np.zeros(x.shape, bool)


def expected(array: np.ndarray, target: Any) -> dict[str, float]:
    """The statistics of one tensor, exact ones as whole numbers."""
    x = array.astype(np.float64)
    name = activation(target)
    # Arithmetic on the edge of a zone is done in the precision of the tensor.
    dead, saturated = zone_masks(x, name)
    axis = 1 if getattr(target, "data_format", None) == "channels_first" and x.ndim > 2 else -1
    finite = np.isfinite(x)
    saturated &= finite
    dead |= ~finite
    other = () if x.ndim < 2 else tuple(i for i in range(x.ndim) if i != axis % x.ndim)
    units = 1 if x.ndim < 2 else x.shape[axis]
    if x.ndim < 2:
        other = tuple(range(x.ndim))
    some = finite.any(other)
    f = x[finite]
    out: dict[str, float] = {
        "count": x.size,
        "nan": np.isnan(x).sum(),
        "posinf": np.isposinf(x).sum(),
        "neginf": np.isneginf(x).sum(),
        "zeros": (x == 0).sum(),
        "saturated": saturated.sum(),
        "units": units,
        "dead_units": (dead.all(other) & some).sum(),
        "saturated_units": ((saturated | ~finite).all(other) & some).sum(),
        "hist_count": x.size if x.size <= 8192 else math.nan,
        "finite": finite.sum(),
        "nonfinite": (~finite).sum(),
    }
    out["zero_fraction"] = out["zeros"] / x.size
    out["nonfinite_fraction"] = out["nonfinite"] / x.size
    out["dead_fraction"] = out["dead_units"] / units
    out["saturated_fraction"] = out["saturated"] / x.size
    out["saturated_unit_fraction"] = out["saturated_units"] / units
    out["sampled_fraction"] = out["hist_count"] / x.size
    if not f.size:
        return out | dict.fromkeys((*OVER_RMS, *OVER_EXTREME, *QUANTILES), math.nan)
    scale = np.abs(f).max() or 1.0
    g = f / scale  # squares of 1e300 are none
    out |= {
        "mean": g.mean() * scale,
        "std": g.std() * scale,
        "mean_abs": np.abs(g).mean() * scale,
        "rms": math.sqrt((g * g).mean()) * scale,
        "min": f.min(),
        "max": f.max(),
        "absmax": np.abs(f).max(),
        "l1": np.abs(g).sum() * scale,
        "l2": math.sqrt((g * g).sum()) * scale,
    }
    for quantile, percent in QUANTILES.items():
        out[quantile] = np.quantile(f, percent / 100, method="inverted_cdf")
    return out


def bins_of(array: np.ndarray) -> np.ndarray:
    return (array.astype(np.float32).view(np.uint32) >> 21).astype(np.int64)


def bin_around(value: float) -> tuple[float, float]:
    """Magnitudes between which the values of the bin of `value` lie."""
    bits = int(np.float32(abs(value)).view(np.uint32)) >> 21
    low, high = (np.uint32((bits + i) << 21).view(np.float32) for i in (0, 1))
    return float(low), float(high)


def differences(
    got: Mapping[str, float], array: np.ndarray, target: Any, *, half: bool
) -> list[str]:
    """What is wrong with the reported statistics of a tensor, empty when they are true.

    float32: counts are exact; other statistics hold to 1e-5 of their own size, or of the rms (for
    mean and standard deviation, which cancel) or the largest magnitude (for the extremes, which are
    single elements). Half precision: 1e-2, and as many elements may change sides of a limit, since
    XLA keeps more digits inside a fusion than the stored dtype has and an eager replay does not.
    Quantiles: the exact one lies in the reported bin, but for what an element may move: its own
    1e-5, and 1e-6 of the rms where it is the small difference of larger numbers (1e-2 of both in
    half precision).
    """
    want = expected(array, target)
    tolerance = 1e-2 if half else 1e-5
    wrong: list[str] = []
    rms = want["rms"]
    for name in NAMES:
        g, w = float(got[name]), float(want[name])
        if math.isnan(w) and name in ("hist_count", "sampled_fraction"):
            continue
        if math.isnan(w) or math.isnan(g):
            ok = math.isnan(w) and math.isnan(g)
        elif name in COUNTS:
            moves = half and name in ("zeros", "saturated", "dead_units", "saturated_units")
            ok = abs(g - w) <= (max(1.0, 0.01 * want["count"]) if moves else 0)
        elif name in QUANTILES:
            ok = _in_bin(g, w, tolerance, rms)
        elif name in SHARES:
            slack = 0.01 + 1.0 / want["units"] if half else 1e-12
            ok = abs(g - w) <= slack
        elif name in OVER_RMS:
            ok = abs(g - w) <= tolerance * rms
        elif name in OVER_EXTREME:
            ok = abs(g - w) <= tolerance * want["absmax"]
        else:
            ok = abs(g - w) <= tolerance * w
        if not ok:
            wrong.append(f"{name}: reported {g!r}, NumPy says {w!r}")
    return wrong


def _in_bin(reported: float, exact: float, tolerance: float, rms: float) -> bool:
    low, high = bin_around(reported)
    slack = tolerance * abs(exact) + (1e-6 if tolerance < 1e-3 else tolerance) * rms
    if reported == 0 or exact == 0:
        return abs(exact - reported) <= max(high, slack) if reported == 0 else low <= slack
    if (reported < 0) != (exact < 0):
        return abs(exact) <= slack and low <= slack
    return low - slack <= abs(exact) <= high + slack


def histogram_differences(counts: np.ndarray, array: np.ndarray, *, half: bool) -> str | None:
    """The histogram of the tensor, but for elements at the very edge of a bin."""
    x = array.astype(np.float32).ravel()
    want = np.bincount(bins_of(x), minlength=2048)
    moved = np.abs(np.asarray(counts, np.int64) - want).sum()
    tolerance = 1e-2 if half else 1e-5
    finite = np.isfinite(x)
    size = np.abs(x[finite])
    rms = float(np.sqrt(np.mean(np.square(size, dtype=np.float64)))) if size.size else 0.0
    slack = tolerance * size + (tolerance if half else 1e-6) * rms
    near = (bins_of(size + slack) != bins_of(np.maximum(size - slack, 0))).sum()
    if moved <= 2 * near:
        return None
    return f"histogram: {moved} counts differ, {near} elements lie at an edge"

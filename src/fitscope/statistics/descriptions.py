"""Every built-in statistic by name, with one line on what it is."""

from __future__ import annotations

import difflib

from fitscope.errors import StatisticError

COLUMN_DESCRIPTIONS: dict[str, str] = {
    "count": "number of elements",
    "nan": "number of NaN elements",
    "posinf": "number of elements that are +infinity",
    "neginf": "number of elements that are -infinity",
    "zeros": "number of elements that are exactly zero",
    "saturated": "number of elements in the flat zone of the layer's activation",
    "units": "number of units (places along the last axis, or channels)",
    "dead_units": "number of units that stay in the activation's dead zone for the whole batch",
    "saturated_units": "number of units that stay saturated for the whole batch",
    "mean": "mean of the finite elements",
    "std": "population standard deviation of the finite elements",
    "mean_abs": "mean magnitude of the finite elements",
    "min": "smallest finite element",
    "max": "largest finite element",
    "hist_count": "number of elements in the histogram, fewer than count when subsampled",
}

DERIVED_DESCRIPTIONS: dict[str, str] = {
    "finite": "number of finite elements",
    "rms": "root of the mean square of the finite elements",
    "absmax": "largest magnitude of the finite elements",
    "l1": "sum of the magnitudes of the finite elements",
    "l2": "Euclidean norm of the finite elements",
    "zero_fraction": "share of the elements that are exactly zero",
    "nonfinite": "number of NaN and infinite elements",
    "nonfinite_fraction": "share of the elements that are NaN or infinite",
    "dead_fraction": "share of the units that stay in the dead zone for the whole batch",
    "saturated_fraction": "share of the elements in the flat zone of the layer's activation",
    "saturated_unit_fraction": "share of the units that stay saturated for the whole batch",
    "sampled_fraction": "share of the elements that are in the histogram",
}

QUANTILES: dict[str, float] = {
    "q01": 0.01,
    "q05": 0.05,
    "q25": 0.25,
    "q50": 0.50,
    "q75": 0.75,
    "q95": 0.95,
    "q99": 0.99,
}

RANGED_DTYPES: tuple[str, ...] = ("float16", "bfloat16", "float8_e4m3", "float8_e5m2")

HISTOGRAM_DESCRIPTIONS: dict[str, str] = {
    **{
        name: f"{q:.0%} quantile of the finite elements, right to the histogram's bin"
        for name, q in QUANTILES.items()
    },
    **{
        f"{dtype}_{side}": f"share of the nonzero finite elements that {dtype} would store as {to}"
        for dtype in RANGED_DTYPES
        for side, to in (("underflow", "zero"), ("overflow", "infinity or NaN"))
    },
}

ALL: dict[str, str] = {**COLUMN_DESCRIPTIONS, **DERIVED_DESCRIPTIONS, **HISTOGRAM_DESCRIPTIONS}


def describe(name: str) -> str:
    """One line on what a built-in statistic is.

    Raises:
        StatisticError: There is no such statistic.

    Example:
        >>> describe("rms")
        'root of the mean square of the finite elements'
    """
    if name not in ALL:
        raise unknown(name, ALL)
    return ALL[name]


def unknown(name: str, known: dict[str, str]) -> StatisticError:
    """The error for a name that is not among the known ones."""
    near = difflib.get_close_matches(name, known, n=3)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    return StatisticError(f"unknown statistic {name!r}.{hint} Accepted here: {', '.join(known)}.")

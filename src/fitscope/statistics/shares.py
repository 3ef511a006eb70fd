"""How much of a tensor a narrower float format would lose, read off the magnitude bins.

A value underflows when rounding to nearest makes a nonzero value zero, and overflows when it
becomes infinite (or, in float8_e4m3, which has no infinity, NaN or the largest number). A bin
counts when all its values do, so a share is exact up to the part of one bin, and never too large:

================  ====================  ==============  ====================  ============
format            underflows            counted below   overflows             counted from
================  ====================  ==============  ====================  ============
float16           ``|x| <= 2**-25``     2**-25          ``|x| >= 65520``      2**16
bfloat16          see below             2**-126         ``|x| >= 2**128 -     2**128, so
                                                        2**119``              never
float8_e4m3       ``|x| <= 2**-10``     2**-10          ``|x| > 464``         512
float8_e5m2       ``|x| <= 2**-17``     2**-17          ``|x| >= 61440``      2**16
================  ====================  ==============  ====================  ============

Underflow therefore misses the one magnitude on the edge, and overflow what lies between the two
numbers of its row. bfloat16 has the exponents of float32: only values in the bins of zero round to
zero. Counted are its subnormals, from 2**-128, which accelerators flush to zero. Values in the
bins of zero (below 2**-128) count as zero, never as underflow. Source of the limits: IEEE 754 for
float16; "FP8 Formats for Deep Learning", arXiv:2209.05433, for float8.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fitscope.statistics.bins import BINS, IN_ORDER, ZERO_BINS, bin_edges
from fitscope.statistics.descriptions import HISTOGRAM_DESCRIPTIONS, unknown


@dataclass(frozen=True, slots=True)
class Format:
    """The magnitudes that a float format keeps.

    Args:
        underflow: Bins wholly below this magnitude underflow.
        overflow: Bins from this magnitude on overflow.
    """

    underflow: float
    overflow: float


FORMATS: dict[str, Format] = {
    "float16": Format(2.0**-25, 2.0**16),
    "bfloat16": Format(2.0**-126, 2.0**128),
    "float8_e4m3": Format(2.0**-10, 2.0**9),
    "float8_e5m2": Format(2.0**-17, 2.0**16),
}

SHARE_DESCRIPTIONS: dict[str, str] = {
    name: line for name, line in HISTOGRAM_DESCRIPTIONS.items() if name.endswith("flow")
}


def share(counts: NDArray[np.generic], name: str) -> NDArray[np.float64]:
    """A share of the nonzero finite elements, such as `float16_underflow`.

    Args:
        counts: Counts `[..., 2048]` of the magnitude bins.
        name: One of `SHARE_DESCRIPTIONS`.

    Returns:
        float64 array of the leading shape; NaN without finite elements, 0 when all are zero.

    Raises:
        StatisticError: There is no such share.
    """
    if name not in _MASKS:
        raise unknown(name, SHARE_DESCRIPTIONS)
    total = np.asarray(counts[..., IN_ORDER].sum(-1), np.float64)
    nonzero = total - np.asarray(counts[..., list(ZERO_BINS)].sum(-1), np.float64)
    part = np.asarray(counts[..., _MASKS[name]].sum(-1), np.float64)
    nothing = np.where(total > 0, 0.0, np.nan)
    return np.divide(part, nonzero, out=nothing, where=nonzero > 0)


def _mask(name: str) -> NDArray[np.bool_]:
    dtype, _, side = name.rpartition("_")
    lower, upper = bin_edges(np.arange(BINS))
    near, far = np.fmin(np.abs(lower), np.abs(upper)), np.fmax(np.abs(lower), np.abs(upper))
    if side == "overflow":
        return near >= FORMATS[dtype].overflow
    mask = far <= FORMATS[dtype].underflow
    mask[list(ZERO_BINS)] = False
    return mask


_MASKS: dict[str, NDArray[np.bool_]] = {name: _mask(name) for name in SHARE_DESCRIPTIONS}

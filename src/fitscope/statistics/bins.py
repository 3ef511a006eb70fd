"""The universal magnitude bins: sign, exponent and two mantissa bits of a float32.

Bin number = the top 11 of the 32 bits: 0 to 1019 are the finite positive values upwards, 1024 to
2043 the finite negative values downwards, 1020 to 1023 +inf and NaN, 2044 to 2047 -inf and NaN.
A bin spans a quarter of a power of two: its edges are at most 25% apart. The first bin of each
sign (0 and 1024) holds zero together with the subnormals below 2**-128, a quarter of the smallest
normal number: these two bins count as zero.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fitscope.errors import StatisticError

BINS = 2048
ZERO_BINS: tuple[int, int] = (0, 1024)

_SHIFT = 21
_FINITE = 1020
_SIGN = 1024

IN_ORDER: NDArray[np.int64] = np.concatenate(
    [np.arange(_SIGN + _FINITE - 1, _SIGN - 1, -1), np.arange(_FINITE)]
)
"""The 2040 finite bins by value, from the most negative to the most positive."""


def bin_of(values: ArrayLike) -> NDArray[np.int64]:
    """The bin of each value.

    Args:
        values: float32 array. float16 and bfloat16 are widened, which is exact; anything else is
            rounded to float32 first.

    Returns:
        int64 array of the same shape, 0 to 2047.

    Example:
        >>> bin_of(np.float32([0.0, 1.0, 1.25, -1.0])).tolist()
        [0, 508, 509, 1532]
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        exact = np.asarray(values).astype(np.float32)
    return (exact.view(np.uint32) >> np.uint32(_SHIFT)).astype(np.int64)


def bin_edges(bins: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The values between which a bin lies.

    Args:
        bins: Integer array of bin numbers.

    Returns:
        `(lower, upper)`, float64 arrays of the same shape with lower < upper. The edge nearer to
        zero belongs to the bin, the other one to the next bin. NaN for the bins of inf and NaN.

    Raises:
        StatisticError: A number is not 0 to 2047.

    Example:
        >>> lower, upper = bin_edges(508)
        >>> lower.item(), upper.item()
        (1.0, 1.25)
    """
    number = _checked(bins)
    place = number % _SIGN
    near, far = _magnitude(place), _magnitude(place + 1)
    negative = number >= _SIGN
    finite = place < _FINITE
    lower = np.where(finite, np.where(negative, -far, near), np.nan)
    return lower, np.where(finite, np.where(negative, -near, far), np.nan)


def bin_middle(bins: ArrayLike) -> NDArray[np.float64]:
    """The value that stands for a bin: its midpoint, an exact float32 within the bin.

    Args:
        bins: Integer array of bin numbers.

    Returns:
        float64 array of the same shape; 0 for the two bins of zero, NaN for those of inf and NaN.
    """
    number = _checked(bins)
    lower, upper = bin_edges(number)
    return np.where(number % _SIGN == 0, 0.0, (lower + upper) / 2)


def _magnitude(place: NDArray[np.int64]) -> NDArray[np.float64]:
    """The magnitude at which a positive bin starts; 2**128 after the last finite bin."""
    exponent, mantissa = place >> 2, place & 3
    subnormal = exponent == 0
    significand = np.where(subnormal, mantissa, mantissa + 4).astype(np.float64)
    return np.ldexp(significand, np.maximum(exponent, 1) - 129)


def _checked(bins: ArrayLike) -> NDArray[np.int64]:
    number = np.asarray(bins)
    if number.dtype.kind not in "iu" or ((number < 0) | (number >= BINS)).any():
        raise StatisticError(
            f"{bins!r} are not bins. Accepted are integers from 0 to {BINS - 1}, as bin_of gives."
        )
    return number.astype(np.int64)

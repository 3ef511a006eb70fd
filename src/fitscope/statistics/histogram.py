"""Magnitude histograms: 2048 bins, the same for every tensor, so that merging is addition."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fitscope.errors import StatisticError
from fitscope.statistics.bars import bars, value_range
from fitscope.statistics.bins import BINS as BINS
from fitscope.statistics.bins import IN_ORDER, ZERO_BINS, bin_edges, bin_middle
from fitscope.statistics.bins import bin_of as bin_of
from fitscope.statistics.descriptions import HISTOGRAM_DESCRIPTIONS, QUANTILES, unknown
from fitscope.statistics.shares import SHARE_DESCRIPTIONS, share

Counts = NDArray[np.int64] | NDArray[np.float64]

# Zero is one value in two bins: its bins are joined before ranks are counted.
_FIRST_ZERO = int(np.flatnonzero(ZERO_BINS[1] == IN_ORDER)[0])
_RANKED = np.delete(IN_ORDER, _FIRST_ZERO)


@dataclass(frozen=True, slots=True, eq=False)
class Histogram:
    """Counts of the magnitude bins of one tensor, or of many.

    Args:
        counts: int64 or float64 array `[2048]`; see `fitscope.statistics.bins`.

    Raises:
        StatisticError: `counts` has another shape, or a count is negative or not finite.

    Example:
        >>> ones, twos = Histogram.of(np.ones(3)), Histogram.of(np.full(7, 2.0))
        >>> (ones + twos).total
        10.0
    """

    counts: Counts

    def __post_init__(self) -> None:
        object.__setattr__(self, "counts", _counts(self.counts))
        if self.counts.shape != (BINS,):
            raise StatisticError(
                f"counts of shape {self.counts.shape} are not a histogram. Accepted is ({BINS},)."
            )

    @classmethod
    def of(cls, values: ArrayLike) -> Histogram:
        """The histogram of an array of any shape, computed on the host."""
        return cls(np.bincount(bin_of(values).ravel(), minlength=BINS))

    @classmethod
    def empty(cls) -> Histogram:
        """The histogram of nothing, the neutral element of `+`."""
        return cls(np.zeros(BINS, np.int64))

    def __add__(self, other: Histogram) -> Histogram:
        return Histogram(merge(self.counts, other.counts))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Histogram) and np.array_equal(self.counts, other.counts)

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def __repr__(self) -> str:
        if not self.total:
            return "Histogram(no finite elements)"
        low, middle, high = (self.quantile(q) for q in (0.01, 0.5, 0.99))
        return f"Histogram({self.total:g} elements, q01={low:.3g} q50={middle:.3g} q99={high:.3g})"

    @property
    def total(self) -> float:
        """Number of finite elements."""
        return float(self.counts[IN_ORDER].sum())

    @property
    def zeros(self) -> float:
        """Number of elements in the two bins of zero, subnormals below 2**-128 included."""
        return float(self.counts[list(ZERO_BINS)].sum())

    @property
    def nonfinite(self) -> float:
        """Number of infinite and NaN elements."""
        return float(self.counts.sum()) - self.total

    @property
    def edges(self) -> NDArray[np.float64]:
        """float64 `[2041]`, ascending: the edges between the finite bins in order of value."""
        lower, upper = bin_edges(IN_ORDER)
        return np.append(lower, upper[-1])

    @property
    def in_order(self) -> Counts:
        """`[2040]`: the counts between `edges`."""
        return self.counts[IN_ORDER]

    def quantile(self, q: float) -> float:
        """The quantile, right to the bin; see `quantile` of this module."""
        return float(quantile(self.counts, q))

    def quantiles(self, qs: Iterable[float]) -> NDArray[np.float64]:
        """Several quantiles."""
        return quantile(self.counts, list(qs))

    def percentiles(self, ps: Iterable[float]) -> NDArray[np.float64]:
        """Several quantiles, as numbers from 0 to 100."""
        return quantile(self.counts, np.asarray(list(ps), np.float64) / 100.0)

    def statistic(self, name: str) -> float:
        """A statistic by its name: one of `HISTOGRAM_DESCRIPTIONS`.

        Raises:
            StatisticError: There is no such statistic.
        """
        return float(derive_from_histogram(self.counts, name))

    def value_range(self) -> tuple[float, float]:
        """The values between which `to_bars` draws; (nan, nan) without finite elements."""
        return value_range(self.counts)

    def to_bars(self, width: int = 32) -> NDArray[np.float64]:
        """Relative heights for drawing, over `value_range()` on a linear axis.

        Args:
            width: Number of bars.

        Returns:
            float64 `[width]`, from 0 to 1; the highest bar is 1. All 0 without finite elements.
        """
        return bars(self.counts, width)


def merge(a: ArrayLike, b: ArrayLike) -> Counts:
    """Counts of two disjoint pieces of data together: int64 when both are integers."""
    return _counts(np.asarray(_counts(a) + _counts(b)))


def quantile_bin(counts: ArrayLike, q: ArrayLike) -> NDArray[np.int64]:
    """The bin in which a quantile of the finite elements lies.

    The bin is exact: it holds NumPy's `quantile(values, q, method="inverted_cdf")`. Zero has two
    bins; both are answered as 0.

    Args:
        counts: Counts `[..., 2048]`.
        q: Probabilities `[...q]`, from 0 to 1.

    Returns:
        int64 array `[...q, ...]`; -1 without finite elements.

    Raises:
        StatisticError: A probability is out of range.
    """
    counts = _counts(counts)
    probabilities = np.asarray(q, np.float64)
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise StatisticError(f"{q!r} is not a probability. Accepted are numbers from 0 to 1.")
    by_value = counts[..., _RANKED]
    by_value[..., _FIRST_ZERO] += counts[..., ZERO_BINS[1]]
    running = by_value.cumsum(-1)
    total = running[..., -1]
    found = np.empty((probabilities.size, *total.shape), np.int64)
    for place, probability in enumerate(probabilities.ravel()):
        # NumPy's own formula, so that rounding falls the same way.
        rank = np.clip(np.ceil(total * probability - 1) + 1, 1, None)
        # Fractional weights may be less than one in all.
        rank = np.minimum(rank, total)
        below = (running < rank[..., None]).sum(-1)
        found[place] = np.where(total > 0, _RANKED[np.minimum(below, len(_RANKED) - 1)], -1)
    return found.reshape((*probabilities.shape, *total.shape))


def quantile(counts: ArrayLike, q: ArrayLike) -> NDArray[np.float64]:
    """A quantile of the finite elements, as the middle of the bin in which it lies.

    It is within 12.5% of the exact quantile (method "inverted_cdf") of the same data, and 0 for
    magnitudes below 2**-128.

    Args:
        counts: Counts `[..., 2048]`.
        q: Probabilities `[...q]`, from 0 to 1.

    Returns:
        float64 array `[...q, ...]`; NaN without finite elements.

    Raises:
        StatisticError: A probability is out of range.
    """
    bins = quantile_bin(counts, q)
    return np.where(bins >= 0, bin_middle(np.maximum(bins, 0)), np.nan)


def derive_from_histogram(counts: ArrayLike, name: str) -> NDArray[np.float64]:
    """A statistic of histograms by its name.

    Args:
        counts: Counts `[..., 2048]`.
        name: One of `HISTOGRAM_DESCRIPTIONS`, such as `"q95"` or `"float16_underflow"`.

    Returns:
        float64 array of the leading shape; NaN without finite elements.

    Raises:
        StatisticError: There is no such statistic.
    """
    if name in QUANTILES:
        return quantile(counts, QUANTILES[name])
    if name in SHARE_DESCRIPTIONS:
        return share(_counts(counts), name)
    raise unknown(name, HISTOGRAM_DESCRIPTIONS)


def sparse(counts: ArrayLike) -> tuple[NDArray[np.uint16], NDArray[np.uint32]]:
    """The bins that are not empty, and their counts.

    Raises:
        StatisticError: A count is not a whole number below 2**32.
    """
    dense_counts = _counts(counts)
    if (dense_counts != np.floor(dense_counts)).any() or (dense_counts > 0xFFFFFFFF).any():
        raise StatisticError(
            f"counts up to {dense_counts.max():g} are not sparse counts. Accepted are whole "
            "numbers below 2**32; store larger merges as dense counts."
        )
    bins = np.flatnonzero(dense_counts)
    return bins.astype(np.uint16), dense_counts[bins].astype(np.uint32)


def dense(bins: ArrayLike, counts: ArrayLike) -> NDArray[np.int64]:
    """The inverse of `sparse`; the counts of a bin that occurs twice add up."""
    places = np.asarray(bins).astype(np.int64)
    if places.size and (places.min() < 0 or places.max() >= BINS):
        raise StatisticError(
            f"bins {places.min()} to {places.max()} are not of a histogram. Accepted are integers "
            f"from 0 to {BINS - 1}."
        )
    result = np.zeros(BINS, np.int64)
    np.add.at(result, places, np.asarray(counts).astype(np.int64))
    return result


def _counts(counts: ArrayLike) -> Counts:
    array = np.asarray(counts)
    if array.shape[-1:] != (BINS,) or array.dtype.kind not in "iuf":
        raise StatisticError(
            f"an array of shape {array.shape} and dtype {array.dtype} does not hold counts. "
            f"Accepted is [..., {BINS}] of integers or floats."
        )
    if array.size and not (array.min() >= 0 and math.isfinite(array.max())):
        raise StatisticError("counts are negative or not finite. Accepted are numbers from 0 up.")
    if array.dtype.kind == "f":
        return array.astype(np.float64, copy=False)
    return array.astype(np.int64, copy=False)

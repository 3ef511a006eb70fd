"""Bins, quantiles and shares, against NumPy and against real casts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fitscope.errors import StatisticError
from fitscope.statistics.bins import BINS, IN_ORDER, ZERO_BINS, bin_edges, bin_middle, bin_of
from fitscope.statistics.descriptions import HISTOGRAM_DESCRIPTIONS
from fitscope.statistics.histogram import (
    Histogram,
    dense,
    derive_from_histogram,
    merge,
    quantile,
    quantile_bin,
    sparse,
)

BITS = hnp.arrays(np.uint32, st.integers(0, 40), elements=st.integers(0, 2**32 - 1))
ANY = BITS.map(lambda bits: bits.view(np.float32))
NORMAL = st.tuples(st.integers(0, 2**32 - 1), st.integers(-40, 40), st.integers(1, 60)).map(
    lambda t: (np.random.default_rng(t[0]).normal(size=t[2]) * 2.0 ** t[1]).astype(np.float32)
)
DATA = ANY | NORMAL
EDGES = np.array(
    [0, 1, 2**21 - 1, 2**21, 0x7F7FFFFF, 0x7F800000, 0x7F800001, 0x7FC00000], np.uint32
)


@given(ANY)
def test_a_value_lies_between_the_edges_of_its_bin(x: np.ndarray) -> None:
    bins = bin_of(x)
    np.testing.assert_array_equal(bins, x.view(np.uint32) >> 21)
    lower, upper = bin_edges(bins)
    finite = np.isfinite(x)
    assert np.isnan(lower[~finite]).all()
    x, lower, upper = (a[finite].astype(np.float64) for a in (x, lower, upper))
    negative = np.signbit(x)
    assert ((lower < x) & (x <= upper))[negative].all()
    assert ((lower <= x) & (x < upper))[~negative].all()


def test_the_corner_cases_of_float32() -> None:
    x = np.concatenate([EDGES, EDGES | np.uint32(1 << 31)]).view(np.float32)
    positive = [0, 0, 0, 1, 1019, 1020, 1020, 1022]
    assert bin_of(x).tolist() == [*positive, *(place + 1024 for place in positive)]
    assert bin_edges(1019)[1] == 2.0**128
    assert bin_edges(0) == (0.0, 2.0**-128)


def test_every_edge_and_middle_is_in_its_bin() -> None:
    lower, upper = bin_edges(IN_ORDER)
    assert (lower[1:] == upper[:-1]).all()
    near = np.where(IN_ORDER >= 1024, upper, lower).astype(np.float32)
    near = np.where(IN_ORDER >= 1024, -np.abs(near), near)
    np.testing.assert_array_equal(bin_of(near), IN_ORDER)
    middle = bin_middle(IN_ORDER)
    inner = ~np.isin(IN_ORDER, ZERO_BINS)
    np.testing.assert_array_equal(bin_of(middle[inner]), IN_ORDER[inner])
    assert (middle[~inner] == 0).all()


@given(DATA, DATA)
def test_merging_is_the_histogram_of_the_concatenation(x: np.ndarray, y: np.ndarray) -> None:
    together = Histogram.of(np.concatenate([x, y]))
    assert Histogram.of(x) + Histogram.of(y) == together
    assert Histogram.of(x) + Histogram.empty() == Histogram.of(x)
    np.testing.assert_array_equal(merge(*(Histogram.of(a).counts for a in (x, y))), together.counts)
    assert together.total == np.isfinite(x).sum() + np.isfinite(y).sum()
    assert together.nonfinite == x.size + y.size - together.total


@given(DATA, st.floats(0, 1) | st.sampled_from([0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0]))
def test_a_quantile_is_right_to_the_bin(x: np.ndarray, q: float) -> None:
    counts = Histogram.of(x).counts
    finite = x[np.isfinite(x)].astype(np.float64)
    got = quantile_bin(counts, q)
    if not finite.size:
        assert got == -1
        assert np.isnan(quantile(counts, q))
        return
    exact = np.quantile(finite, q, method="inverted_cdf")
    want = bin_of(exact)
    assert got == (0 if want in ZERO_BINS else want)
    assert quantile(counts, q) == pytest.approx(exact, rel=0.126, abs=2.0**-126)


def test_quantiles_of_many_histograms_at_once() -> None:
    x = np.random.default_rng(0).normal(size=(3, 2, 50)).astype(np.float32)
    counts = np.stack([[Histogram.of(row).counts for row in rows] for rows in x])
    got = quantile(counts, [0.1, 0.9])
    assert got.shape == (2, 3, 2)
    assert got[1, 2, 0] == Histogram.of(x[2, 0]).quantile(0.9)
    h = Histogram.of(x)
    np.testing.assert_array_equal(h.percentiles([0, 25, 100]), h.quantiles([0.0, 0.25, 1.0]))


def test_fractional_weights_have_quantiles() -> None:
    counts = np.zeros(BINS)
    counts[[508, 512]] = 0.25, 0.5
    assert quantile(counts, [0.0, 1.0])[1] == bin_middle(512)


@given(DATA)
def test_sparse_and_dense_are_inverse(x: np.ndarray) -> None:
    counts = Histogram.of(x).counts
    bins, values = sparse(counts)
    assert (bins.dtype, values.dtype) == (np.uint16, np.uint32)
    assert (values > 0).all()
    np.testing.assert_array_equal(dense(bins, values), counts)


@pytest.mark.parametrize(
    ("name", "cast", "limit", "certain"),
    [
        ("float16", "float16", 65520.0, 2.0**16),
        ("float8_e4m3", "float8_e4m3fn", 464.0, 512.0),
        ("float8_e5m2", "float8_e5m2", 61440.0, 2.0**16),
    ],
)
@given(x=DATA)
def test_shares_are_those_of_real_casts(
    name: str, cast: str, limit: float, certain: float, x: np.ndarray
) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = x[np.isfinite(x) & ((np.abs(x) < limit) | (np.abs(x) >= certain))]
    x = x[(np.abs(x) >= 2.0**-128) | (x == 0)]
    # The one magnitude that ties to zero stands on a bin's edge.
    x = x[~np.isin(np.abs(x), 2.0 ** np.float32([-25, -10, -17]))]
    nonzero = x[x != 0]
    dtype = np.float16 if cast == "float16" else getattr(ml_dtypes, cast)
    with np.errstate(all="ignore"):
        stored = nonzero.astype(dtype).astype(np.float32)
    h = Histogram.of(x)
    if not nonzero.size:
        want = 0.0 if x.size else np.nan
        np.testing.assert_equal(h.statistic(f"{name}_underflow"), want)
        return
    assert h.statistic(f"{name}_underflow") == (stored == 0).mean()
    assert h.statistic(f"{name}_overflow") == (~np.isfinite(stored)).mean()


def test_bfloat16_counts_its_subnormals() -> None:
    h = Histogram.of(np.float32([2.0**-127, 2.0**-126, 3e38, 0.0]))
    assert h.statistic("bfloat16_underflow") == pytest.approx(1 / 3)
    assert h.statistic("bfloat16_overflow") == 0


@given(DATA, st.integers(1, 64))
def test_bars_are_relative_heights(x: np.ndarray, width: int) -> None:
    h = Histogram.of(x)
    heights = h.to_bars(width)
    assert heights.shape == (width,)
    assert ((heights >= 0) & (heights <= 1)).all()
    assert heights.max() == (1 if h.total else 0)


def test_bars_show_the_bulk_where_it_is() -> None:
    x = np.random.default_rng(0).uniform(-4, 4, 100_000).astype(np.float32)
    h = Histogram.of(np.append(x, np.float32(1e30)))
    assert h.value_range() == (-4.0, 4.0)
    np.testing.assert_allclose(h.to_bars(16), 1, atol=0.1)


def test_edges_and_counts_in_order_belong_together() -> None:
    h = Histogram.of(np.float32([-3.0, 0.0, 5.0, np.nan]))
    filled = np.flatnonzero(h.in_order)
    assert h.edges.shape == (h.in_order.size + 1,)
    assert [(h.edges[i], h.edges[i + 1]) for i in filled] == [(-3.5, -3.0), (0, 2.0**-128), (5, 6)]
    assert h.zeros == 1
    assert "3 elements" in repr(h)


def test_narrow_and_wide_dtypes() -> None:
    assert bin_of(np.float16([1.0])).item() == bin_of(np.float64([1.0])).item() == 508
    assert bin_of(np.float64([1e300])).item() == 1020


@pytest.mark.parametrize("name", sorted(HISTOGRAM_DESCRIPTIONS))
def test_every_named_statistic_is_computed(name: str) -> None:
    assert np.isfinite(Histogram.of(np.float32([1, 2])).statistic(name))
    assert np.isnan(Histogram.empty().statistic(name))
    assert derive_from_histogram(np.zeros((4, BINS)), name).shape == (4,)


def test_errors() -> None:
    counts = Histogram.of(np.float32([1])).counts
    for call in (
        lambda: Histogram(np.zeros(3)),
        lambda: Histogram(np.full(BINS, -1)),
        lambda: Histogram(np.full(BINS, np.nan)),
        lambda: Histogram(counts).statistic("q42"),
        lambda: Histogram(counts).to_bars(0),
        lambda: quantile(counts, 1.5),
        lambda: sparse(np.full(BINS, 0.5)),
        lambda: sparse(np.full(BINS, 2**33)),
        lambda: dense([2048], [1]),
        lambda: bin_edges(2048),
    ):
        with pytest.raises(StatisticError):
            call()

"""Merging moments, against NumPy in float64 on the concatenated data."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fitscope.errors import StatisticError
from fitscope.statistics.moments import COLUMNS, DERIVED, PLACE, derive, empty, merge

FLOATS = st.floats(width=32) | st.sampled_from([0.0, -0.0, np.nan, np.inf, -np.inf, 1e-42, 3e38])
CLOSE = st.floats(1e6, 1e6 + 8, width=32)
DATA = hnp.arrays(np.float32, st.integers(0, 12), elements=FLOATS)
DATA |= hnp.arrays(np.float32, st.integers(1, 12), elements=CLOSE)


def moments(x: np.ndarray) -> np.ndarray:
    row = empty()
    finite = x[np.isfinite(x)].astype(np.float64)
    row[:5] = x.size, np.isnan(x).sum(), (x == np.inf).sum(), (x == -np.inf).sum(), (x == 0).sum()
    row[PLACE["saturated"]] = (x > 1).sum()
    row[PLACE["hist_count"]] = x.size
    if finite.size:
        row[PLACE["mean"] : PLACE["max"] + 1] = (
            finite.mean(), finite.std(), np.abs(finite).mean(), finite.min(), finite.max(),
        )  # fmt: skip
    return row


def assert_same(got: np.ndarray, want: np.ndarray) -> None:
    floats = slice(PLACE["mean"], PLACE["max"] + 1)
    scale = np.nan_to_num(derive(want, "absmax"))
    np.testing.assert_allclose(got[floats], want[floats], rtol=1e-9, atol=1e-12 * scale)
    exact = [place for place, name in enumerate(COLUMNS) if "_units" not in name]
    exact = [place for place in exact if not floats.start <= place < floats.stop]
    np.testing.assert_array_equal(got[exact], want[exact])


@given(DATA, DATA)
def test_merge_is_the_moments_of_the_concatenation(x: np.ndarray, y: np.ndarray) -> None:
    assert_same(merge(moments(x), moments(y)), moments(np.concatenate([x, y])))


@given(DATA, DATA, DATA)
def test_merge_is_associative_and_commutative(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> None:
    a, b, c = moments(x), moments(y), moments(z)
    np.testing.assert_array_equal(merge(a, b), merge(b, a))
    assert_same(merge(merge(a, b), c), merge(a, merge(b, c)))
    np.testing.assert_array_equal(merge(a, empty()), a)


@given(st.lists(st.tuples(st.integers(1, 99), st.integers(0, 8)), min_size=3, max_size=3))
def test_unit_shares_merge_as_weighted_means(pieces: list[tuple[int, int]]) -> None:
    rows = empty(3)
    for row, (count, dead) in zip(rows, pieces, strict=True):
        row[[PLACE["count"], PLACE["units"], PLACE["dead_units"]]] = count, 8, dead
    a, b, c = rows
    want = np.average([dead / 8 for _, dead in pieces], weights=[count for count, _ in pieces])
    for merged in (merge(merge(a, b), c), merge(a, merge(c, b))):
        assert merged[PLACE["units"]] == 8
        assert derive(merged, "dead_fraction") == pytest.approx(want)


@pytest.mark.parametrize("mean", [np.inf, -np.inf, np.nan, 1e200])
def test_moments_that_overflowed_on_the_device_neither_warn_nor_get_lost(mean: float) -> None:
    row, usual = empty(), moments(np.float32([1, 2]))
    row[[PLACE["count"], *range(PLACE["mean"], PLACE["max"] + 1)]] = 4, mean, mean, mean, -1, 3e38
    np.testing.assert_array_equal(merge(row, empty()), row)
    for other in (row, usual):
        merged = merge(row, other)
        np.testing.assert_array_equal(merged, merge(other, row))
    assert not np.isfinite(merge(row, usual)[PLACE["mean"]]) or mean == 1e200
    assert all(derive(row, name).shape == () for name in DERIVED)


def test_merge_works_on_whole_tables() -> None:
    rows = np.stack([moments(np.float32([1, 2])), moments(np.float32([np.nan]))])
    merged = merge(rows[:, None], rows[None])
    assert merged.shape == (2, 2, len(COLUMNS))
    assert_same(merged[0, 1], moments(np.float32([1, 2, np.nan])))


@given(DATA)
def test_derived_statistics(x: np.ndarray) -> None:
    row = moments(x)
    finite = x[np.isfinite(x)].astype(np.float64)
    assert derive(row, "finite") == finite.size
    assert derive(row, "nonfinite") == x.size - finite.size
    if finite.size:
        close = {"rtol": 1e-9, "atol": 1e-300}
        np.testing.assert_allclose(derive(row, "l2"), np.sqrt((finite**2).sum()), **close)
        np.testing.assert_allclose(derive(row, "l1"), np.abs(finite).sum(), **close)
        np.testing.assert_allclose(derive(row, "rms"), np.sqrt((finite**2).mean()), **close)
        assert derive(row, "absmax") == np.abs(finite).max()
        assert derive(row, "zero_fraction") == (x == 0).mean()
    for name in (*COLUMNS, *DERIVED):
        assert derive(np.stack([row, row]), name).shape == (2,)


def test_shares_of_nothing_are_nan() -> None:
    assert np.isnan(derive(empty(), "zero_fraction"))
    assert np.isnan(derive(empty(), "dead_fraction"))


def test_errors() -> None:
    with pytest.raises(StatisticError, match="rms"):
        derive(empty(), "rmss")
    with pytest.raises(StatisticError, match="15"):
        merge(np.zeros(3), np.zeros(3))

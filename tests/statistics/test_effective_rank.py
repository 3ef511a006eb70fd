"""The participation ratio, against the eigenvalues of the covariance."""

from __future__ import annotations

import numpy as np
import pytest

from fitscope.errors import StatisticError
from fitscope.statistics.effective_rank import EffectiveRank

RANDOM = np.random.default_rng(0)


def expected(x, rows=32):
    flat = np.asarray(x, np.float64)[:rows].reshape(min(rows, len(x)), -1)
    eigenvalues = np.linalg.eigvalsh(np.cov(flat, rowvar=False, bias=True))
    return eigenvalues.sum() ** 2 / np.square(eigenvalues).sum()


def measured(x, rows=32):
    from keras import ops

    statistic = EffectiveRank(rows)
    state = ops.convert_to_numpy(statistic.update(ops.convert_to_tensor(np.float32(x))))
    return statistic.result(state)


LINE = RANDOM.normal(size=(40, 1)) * RANDOM.normal(size=(1, 12)) + 3.0
CASES = {
    "wide": RANDOM.normal(size=(20, 300)),
    "tall": RANDOM.normal(size=(500, 4)),
    "one direction": LINE,
    "images": RANDOM.normal(size=(40, 5, 5, 3)),
    "large": 1e25 * RANDOM.normal(size=(20, 6)),
    "small": 1e-20 * RANDOM.normal(size=(20, 6)),
    "far from zero": 1000.0 + RANDOM.normal(size=(20, 6)),
    "uneven": RANDOM.normal(size=(40, 8)) * 2.0 ** -np.arange(8),
}


@pytest.mark.parametrize("name", CASES)
def test_is_that_of_the_covariance(name):
    x = CASES[name]
    found = measured(x)
    assert found["rank"] == pytest.approx(expected(x), rel=2e-3)
    flat = np.asarray(x, np.float64)[:32].reshape(min(32, len(x)), -1)
    spread = flat.var(0).sum() / np.square(flat).mean(0).sum()
    assert found["spread"] == pytest.approx(spread, rel=2e-3)
    assert found["possible"] == min(min(32, len(x)) - 1, int(np.prod(x.shape[1:])))


def test_the_first_rows_alone_are_looked_at():
    x = np.concatenate([RANDOM.normal(size=(8, 20)), np.zeros((100, 20))])
    assert measured(x, rows=8)["rank"] == pytest.approx(expected(x, rows=8), rel=1e-3)


@pytest.mark.parametrize("value", [0.0, 1.0, 1000.1])
def test_rows_that_are_equal_have_none(value):
    row = value * RANDOM.normal(size=(1, 50))
    assert measured(np.repeat(row, 20, 0))["rank"] == 0.0


def test_numbers_and_vectors():
    assert measured(RANDOM.normal(size=30))["rank"] == pytest.approx(1.0)
    assert measured(3.0) == {"rank": 0.0, "possible": 0.0, "spread": 0.0}


def test_nan_stays_nan():
    assert np.isnan(measured(np.full((10, 4), np.nan))["rank"])


def test_states_merge_to_means():
    statistic = EffectiveRank()
    a, b = np.float32([4, 10, 0.5, 1]), np.float32([2, 6, 0.25, 1])
    np.testing.assert_array_equal(statistic.merge(a, b), statistic.merge(b, a))
    assert statistic.result(statistic.merge(a, b)) == {
        "rank": 3.0, "possible": 8.0, "spread": 0.375,
    }  # fmt: skip


def test_a_row_has_no_rank():
    with pytest.raises(StatisticError, match="2 or more"):
        EffectiveRank(1)

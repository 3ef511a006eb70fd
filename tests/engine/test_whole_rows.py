"""Tensors that left a step whole, against what NumPy says of each by itself."""

from __future__ import annotations

import numpy as np
import pytest
from tests.engine import sums

from fitscope.engine.raw_rows import Shape
from fitscope.engine.vector import stride
from fitscope.engine.whole_rows import read_whole
from fitscope.statistics.activation import zones
from fitscope.statistics.bins import bin_of
from fitscope.statistics.moments import PLACE


@pytest.mark.parametrize("values", sums.VALUES)
@pytest.mark.parametrize("shape", [(7,), (5, 3), (4, 1), (61, 3, 17)])
@pytest.mark.parametrize("name", ["linear", "relu", "tanh"])
def test_any_values(values: str, shape: tuple[int, ...], name: str) -> None:
    random = np.random.default_rng(5)
    tensors = [sums.made(values, shape, random) for _ in range(3)]
    units = shape[-1] if len(shape) > 1 else 1
    kind = Shape(tensors[0].size, units, zones(name), tensors[0].size)
    moments, counts, places = read_whole(np.stack([x.reshape(-1) for x in tensors]), kind)
    for x, row, held in zip(tensors, moments, counts, strict=True):
        sums.check({key: row[place] for key, place in PLACE.items()}, x, name)
        assert np.array_equal(held, np.bincount(bin_of(x).reshape(-1), minlength=len(held)))
        assert row[PLACE["hist_count"]] == x.size
    assert places.tolist() == [-1, -1, -1]


def test_what_is_not_finite_is_counted_and_left_out() -> None:
    x = np.array([[1, -2, 0, 4], [np.nan, np.inf, -np.inf, np.nan], [0, 0, 0, -np.inf]], np.float32)
    shape = Shape(4, 2, zones("relu"), 4)
    moments, _, places = read_whole(x, shape)
    table = {key: moments[:, place].tolist() for key, place in PLACE.items()}
    assert table["nan"] == [0, 2, 0]
    assert table["posinf"] == [0, 1, 0]
    assert table["neginf"] == [0, 1, 1]
    assert table["zeros"] == [1, 0, 3]
    np.testing.assert_array_equal(table["mean"], [0.75, np.nan, 0])
    np.testing.assert_array_equal(table["min"], [-2, np.nan, 0])
    np.testing.assert_array_equal(table["max"], [4, np.nan, 0])
    np.testing.assert_allclose(table["std"], [np.std([1, -2, 0, 4]), np.nan, 0])
    np.testing.assert_array_equal(table["mean_abs"], [1.75, np.nan, 0])
    assert table["dead_units"] == [0, 0, 1]  # one of the last is always zero
    assert places.tolist() == [-1, 0, 3]


def test_of_no_elements_there_is_nothing() -> None:
    moments, counts, places = read_whole(
        np.zeros((2, 0), np.float32), Shape(0, 3, zones("relu"), 0)
    )
    assert moments[:, PLACE["count"]].tolist() == [0, 0]
    assert np.isnan(moments[:, PLACE["mean"]]).all()
    assert np.isnan(moments[:, PLACE["min"]]).all()
    assert not counts.any()
    assert places.tolist() == [-1, -1]


def test_a_batch_larger_than_was_thought_is_sampled_like_any_tensor() -> None:
    x = np.random.default_rng(0).standard_normal((2, 20480)).astype("float32")
    step, count = stride(20480)
    moments, counts, _ = read_whole(x, Shape(20480, 10, zones("linear"), count))
    assert moments[:, PLACE["hist_count"]].tolist() == counts.sum(1).tolist() == [count, count]
    for row, held in zip(x, counts, strict=True):
        assert np.array_equal(held, np.bincount(bin_of(row[::step]), minlength=len(held)))

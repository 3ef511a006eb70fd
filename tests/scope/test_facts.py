"""What is known of weights before the first step, and how far they move, against NumPy."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from fitscope.scope.facts import facts
from fitscope.scope.weight_sample import WeightSample


def dense(kernel: np.ndarray) -> keras.Model:
    model = keras.Sequential([keras.Input((kernel.shape[0],)), keras.layers.Dense(kernel.shape[1])])
    model.layers[0].kernel.assign(kernel)
    return model


def test_what_was_looked_at_stays_as_it_was() -> None:
    kernel = np.random.default_rng(0).standard_normal((300, 40)).astype(np.float32)
    model = dense(kernel)
    known = next(w for layer in facts(model).layers for w in layer.weights if w.name == "kernel")
    sample = WeightSample(model)
    # Written in place, where the backend can.
    model.layers[0].kernel.assign_add(np.full_like(kernel, 0.5))
    np.testing.assert_array_equal(known.values, kernel.ravel())
    moved = next(each for each in sample.moved() if each["name"] == "kernel")
    places = slice(None, None, kernel.size // 4096)
    assert moved["rms"] == pytest.approx(
        np.sqrt(np.mean(kernel.ravel()[places].astype(float) ** 2))
    )
    assert moved["change"] == pytest.approx(0.5)


@pytest.mark.parametrize(("row", "equal"), [(None, True), (0, False), (64, False), (299, False)])
def test_units_are_equal_where_all_their_weights_are(row: int | None, equal: bool) -> None:
    kernel = np.repeat(np.arange(300, dtype=np.float32)[:, None], 5, 1)
    if row is not None:
        kernel[row, 3] += 1
    known = [w for layer in facts(dense(kernel)).layers for w in layer.weights]
    assert [w.equal_units for w in known if w.name == "kernel"] == [equal]

"""One training under a scope, end to end: what must also hold on the oldest supported Keras."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import fitscope as fs

pytestmark = pytest.mark.oldest_keras


def _trained(scope: fs.Scope | None) -> tuple[list[np.ndarray], dict[str, list[float]]]:
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(8, activation="relu", name="hidden"),
            keras.layers.Dropout(0.3, seed=1, name="drop"),
            keras.layers.Dense(1, name="out"),
        ]
    )
    model.compile("adam", "mse")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((24, 5)).astype("float32")
    y = x[:, :1]
    history = model.fit(
        x,
        y,
        batch_size=8,
        epochs=2,
        verbose=0,
        validation_data=(x[:8], y[:8]),
        callbacks=[] if scope is None else [scope],
    )
    return model.get_weights(), history.history


def test_training_is_the_same_with_a_scope() -> None:
    scope = fs.Scope(every=1)
    plain, observed = _trained(None), _trained(scope)
    assert plain[1] == observed[1]
    for a, b in zip(plain[0], observed[0], strict=True):
        np.testing.assert_array_equal(a, b)
    table = scope.run.stats("hidden", "zero_fraction", phase="train").to_arrow()
    assert table["step"].to_pylist() == list(range(6))
    assert all(0 < value < 1 for value in table["value"].to_pylist())
    assert scope.run.stats("hidden", "mean", phase="validation").to_arrow().num_rows == 2


def test_the_mean_is_that_of_the_tensor() -> None:
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(8, "tanh", name="hidden")])
    model.compile("sgd", "mse")
    x = np.random.default_rng(1).standard_normal((8, 5)).astype("float32")
    kernel, bias = (w.astype(np.float64) for w in model.get_weights())
    scope = fs.Scope(every=1)
    model.fit(x, np.zeros((8, 8), "float32"), batch_size=8, verbose=0, callbacks=[scope])
    expected = np.tanh(x.astype(np.float64) @ kernel + bias)
    reported = scope.run.last()["hidden"]
    np.testing.assert_allclose(reported["mean"], expected.mean(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(reported["std"], expected.std(), rtol=1e-5)
    np.testing.assert_allclose(reported["max"], expected.max(), rtol=1e-5)

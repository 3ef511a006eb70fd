"""The states of recurrent layers, step by step in time."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops
from zoo import BACKEND

import fitscope as fs

JIT = BACKEND == "jax"


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def simple(x: Any, w: Any, u: Any, b: Any) -> Any:
    h, seen = np.zeros((len(x), u.shape[0])), []
    for t in range(x.shape[1]):
        h = np.tanh(x[:, t] @ w + h @ u + b)
        seen.append(h)
    return np.stack(seen, 1)


def lstm(x: Any, w: Any, u: Any, b: Any) -> Any:
    h = c = np.zeros((len(x), u.shape[0]))
    seen = []
    for t in range(x.shape[1]):
        i, f, g, o = np.split(x[:, t] @ w + h @ u + b, 4, 1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        seen.append(h)
    return np.stack(seen, 1)


def gru(x: Any, w: Any, u: Any, b: Any) -> Any:
    h, seen = np.zeros((len(x), u.shape[0])), []
    for t in range(x.shape[1]):
        xz, xr, xh = np.split(x[:, t] @ w + b[0], 3, 1)
        hz, hr, hh = np.split(h @ u + b[1], 3, 1)
        z, r = sigmoid(xz + hz), sigmoid(xr + hr)
        h = z * h + (1 - z) * np.tanh(xh + r * hh)
        seen.append(h)
    return np.stack(seen, 1)


def test_the_states_of_every_time_step() -> None:
    """With return_sequences the output is the state of each step; NumPy computes it again."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(1)
    x = keras.Input((4, 3))
    kinds = {
        "simple": (layers.SimpleRNN, simple),
        "lstm": (layers.LSTM, lstm),
        "gru": (layers.GRU, gru),
    }
    outputs = [kind(4, return_sequences=True, name=n)(x) for n, (kind, _) in kinds.items()]
    model = keras.Model(x, layers.Concatenate()(outputs))
    model.compile("sgd", "mse", jit_compile=JIT)
    rows = np.random.default_rng(0).standard_normal((8, 4, 3)).astype("float32")
    weights = {
        n: [np.array(ops.convert_to_numpy(v), "float64") for v in model.get_layer(n).weights]
        for n in kinds
    }
    scope = fs.Scope(fs.record(list(kinds)))
    model.fit(rows, np.zeros((8, 4, 12)), batch_size=8, verbose=0, callbacks=[scope], shuffle=False)
    for name, (_, replay) in kinds.items():
        found = scope.run.values(name)[0].array
        np.testing.assert_allclose(found, replay(rows, *weights[name]), rtol=1e-3, atol=1e-5)


class Weighted(layers.Layer):
    """Names its softmax, which nothing but the product reads."""

    def call(self, x: Any) -> Any:
        return fs.tap(ops.softmax(x), "shares") * x


@pytest.mark.backends("tensorflow")
def test_without_xla_ends_of_loops_are_recorded_and_training_is_the_same() -> None:
    """As Keras compiles a recurrent model on TensorFlow; only one operation reads each tensor."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((16, 4, 3)).astype("float32"), np.ones((16, 1), "float32")

    def trained(scope: fs.Scope | None) -> list[bytes]:
        keras.utils.clear_session(free_memory=False)
        keras.utils.set_random_seed(1)
        inputs = keras.Input((4, 3))
        met = [
            layers.LSTM(4, return_sequences=True, name="one"),
            layers.Bidirectional(layers.SimpleRNN(3, return_sequences=True), name="both"),
            Weighted(name="weighted"),
        ]
        flat = [layers.Flatten()(layer(inputs)) for layer in met]
        model = keras.Model(inputs, layers.Dense(1)(layers.Concatenate()(flat)))
        model.compile(keras.optimizers.Adam(0.01), "mse", jit_compile=False)
        callbacks = [] if scope is None else [scope]
        model.fit(x, y, batch_size=8, verbose=0, callbacks=callbacks)
        return [ops.convert_to_numpy(v).tobytes() for v in model.variables]

    scope = fs.Scope(fs.record(["one", "both", "weighted/shares"]))
    assert trained(scope) == trained(None)
    shapes = {name: scope.run.values(name)[0].array.shape for name in scope.run.recorded.names}
    assert shapes == {"one": (8, 4, 4), "both": (8, 4, 6), "weighted/shares": (8, 4, 3)}


def test_the_preview_says_why_a_cell_is_not_seen_and_how_else() -> None:
    keras.utils.clear_session(free_memory=False)
    model = keras.Sequential([keras.Input((4, 3)), layers.LSTM(4, name="lstm")])
    text = str(fs.preview(model, fs.record(["lstm", "lstm/lstm_cell"])))
    assert "runs inside the time loop of a LSTM" in text
    assert "return_sequences=True" in text
    with pytest.raises(fs.SelectionError, match="return_sequences=True"):
        fs.capture(model, np.zeros((2, 4, 3), "float32"), "lstm/*")

"""Layers and statistics that do what few do: nothing wrong, nothing silent, training goes on."""

from __future__ import annotations

import os
import signal
import warnings
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import fitscope as fs

BACKEND = keras.backend.backend()
X = np.random.default_rng(0).standard_normal((8, 4)).astype("float32")


class Around(keras.Model):
    """A layer, and a Dense that trains on part of what it puts out."""

    def __init__(self, inner: Any, take: Any) -> None:
        super().__init__()
        self.inner, self.take = inner, take
        self.out = layers.Dense(1, name="out")

    def call(self, x: Any) -> Any:
        return self.out(self.take(x, self.inner(x)))


def _fit(model: Any, *instructions: Any, batch_size: int = 8) -> Any:
    model(X)
    # Without XLA, TensorFlow leaves the last layer alone.
    model.compile("sgd", "mse", jit_compile=BACKEND != "torch")
    scope = fs.Scope(*instructions, every=1)
    try:
        model.fit(X, X[:, :1], batch_size=batch_size, verbose=0, callbacks=[scope])
    finally:
        scope._end()  # the thread of a fit that raised would live on for a second
    return scope


class Odd(layers.Layer):
    def __init__(self, gives: Any) -> None:
        super().__init__(name="odd")
        self.gives = gives
        self.built = True

    def call(self, x: Any) -> Any:
        return self.gives(x)


@pytest.mark.parametrize(
    ("gives", "says"),
    [
        (lambda x: [x, 2.0], "puts out a float, which is no tensor"),
        (lambda x: {"a": x, "b": np.ones(3)}, "puts out a ndarray, which is no tensor"),
        (lambda x: (x, "text"), "puts out a str, which is no tensor"),
    ],
)
def test_what_is_no_tensor_is_reported(gives: Any, says: str) -> None:
    model = Around(Odd(gives), lambda x, y: y["a"] if isinstance(y, dict) else y[0])
    scope = _fit(model)
    assert [u.reason for u in scope.unseen if u.site == "odd"] == [says]
    assert any(site.path == "odd" for site in scope.run.sites)


def test_a_layer_that_puts_out_a_variable() -> None:
    class Token(layers.Layer):
        def build(self, _: Any) -> None:
            self.w = self.add_weight(shape=(4,), name="w", initializer="ones")

        def call(self, x: Any) -> Any:
            return self.w

    scope = _fit(Around(Token(name="token"), lambda x, y: x * y))
    seen = {site.path for site in scope.run.sites}
    assert "out" in seen
    assert "token" in seen or "token" in {u.site for u in scope.unseen}


def test_a_name_that_is_no_place_in_a_site() -> None:
    model = Around(Odd(lambda x: {"": x, "b": 2 * x}), lambda x, y: y["b"])
    scope = _fit(model)
    assert any("odd" in u.site for u in scope.unseen)
    assert "out" in {site.path for site in scope.run.sites}


class Broken(fs.Statistic):
    name = "broken"

    def update(self, x: Any) -> Any:
        return ops.ones((1,))

    def result(self, state: Any) -> float:
        raise ZeroDivisionError("my mistake")


def test_a_statistic_whose_result_raises_leaves_the_others() -> None:
    model = keras.Sequential([keras.Input((4,)), layers.Dense(1, name="out")])
    with pytest.warns(RuntimeWarning, match="my mistake"):
        scope = _fit(model, fs.watch("**", statistics=Broken()))
    assert scope.latest()["out"]["count"] == 8


class OfMatrices(fs.Statistic):
    """Fails for whatever has one axis, as biases have."""

    name = "of_matrices"

    def update(self, x: Any) -> Any:
        return ops.reshape(ops.max(ops.sum(x, axis=1)), (1,))


@pytest.mark.parametrize("port", ["weight", "weight_gradient", "update"])
def test_a_statistic_that_fails_for_some_weights_leaves_the_training(port: str) -> None:
    def fit(scope: Any | None) -> list[Any]:
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((4,)), layers.Dense(1, name="out")])
        model.compile("sgd", "mse", jit_compile=BACKEND != "torch")
        model.fit(X, X[:, :1], batch_size=4, verbose=0, callbacks=[scope] if scope else None)
        return [np.array(ops.convert_to_numpy(v)) for v in model.variables]

    scope = fs.Scope(fs.watch("**", of=port, statistics=OfMatrices()), every=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        watched = fit(scope)
    for one, two in zip(watched, fit(None), strict=True):
        np.testing.assert_array_equal(one, two)
    assert scope._session is not None
    if BACKEND != "tensorflow":  # which measures all of a step in one place
        assert scope._session.broken is None
        assert {site.leaf for site in scope.run.sites} == {("kernel",)}
        assert [u.site for u in scope.unseen] == [f"out:{port}[bias]"]


@pytest.mark.backends("torch")  # no other backend changes a tensor in place
def test_a_layer_that_works_in_place() -> None:
    import torch

    relu = layers.TorchModuleWrapper(torch.nn.ReLU(inplace=True), name="relu")
    model = keras.Sequential([keras.Input((4,)), layers.Dense(5, name="d"), relu, layers.Dense(1)])
    found = _fit(model).latest()
    assert found["relu"]["min"] == 0.0
    assert found["relu"]["zeros"] > 0 == found["d"]["zeros"]


@pytest.mark.backends("torch")  # the others trace a statistic once
def test_a_state_that_changes_its_length() -> None:
    class Growing(fs.Statistic):
        name = "growing"
        calls = 0

        def update(self, x: Any) -> Any:
            self.calls += 1
            return ops.ones((1 + self.calls,))

        def result(self, state: Any) -> float:
            return float(state[0])

    model = keras.Sequential([keras.Input((4,)), layers.Dense(1, name="out")])
    with pytest.raises(fs.StatisticError, match="fixed length"):
        _fit(model, fs.watch("**", statistics=Growing()), batch_size=4)


@pytest.mark.parametrize("head", ["sum", "residual"])
def test_a_batch_size_that_varies_changes_no_bit(head: str) -> None:
    """Gradients then read shapes, which must not pass for readers of values."""

    def fit(scope: Any | None) -> list[Any]:
        keras.utils.set_random_seed(0)
        x = np.random.default_rng(0).standard_normal((22, 8, 8, 3)).astype("float32")
        inputs = keras.Input((8, 8, 3))
        h = layers.Conv2D(6, 3, padding="same", activation="relu")(inputs)
        y = layers.BatchNormalization()(layers.Conv2D(6, 3, padding="same", use_bias=False)(h))
        y = layers.GlobalAveragePooling2D()(layers.Add()([h, y]))
        if head == "sum":
            y = layers.Dense(1)(y) + ops.sum(layers.Dense(4)(y), axis=-1, keepdims=True)
        model = keras.Model(inputs, layers.Dense(1)(y))
        jit = BACKEND == "jax"
        model.compile(keras.optimizers.SGD(0.05), "mse", jit_compile=jit)
        callbacks = [scope] if scope else []
        history = model.fit(
            x, x[:, 0, 0, :1], batch_size=8, epochs=3, verbose=0, callbacks=callbacks
        )
        return [*model.get_weights(), np.asarray(history.history["loss"])]

    for plain, watched in zip(fit(None), fit(fs.Scope(every=1)), strict=True):
        np.testing.assert_array_equal(plain, watched)


@pytest.mark.backends("tensorflow")  # the others hand a row over as the step returns
def test_a_step_that_is_interrupted_leaves_no_row() -> None:
    import tensorflow as tf

    steps = {"begun": 0}

    def interrupt() -> None:
        if steps["begun"] == 1:
            os.kill(os.getpid(), signal.SIGINT)
        steps["begun"] += 1

    class Interrupted(keras.Model):
        def train_step(self, data: Any) -> Any:
            tf.py_function(interrupt, [], [])
            return super().train_step(data)

    inputs = keras.Input((1,))
    hidden = layers.Dense(1, "relu", kernel_initializer="ones", name="h")(inputs)
    output = layers.Dense(1, use_bias=False, kernel_initializer="ones", name="o")(hidden)
    model = Interrupted(inputs, output)
    model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=False)
    x = np.arange(1.0, 5.0)[:, None]
    scope = fs.Scope(every=1)
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, x, batch_size=1, shuffle=False, verbose=0, callbacks=[scope])
    model.fit(x, x, batch_size=1, shuffle=False, verbose=0, callbacks=[scope])
    found = [(r["step"], r["value"]) for r in scope.run.stats("h", "mean")]
    assert len(found) == len({step for step, _ in found})
    assert [value for _, value in found][-4:] == [1.0, 2.0, 3.0, 4.0]

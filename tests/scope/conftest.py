"""Small models for the tests of the scope."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers


class Residual(layers.Layer):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.inner = layers.Dense(4, activation="relu", name="inner")

    def build(self, shape: Any) -> None:
        self.inner.build(shape)
        self.built = True

    def call(self, x: Any) -> Any:
        return x + self.inner(x)

    def compute_output_shape(self, shape: Any) -> Any:
        return shape


def _model() -> Any:
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(5)
    x = keras.Input((4,))
    y = layers.Dense(4, activation="tanh", name="dense_1")(x)
    y = Residual(name="block_1")(y)
    y = Residual(name="block_2")(y)
    y = layers.Dense(3, name="dense_2")(y + x)
    model = keras.Model(x, y, name="small")
    # Without XLA, TensorFlow fuses some layers away from every observer.
    model.compile("sgd", "mse", jit_compile=keras.backend.backend() != "torch")
    return model


@pytest.fixture
def model() -> Any:
    return _model()


@pytest.fixture
def make_model() -> Any:
    return _model


@pytest.fixture
def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((24, 4)).astype("float32")
    return x, rng.standard_normal((24, 3)).astype("float32")

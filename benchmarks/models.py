"""The models that are measured, compiled and with one batch each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Work:
    """A compiled model and the batch it trains on."""

    model: Any
    x: np.ndarray[Any, Any]
    y: np.ndarray[Any, Any]


def mlp() -> tuple[Any, int]:
    """Six Dense layers of width 1024; batch 128."""
    hidden = [layers.Dense(1024, activation="relu") for _ in range(6)]
    return keras.Sequential([keras.Input((256,)), *hidden, layers.Dense(CLASSES)]), 128


def cnn(blocks: int = 3) -> tuple[Any, int]:
    """ResNet-20 for 32x32 images: three stages of widths 16, 32 and 64; batch 128."""

    def conv_norm(x: Any, width: int, stride: int = 1) -> Any:
        x = layers.Conv2D(width, 3, strides=stride, padding="same", use_bias=False)(x)
        return layers.BatchNormalization()(x)

    inputs = keras.Input((32, 32, 3))
    x = layers.ReLU()(conv_norm(inputs, 16))
    for width in (16, 32, 64):
        for block in range(blocks):
            stride = 2 if block == 0 and width > 16 else 1
            y = layers.ReLU()(conv_norm(x, width, stride))
            y = conv_norm(y, width)
            if stride > 1:
                x = layers.Conv2D(width, 1, strides=stride, use_bias=False)(x)
            x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(CLASSES)(x)), 128


def transformer(depth: int = 4, width: int = 256, length: int = 128) -> tuple[Any, int]:
    """Four pre-norm blocks with four heads; batch 32."""
    x = inputs = keras.Input((length, width))
    for _ in range(depth):
        y = layers.LayerNormalization()(x)
        y = layers.MultiHeadAttention(4, width // 4)(y, y)
        x = layers.Add()([x, y])
        y = layers.LayerNormalization()(x)
        y = layers.Dense(4 * width, activation="gelu")(y)
        x = layers.Add()([x, layers.Dense(width)(y)])
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(CLASSES)(x)), 32


MODELS: dict[str, Callable[[], tuple[Any, int]]] = {
    "mlp": mlp,
    "cnn": cnn,
    "transformer": transformer,
}


def work(
    name: str, *, jit: bool | str = "auto", run_eagerly: bool = False, kind: Any = None
) -> Work:
    """A fresh model, compiled, with random data of its batch size.

    Args:
        name: a key of `MODELS`.
        jit: `jit_compile` of `model.compile`.
        run_eagerly: as in `model.compile`; needs `jit=False`.
        kind: a class of sequential models, to be used in place of the model's own.
    """
    keras.utils.set_random_seed(0)
    model, batch = MODELS[name]()
    if kind is not None:
        model = kind([keras.Input(model.input_shape[1:]), *model.layers])
    model.compile(
        optimizer="adam",
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=jit,
        run_eagerly=run_eagerly,
    )
    # Otherwise the first step makes these variables, and TensorFlow traces it twice for that.
    model.optimizer.build(model.trainable_variables)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, *model.input_shape[1:]), np.float32)
    return Work(model, x, rng.integers(0, CLASSES, batch))


class Repeated(keras.utils.PyDataset):
    """One batch, again and again: an epoch that needs no memory."""

    def __init__(self, x: Any, y: Any, steps: int) -> None:
        super().__init__()
        self._batch = (x, y)
        self._steps = steps

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, index: int) -> Any:
        return self._batch

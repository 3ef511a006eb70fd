"""The demo's network: it learns well, and most of one of its layers never takes part."""

from __future__ import annotations

from typing import Any

import keras

FLAWED_LAYER = "conv_2"
BIAS_MEAN = -1.0
BIAS_SPREAD = 1.0
SEED = 7


def build(*, flawed: bool = True) -> keras.Model:
    """Build and compile the network.

    The flaw is the bias initializer of `conv_2`: normal around -1 where it should be zeros. The
    layer's weighted sums are smaller than that, so about two thirds of its filters start below
    zero for every image. A ReLU passes no gradient there: they stay off. The rest suffice for
    digits, so accuracy shows nothing.

    Args:
        flawed: False builds the same network with biases of zero.
    """
    keras.utils.set_random_seed(SEED)
    layers = keras.layers
    # Keras' own annotation says `str`, and its documentation an initializer as well.
    bias: Any = "zeros"
    if flawed:
        bias = keras.initializers.RandomNormal(mean=BIAS_MEAN, stddev=BIAS_SPREAD, seed=SEED)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            layers.Conv2D(16, 3, padding="same", activation="relu", name="conv_1"),
            layers.Conv2D(
                32,
                3,
                padding="same",
                activation="relu",
                bias_initializer=bias,
                name=FLAWED_LAYER,
            ),
            layers.MaxPooling2D(name="pool"),
            layers.Flatten(name="flatten"),
            layers.Dense(64, activation="relu", name="dense"),
            layers.Dropout(0.2, seed=SEED, name="dropout"),
            layers.Dense(10, activation="softmax", name="digit"),
        ],
        name="digits",
    )
    model.compile(
        optimizer=keras.optimizers.Adam(1e-3),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model

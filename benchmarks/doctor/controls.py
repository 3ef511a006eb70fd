"""Healthy trainings that look ill: each must pass without an alarm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.doctor import bases
from benchmarks.doctor.program import Program


def _of(base: Callable[[int], Program], name: str, **changes: Any) -> Callable[[int], Program]:
    def make(seed: int) -> Program:
        program = base(seed)
        program.name = name
        for attribute, value in changes.items():
            setattr(program, attribute, value)
        return program

    make.__name__ = name
    return make


def heavy_dropout(seed: int) -> Program:
    program = bases.digits(seed)
    program.name, program.epochs = "heavy_dropout", 15
    program.layers = [
        ("Dense", {"units": 64, "activation": "relu"}), ("Dropout", {"rate": 0.6}),
        ("Dense", {"units": 64, "activation": "relu"}), ("Dropout", {"rate": 0.6}),
    ]  # fmt: skip
    return program


def plateau(seed: int) -> Program:
    """Parity of three signs: the loss stands for many epochs before it falls."""
    random = np.random.default_rng(seed)
    x = random.choice([-1.0, 1.0], (512, 8)).astype("float32")
    y = (x[:, :3].prod(1) > 0).astype(int)
    return Program(
        "plateau", x, y, "binary",
        [("Dense", {"units": 32, "activation": "tanh"}),
         ("Dense", {"units": 32, "activation": "tanh"})],
        "binary_crossentropy", 1, "sigmoid", metrics=["accuracy"], epochs=25,
        settings={"learning_rate": 5e-3},
    )  # fmt: skip


def xor(seed: int) -> Program:
    random = np.random.default_rng(seed)
    x = random.integers(0, 2, (200, 2)).astype("float32")
    return Program(
        "xor", x, (x[:, 0] != x[:, 1]).astype("float32"), "binary",
        [("Dense", {"units": 8, "activation": "tanh"})], "mean_squared_error", 1, "sigmoid",
        metrics=["accuracy"], epochs=40, settings={"learning_rate": 0.02}, batch_size=8,
    )  # fmt: skip


def autoencoder(seed: int) -> Program:
    program = bases.digits(seed)
    program.name, program.y, program.metrics = "autoencoder", program.x, []
    program.layers = [("Dense", {"units": 32, "activation": "relu"}),
                      ("Dense", {"units": 8, "activation": "relu"}),
                      ("Dense", {"units": 32, "activation": "relu"})]  # fmt: skip
    program.loss, program.units, program.activation = "mean_squared_error", 64, "sigmoid"
    return program


def gan(seed: int) -> Program:
    """Two players with losses that rise and fall, in a train step of their own."""
    random = np.random.default_rng(seed)
    x = (random.normal(size=(512, 2)) * [1.0, 0.3] + [1.0, 0.0]).astype("float32")
    return Program("gan", x, x[:, 0], "own", [], None, epochs=8, fit={}, build=_gan)


def _gan(program: Program) -> Any:
    import keras
    from keras import layers, ops

    def network(units: int, name: str) -> Any:
        return keras.Sequential([layers.Dense(16, "leaky_relu"), layers.Dense(units)], name=name)

    class Gan(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.maker, self.judge = network(2, "maker"), network(1, "judge")

        def call(self, noise: Any) -> Any:
            return self.judge(self.maker(noise))

        def compute_loss(
            self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None,
            training: bool = True,
        ) -> Any:  # fmt: skip
            real = self.judge(x)
            made = self.judge(self.maker(ops.roll(x, 1, axis=0)))
            turn = ops.sign(ops.mean(real) - ops.mean(made))
            return ops.mean(ops.softplus(-real)) + turn * ops.mean(ops.softplus(made))

    model = Gan()
    model.compile(keras.optimizers.Adam(1e-3), **program.compile)
    return model


def lstm_plateau(seed: int) -> Program:
    """The sign of the first of sixteen numbers: nothing is learned until it is remembered."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(400, 16, 1)).astype("float32")
    return Program(
        "lstm_plateau", x, (x[:, 0, 0] > 0).astype(int), "binary", [("LSTM", {"units": 16})],
        "binary_crossentropy", 1, "sigmoid", metrics=["accuracy"], epochs=25,
        settings={"learning_rate": 1e-2},
    )  # fmt: skip


def frozen_base(seed: int) -> Program:
    """Transfer: random features that stay, and a head that learns."""
    program = bases.digits(seed)
    program.name, program.epochs = "frozen_base", 15
    program.layers = [("Dense", {"units": 128, "activation": "relu", "trainable": False}),
                      ("Dense", {"units": 32, "activation": "relu"})]  # fmt: skip
    return program


def label_smoothing(seed: int) -> Program:
    import keras

    program = bases.digits(seed)
    program.name = "label_smoothing"
    program.loss = keras.losses.CategoricalCrossentropy(label_smoothing=0.1)
    return program


def class_weights(seed: int) -> Program:
    program = bases.cancer(seed)
    program.name = "class_weights"
    program.fit = {"class_weight": {0: 1.7, 1: 0.6}, "validation_split": 0.2}
    return program


def cosine_schedule(seed: int) -> Program:
    import keras

    program = bases.wine(seed)
    program.name, program.epochs = "cosine_schedule", 20
    schedule = keras.optimizers.schedules.CosineDecay(0.0, 180, warmup_target=1e-2, warmup_steps=20)
    program.settings = {"learning_rate": schedule}
    return program


def tanh_autoencoder(seed: int) -> Program:
    random = np.random.default_rng(seed)
    x = np.tanh(random.normal(size=(500, 3)) @ random.normal(size=(3, 20))).astype("float32")
    return Program(
        "tanh_autoencoder", x, x, "own",
        [("Dense", {"units": 16, "activation": "tanh"}), ("Dense", {"units": 4}),
         ("Dense", {"units": 16, "activation": "tanh"})],
        "mean_squared_error", 20, "tanh", epochs=15,
    )  # fmt: skip


def subclassed(seed: int) -> Program:
    program = bases.wine(seed)
    program.name, program.build = "subclassed", _subclassed
    return program


def _subclassed(program: Program) -> Any:
    import keras
    from keras import layers

    class Own(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm = layers.Dense(16), layers.LayerNormalization()
            self.out = layers.Dense(3)

        def call(self, x: Any) -> Any:
            return self.out(keras.ops.relu(self.norm(self.first(x))))

    model = Own()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(5e-3), loss, metrics=["accuracy"], **program.compile)
    return model


def two_outputs(seed: int) -> Program:
    program = bases.wine(seed)
    program.name, program.build = "two_outputs", _two_outputs
    alcohol = program.x[:, :1].copy()
    program.x, program.y = program.x[:, 1:], [program.y, alcohol]  # type: ignore[assignment]
    return program


def _two_outputs(program: Program) -> Any:
    import keras
    from keras import layers

    x = keras.Input(program.x.shape[1:])
    h = layers.Dense(24, "relu", name="shared")(x)
    kind, alcohol = layers.Dense(3, "softmax", name="kind")(h), layers.Dense(1, name="alcohol")(h)
    model = keras.Model(x, [kind, alcohol])
    model.compile(
        keras.optimizers.Adam(5e-3),
        ["sparse_categorical_crossentropy", "mean_squared_error"],
        **program.compile,
    )
    return model


CONTROLS = (
    _of(bases.wine, "small_learning_rate", settings={"learning_rate": 2e-4}, epochs=30),
    _of(bases.cancer, "sgd_with_momentum", optimizer="SGD",
        settings={"learning_rate": 0.02, "momentum": 0.9}),
    _of(bases.digits, "large_batches", batch_size=256, epochs=30),
    _of(bases.friedman, "small_batches", batch_size=8, epochs=6),
    _of(bases.moons, "elu", layers=[("Dense", {"units": 24, "activation": "elu"})] * 3),
    _of(bases.cancer, "zero_head", output={"kernel_initializer": "zeros"}),
    _of(bases.digits, "gelu", layers=[("Dense", {"units": 32, "activation": "gelu"})] * 2),
    _of(bases.images, "no_validation", fit={}),
    _of(bases.digits, "mixed_precision", policy="mixed_float16"),
    _of(bases.pointer, "uniform_start", settings={"learning_rate": 5e-3}, epochs=20),
    heavy_dropout, plateau, xor, autoencoder, gan, lstm_plateau, frozen_base, label_smoothing,
    class_weights, cosine_schedule, tanh_autoencoder, subclassed, two_outputs,
)  # fmt: skip

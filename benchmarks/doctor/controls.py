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
    model.compile(keras.optimizers.Adam(1e-3))
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
    heavy_dropout, plateau, xor, autoencoder, gan,
)  # fmt: skip

"""A small training written as data, so that one thing at a time can be broken in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Program:
    """Data, layers and settings of one training.

    `layers` are makers, called with Keras' `layers` when the model is built, in a row. `output` is
    the last layer's settings; `hidden` those that all hidden Dense and Conv layers share.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    task: str  # "classes", "binary", "quantity", "tokens" are read by faults
    layers: list[tuple[str, dict[str, Any]]]
    loss: Any
    units: int = 1
    activation: str | None = None
    optimizer: str = "Adam"
    settings: dict[str, Any] = field(default_factory=lambda: {"learning_rate": 3e-3})
    metrics: list[str] = field(default_factory=list)
    epochs: int = 12
    batch_size: int = 32
    fit: dict[str, Any] = field(default_factory=lambda: {"validation_split": 0.2})
    output: dict[str, Any] = field(default_factory=dict)
    behind: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    build: Callable[[Program], Any] | None = None
    compile: dict[str, Any] = field(default_factory=dict)
    policy: str = "float32"

    def model(self) -> Any:
        """The compiled model."""
        import keras

        keras.config.set_dtype_policy(self.policy)
        try:
            return self._sequential() if self.build is None else self.build(self)
        finally:
            keras.config.set_dtype_policy("float32")

    def _sequential(self) -> Any:
        import keras

        stack = [keras.Input(self.x.shape[1:])]
        counts: dict[str, int] = {}
        for kind, given in self.layers:
            counts[kind] = counts.get(kind, -1) + 1
            stack.append(_layer(kind, {"name": f"{kind.lower()}_{counts[kind]}", **given}))
        if self.units:
            stack.append(
                _layer(
                    "Dense",
                    {"units": self.units, "activation": self.activation, "name": "out",
                     **self.output},
                )
            )  # fmt: skip
        stack.extend(_layer(kind, given) for kind, given in self.behind)
        model = keras.Sequential(stack)
        optimizer = getattr(keras.optimizers, self.optimizer)(**self.settings)
        model.compile(optimizer, self.loss, metrics=self.metrics, **self.compile)
        return model

    def hidden(self) -> list[dict[str, Any]]:
        """The settings of the hidden layers that have units, to be changed."""
        return [given for kind, given in self.layers if kind in ("Dense", "Conv2D")]


def _layer(kind: str, given: dict[str, Any]) -> Any:
    import keras

    if kind == "StopGradient":
        return keras.layers.Lambda(keras.ops.stop_gradient, **given)
    if kind == "ThinGradient":
        return keras.layers.Lambda(_thin, **given)
    if kind == "SelfAttention":
        return _self_attention(given)
    return getattr(keras.layers, kind)(**given)


def _thin(x: Any) -> Any:
    """The same value, with a hundred-thousandth of its gradient."""
    import keras

    share = 1e-5
    return share * x + keras.ops.stop_gradient((1 - share) * x)


def _self_attention(given: dict[str, Any]) -> Any:
    import keras

    class SelfAttention(keras.layers.Layer):
        def __init__(
            self, name: str, trainable: bool = True, query: float = 1.0, **settings: Any
        ) -> None:
            super().__init__(name=name)
            self.query = query
            self.attention = keras.layers.MultiHeadAttention(name="attention", **settings)
            self.trainable = trainable

        def build(self, shape: Any) -> None:
            self.attention.build(shape, shape)

        def call(self, x: Any, training: bool = False) -> Any:
            return self.attention(self.query * x, x, training=training)

        def compute_output_shape(self, shape: Any) -> Any:
            return shape

    return SelfAttention(**given)

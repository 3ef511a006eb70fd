"""Trainings of small models in which a failure is planted, and what is to be said of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

import fitscope as fs

BACKEND = keras.backend.backend()
N, BATCH, BAD = 48, 8, 3
"""Samples, batch size, and the step in which it goes wrong."""
JITS = [True, False] if BACKEND != "torch" else [False]


def data() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    x = random.uniform(0.5, 1.5, (N, 4)).astype("float32")
    return x, random.standard_normal((N, 2)).astype("float32")


def marked(value: float, step: int = BAD) -> tuple[np.ndarray, np.ndarray]:
    """The data with one value planted in the third row of the bad step."""
    x, y = data()
    x[step * BATCH + 2, 1] = value
    return x, y


class Applies(layers.Layer):
    """A custom layer of one operation."""

    def __init__(self, function: Callable[[Any], Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.function = function

    def call(self, x: Any) -> Any:
        return self.function(x)


def compiled(model: Any, **settings: Any) -> Any:
    model.compile(**{"optimizer": keras.optimizers.SGD(0.01), "loss": "mse", **settings})
    return model


def model_of(*inner: Any, **settings: Any) -> Any:
    keras.utils.set_random_seed(0)
    return compiled(keras.Sequential([keras.Input((4,)), *inner], name="net"), **settings)


def same(name: str = "before") -> Any:
    return layers.Dense(4, name=name, kernel_initializer="identity", use_bias=False)


def out(**kwargs: Any) -> Any:
    return layers.Dense(2, name="out", kernel_initializer="ones", **kwargs)


@dataclasses.dataclass
class Planted:
    """A training that fails, and what is to be said of it."""

    make: Callable[[], tuple[Any, np.ndarray, np.ndarray]]
    site: str
    direction: str = "forward"
    step: int = BAD
    layer: str | None = None
    """The layer at fault, where it is not that of the site."""
    index: tuple[int, ...] | None = (2, 1)
    phase: str = "train"
    says: str = ""


def ended(planted: Planted, jit: bool) -> tuple[Any, str]:
    keras.utils.clear_session(free_memory=False)  # layers are numbered from the first again
    model, x, y = planted.make()
    model.jit_compile = jit
    phases = ["train", "validation"]
    scope = fs.Scope(fs.stop_on(fs.non_finite(), phases=phases))
    checked = {}
    if planted.phase == "validation":
        bad, wanted = data()
        bad[BATCH, 1] = 0
        checked = {"validation_data": (bad, wanted), "validation_batch_size": BATCH}
    model.fit(
        x, y, batch_size=BATCH, epochs=9, shuffle=False, verbose="0", callbacks=[scope], **checked
    )
    assert scope._session is not None
    assert scope._session.broken is None, scope._session.broken
    (stop,) = [e for e in scope.run.history if e["event"] == "stop"]
    # It ended before the epochs did.
    assert scope._session.steps["train"] < 9 * N // BATCH
    return scope, f"{stop['phase']} {stop['step']}: {stop['reason']}"

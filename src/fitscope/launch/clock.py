"""A callback that is called before each batch, of a training and of an evaluation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras


class Clock(keras.callbacks.Callback):
    """Calls a function before each batch.

    Args:
        before_batch: The function; what it raises ends the `fit`.
    """

    def __init__(self, before_batch: Callable[[], None]) -> None:
        super().__init__()
        self._before_batch = before_batch

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._before_batch()

    def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._before_batch()

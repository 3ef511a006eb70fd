"""A model of all layers' outputs, run on the batch once more after each step."""

from __future__ import annotations

from typing import Any

import keras

from benchmarks.hooks import Reductions


class SubModel(keras.callbacks.Callback):
    """Runs `predict` on a sub-model at the end of every batch.

    It sees another forward pass than the one that trained: with the weights after the step, in
    inference mode.
    """

    def __init__(self, model: Any, x: Any, reductions: Reductions) -> None:
        super().__init__()
        self._outputs: Any = keras.Model(model.inputs, [layer.output for layer in model.layers])
        self._x = x
        self._reductions = reductions

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # Reading `self.model` brings the trained weights back to the variables on JAX.
        assert self.model is not None
        for value in self._outputs.predict(self._x, batch_size=len(self._x), verbose=0):
            self._reductions.numpy(value)

"""A training step that hands out its layers' outputs as arrays, and does nothing with them.

That is what a device-to-host copy costs on a backend: the step keeps the tensors to its end, and
the backend's own means make arrays of them which nobody else will write to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np


class HandingOut(keras.Sequential):
    """A sequential model whose training step gives out what some of its layers put out."""

    wanted: Sequence[int] = ()
    """Places of those layers."""
    samples: int | None = None
    """How many of each batch; None for all."""

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        del mask
        x, self.taken = inputs, []
        for place, layer in enumerate(self.layers):
            x = layer(x, training=training) if layer._call_has_training_arg else layer(x)
            if place in self.wanted:
                self.taken.append(x if self.samples is None else x[: self.samples])
        return x

    def compute_loss_and_updates(self, *args: Any, **kwargs: Any) -> Any:  # JAX alone calls it
        loss, (unscaled, y_pred, fixed, metrics) = super().compute_loss_and_updates(*args, **kwargs)
        return loss, (unscaled, y_pred, [*fixed, *self.taken], metrics)

    def train_step(self, *args: Any) -> Any:
        found = super().train_step(*args)
        if keras.backend.backend() != "jax":
            return {**found, "taken": self.taken}
        logs, (trainable, fixed, *rest) = found
        count = len(self.taken)
        kept, taken = list(fixed[: len(fixed) - count]), list(fixed[len(fixed) - count :])
        return {**logs, "taken": taken}, (trainable, kept, *rest)


def by_hand(function: Callable[..., Any]) -> Callable[..., Any]:
    """The train function of such a model, with arrays made of what it gives out."""

    def step(*args: Any) -> Any:
        outputs = function(*args)
        logs = outputs[0] if isinstance(outputs, tuple) else outputs
        step.arrays = [_own(tensor) for tensor in logs.pop("taken")]  # type: ignore[attr-defined]
        return outputs

    return step


def _own(tensor: Any) -> np.ndarray[Any, Any]:
    """An array that nobody else writes to."""
    if keras.backend.backend() == "torch":
        return np.array(tensor.detach().cpu())
    if keras.backend.backend() == "tensorflow":
        return tensor.numpy()
    return np.asarray(tensor)  # JAX never writes to one again

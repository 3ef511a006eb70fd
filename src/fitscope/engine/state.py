"""Copies of what a training step starts from, taken between two steps and kept on the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fitscope.engine import keras_internals


class State:
    """The variables of a model and its optimizer, in an order that another process finds, too.

    Args:
        model: a built and compiled model. The states of seed generators are among its variables.
    """

    def __init__(self, model: Any) -> None:
        optimizer = getattr(model, "optimizer", None)
        self.model_variables = list(model.variables)
        self.optimizer_variables = [] if optimizer is None else list(optimizer.variables)
        self._copy = _copier()
        self._places: list[tuple[int, int]] | None = None
        if keras_internals.backend_name() == "jax":
            groups = (
                model.trainable_variables,
                model.non_trainable_variables,
                self.optimizer_variables,
            )
            places = {
                id(variable): (g, i)
                for g, group in enumerate(groups)
                for i, variable in enumerate(group)
            }
            self._places = [places[id(v)] for v in self.variables]

    @property
    def variables(self) -> list[Any]:
        """Those of the model, then those of its optimizer."""
        return [*self.model_variables, *self.optimizer_variables]

    def copies(self, args: Any) -> list[Any]:
        """Device copies of the values that the next step starts from.

        Args:
            args: what Keras is about to call the train function with: on JAX the state is in it,
                and the variables are empty.
        """
        if self._places is not None:
            return [self._copy(args[0][g][i]) for g, i in self._places]
        return [self._copy(v.value) for v in self.variables]


def _copier() -> Callable[[Any], Any]:
    """A copy that shares no memory: steps write into that of their variables, or give it away."""
    backend = keras_internals.backend_name()
    if backend == "jax":
        import jax.numpy as jnp

        return jnp.copy
    if backend == "tensorflow":
        import tensorflow as tf

        # tf.identity may hand on the variable's own buffer.
        return lambda x: tf.raw_ops.DeepCopy(x=tf.convert_to_tensor(x))
    return lambda x: x.detach().clone()

"""Copies of what a training step starts from, taken between two steps and kept on the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from fitscope.engine import keras_internals
from fitscope.engine.entry import entries
from fitscope.engine.leaves import leaves
from fitscope.engine.optimizers import optimizers_of


class State:
    """The variables of a model and its optimizers, in an order that another process finds, too.

    Args:
        model: a built and compiled model. The states of seed generators are among its variables.
    """

    def __init__(self, model: Any) -> None:
        self.groups = {"model": [*model.variables, *_states(model)]}
        """By name: those of the model, then those of each optimizer."""
        self._optimizers = optimizers_of(model)
        for number, optimizer in enumerate(self._optimizers):
            self.groups[f"optimizer {number}"] = list(optimizer.variables)
        self._copy = _copier()
        self._places: dict[int, tuple[int, int]] = {}
        if keras_internals.backend_name() == "jax":
            groups = (
                model.trainable_variables,
                model.non_trainable_variables,
                getattr(model.optimizer, "variables", ()),
            )
            self._places = {
                id(variable): (g, i)
                for g, group in enumerate(groups)
                for i, variable in enumerate(group)
            }

    @property
    def variables(self) -> list[Any]:
        """Those of the model, then those of its optimizers."""
        return [variable for group in self.groups.values() for variable in group]

    def trained(self) -> list[list[int]]:
        """For each optimizer, the places of the variables it was built for among the model's."""
        places = {id(variable): place for place, variable in enumerate(self.groups["model"])}
        return [
            [places[id(v)] for v in keras_internals.trained_by(optimizer) if id(v) in places]
            for optimizer in self._optimizers
        ]

    def build(self, trained: Sequence[Sequence[int]]) -> None:
        """Build the optimizers that are not built yet.

        Args:
            trained: what `trained` gave; nothing is done for an optimizer without any.
        """
        variables = self.groups["model"]
        for number, (optimizer, places) in enumerate(zip(self._optimizers, trained, strict=False)):
            if not optimizer.built and places and max(places) < len(variables):
                optimizer.build([variables[place] for place in places])
                self.groups[f"optimizer {number}"] = list(optimizer.variables)

    def copies(self, args: Any) -> list[Any]:
        """Device copies of the values that the next step starts from.

        Args:
            args: what Keras is about to call the train function with: on JAX the state is in it,
                and the variables are empty.
        """
        found: list[Any] = []
        for variable in self.variables:
            place = self._places.get(id(variable))
            # What Keras does not hand to the step on JAX keeps its value.
            value = variable.value if place is None else args[0][place[0]][place[1]]
            found.append(self._copy(value))
        return found


def _states(model: Any) -> list[Any]:
    """The states of stateful recurrent layers that Keras does not track, as on TensorFlow."""
    known = {id(variable) for variable in model.variables}
    found = [
        state
        for entry in entries(model)
        for _, state in leaves(list(getattr(entry.target, "states", None) or []))
        if isinstance(state, keras.Variable)
    ]
    return [state for state in found if id(state) not in known]


def as_given(array: Any) -> Any:
    """An array as a data set may give it: strings only as tensors of TensorFlow."""
    if getattr(getattr(array, "dtype", None), "kind", "") not in ("S", "U"):
        return array
    import tensorflow as tf

    return tf.constant(array)


def random_state() -> dict[str, Any]:
    """The backend's own random generators, which operations without a seed of Keras draw from.

    On torch a Dropout without a seed does; on JAX there are none, and on TensorFlow Keras has its
    own for all of its layers.
    """
    if keras_internals.backend_name() != "torch":
        return {}
    import torch

    found = {"torch_cpu": torch.get_rng_state().numpy()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        found["torch_cuda"] = torch.cuda.get_rng_state().numpy()
    return found


def set_random_state(state: Mapping[str, Any]) -> None:
    """Put back what `random_state` gave."""
    if "torch_cpu" in state:
        import torch

        torch.set_rng_state(torch.from_numpy(state["torch_cpu"].copy()))
        if "torch_cuda" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state(torch.from_numpy(state["torch_cuda"].copy()))


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

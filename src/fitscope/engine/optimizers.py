"""What a step hands to its optimizers, seen for the time of one trace."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

import keras

from fitscope.engine import keras_internals
from fitscope.engine.paired import LOSS_SCALE
from fitscope.engine.plan import Wanted
from fitscope.errors import EditError


def with_scale(wanted: Wanted) -> Wanted:
    """The same, and the scale of the loss beside it."""
    if LOSS_SCALE in wanted.statistics:
        return wanted
    return dataclasses.replace(wanted, statistics=(*wanted.statistics, LOSS_SCALE))


class Optimizers:
    """Wraps the optimizers of a model while a step is traced or run.

    Args:
        model: which optimizers its step may use is told by `optimizers_of`.
        given: called with a variable, its gradient and the scale of the loss (or None) for each
            gradient that an optimizer is given. The gradient still carries the scale.
        hold: called with the scale of a loss, where there is one; what it gives back is handed to
            `given`.
    """

    def __init__(
        self, model: Any, given: Callable[[Any, Any, Any], None], hold: Callable[[Any], Any]
    ) -> None:
        self.found = optimizers_of(model)
        self._given = given
        self._hold = hold
        self._scales: dict[int, Any] = {}
        self._depth = 0

    @contextlib.contextmanager
    def installed(self) -> Generator[None]:
        """Wrap the optimizers for the duration of the block."""
        undo: list[tuple[dict[str, Any], str]] = []
        try:
            for optimizer in self.found:
                for name, wrapper in self._wrappers(optimizer):
                    # Past the attribute tracking of Keras, and deleted afterwards.
                    vars(optimizer)[name] = wrapper
                    undo.append((vars(optimizer), name))
            yield
        finally:
            for namespace, name in undo:
                namespace.pop(name, None)

    def _wrappers(self, optimizer: Any) -> Iterator[tuple[str, Callable[..., Any]]]:
        scale_loss, apply = optimizer.scale_loss, optimizer.apply
        stateless_apply = getattr(optimizer, "stateless_apply", None)

        @functools.wraps(scale_loss)
        def scaled(loss: Any) -> Any:
            found = scale_loss(loss)
            if found is not loss:
                one = keras.ops.ones((), keras.backend.standardize_dtype(found.dtype))
                self._scales[id(optimizer)] = self._hold(scale_loss(one))
            return found

        @functools.wraps(apply)
        def applied(grads: Any, trainable_variables: Any = None) -> Any:
            grads = list(grads)
            variables = trainable_variables
            if variables is None:
                variables = keras_internals.trained_by(optimizer)
            self._tell(optimizer, variables, grads)
            with self._inside():
                return apply(grads, trainable_variables)

        yield "scale_loss", scaled
        yield "apply", applied
        if stateless_apply is None:
            return

        @functools.wraps(stateless_apply)
        def applied_to_state(optimizer_variables: Any, grads: Any, trainable_variables: Any) -> Any:
            grads = list(grads)
            self._tell(optimizer, keras_internals.trained_by(optimizer), grads)
            with self._inside():
                return stateless_apply(optimizer_variables, grads, trainable_variables)

        yield "stateless_apply", applied_to_state

    def _tell(self, optimizer: Any, variables: Iterable[Any], grads: Iterable[Any]) -> None:
        # An optimizer may hand on to another one, or to its own other method.
        if self._depth:
            return
        scale = self._scales.get(id(optimizer))
        for variable, gradient in zip(variables, grads, strict=False):
            if gradient is not None:
                self._given(variable, gradient, scale)

    @contextlib.contextmanager
    def _inside(self) -> Generator[None]:
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1


def loss_scale(model: Any, values: Any = None) -> Any | None:
    """By what the gradients of the step to come are too large; None for nothing.

    Args:
        model: whose attributes are searched for optimizers.
        values: the values of the variables of the model's optimizer, on JAX.

    Raises:
        EditError: several optimizers scale their losses.
    """
    scaling = [o for o in _optimizers(vars(model).values()) if keras_internals.scales_loss(o)]
    if not scaling:
        return None
    optimizer: Any = getattr(model, "optimizer", None)
    if len(scaling) > 1 or scaling[0] is not optimizer:
        raise EditError(
            "Gradients cannot be edited in this model: several optimizers scale their losses, or "
            "one that is not model.optimizer does, and by what a gradient is too large is not "
            "known. Train in float32 or bfloat16, without a loss scale."
        )
    if values is None:
        return optimizer.scale_loss(keras.ops.ones(()))
    mapping = list(zip(optimizer.variables, values, strict=True))
    with keras.StatelessScope(state_mapping=mapping):
        return optimizer.scale_loss(keras.ops.ones(()))


def optimizers_of(model: Any) -> list[Any]:
    """The optimizers that a model's step may use.

    Those among its attributes and, where the step is the model's own, of the models inside.
    """
    holders, places = [model], [model]
    while keras_internals.has_own_step(model) and places:
        places = [inner for place in places for inner in keras_internals.sublayers(place)]
        holders += places
    values = [value for holder in holders for value in vars(holder).values()]
    return list(_optimizers(values))


def _optimizers(values: Iterable[Any]) -> Iterator[Any]:
    seen: set[int] = set()
    for value in values:
        several = value.values() if isinstance(value, dict) else value
        for each in several if isinstance(value, (list, tuple, dict)) else (value,):
            if isinstance(each, keras.optimizers.Optimizer) and id(each) not in seen:
                seen.add(id(each))
                yield each

"""A forward pass alone, compiled as each backend does it, whose tensors come out."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import keras

from fitscope.engine import keras_internals
from fitscope.engine.leaves import map_leaves

Taps = dict[str, Any]


def forward(
    model: Any, capture: Callable[..., Any], stateless_capture: Callable[..., Any]
) -> Callable[[Any], Taps]:
    """A function from a batch of inputs to the tensors by site, in inference.

    Args:
        model: a built model; it is read as it is at each call.
        capture: called with the model and inputs, gives `(outputs, taps)`.
        stateless_capture: called with the model, its variables and inputs, gives taps last.
    """
    backend = keras_internals.backend_name()
    if backend == "jax":
        return _jax(model, stateless_capture)
    if backend == "tensorflow":
        return _tensorflow(model, capture)
    return _torch(model, capture)


def _tensors(x: Any) -> Any:
    return map_leaves(lambda _, value: keras.ops.convert_to_tensor(value), x)


def _jax(model: Any, stateless_capture: Callable[..., Any]) -> Callable[[Any], Taps]:
    import jax

    order: list[str] = []
    takes_training = "training" in inspect.signature(model.call).parameters
    inference = {"training": False} if takes_training else {}

    @jax.jit
    def compiled(trainable: Any, fixed: Any, x: Any) -> Taps:
        taps = stateless_capture(model, trainable, fixed, x, **inference)[-1]
        order[:] = list(taps)
        return taps

    def run(x: Any) -> Taps:
        trainable = [v.value for v in model.trainable_variables]
        fixed = [v.value for v in model.non_trainable_variables]
        taps = compiled(trainable, fixed, _tensors(x))
        # What leaves jit is in the order of its keys; a trace met it in that of the pass.
        known = [name for name in order if name in taps]
        return {name: taps[name] for name in known if len(known) == len(taps)} or taps

    return run


def _tensorflow(model: Any, capture: Callable[..., Any]) -> Callable[[Any], Taps]:
    import tensorflow as tf

    @tf.function(autograph=False, reduce_retracing=True)
    def compiled(x: Any) -> Any:
        return capture(model, x, training=False)[1]

    return lambda x: dict(compiled(_tensors(x)))


def _torch(model: Any, capture: Callable[..., Any]) -> Callable[[Any], Taps]:
    import torch

    def run(x: Any) -> Taps:
        with torch.no_grad():
            return capture(model, _tensors(x), training=False)[1]

    return run

"""Python functions that see each layer's output as it is made: what people write today."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable, Generator
from typing import Any

import keras
import numpy as np


class Reductions:
    """Reduces tensors to a few numbers, as most hooks do, and counts them."""

    def __init__(self) -> None:
        self.count = 0
        self.last: tuple[float, ...] = ()

    def numpy(self, value: Any) -> None:
        x = np.asarray(value)
        self.count += 1
        self.last = (
            float(x.mean()),
            float(x.std()),
            float(x.min()),
            float(x.max()),
            float((x == 0).mean()),
        )

    def torch(self, x: Any) -> None:
        self.count += 1
        self.last = (
            x.mean().item(),
            x.std().item(),
            x.min().item(),
            x.max().item(),
            (x == 0).float().mean().item(),
        )


def to_numpy(reductions: Reductions) -> Callable[[Any], None]:
    """What a hook does with a tensor in the middle of a training step, on this backend."""
    if keras.backend.backend() == "jax":
        import jax

        # Even a step that is not compiled differentiates tracers, which hold no values for NumPy.
        return lambda x: jax.debug.callback(reductions.numpy, x)
    return lambda x: reductions.numpy(keras.ops.convert_to_numpy(x))


@contextlib.contextmanager
def wrapped(model: Any, see: Callable[[Any], None]) -> Generator[None]:
    """Have `see` called with the output of every layer of `model`."""

    def wrapping(call: Callable[..., Any]) -> Callable[..., Any]:
        def seen(self: Any, *args: Any, **kwargs: Any) -> Any:
            outputs = call(*args, **kwargs)
            see(outputs)
            return outputs

        return seen

    for layer in model.layers:
        # Python looks `__call__` up on the class; `call` is what can be replaced on one layer.
        vars(layer)["call"] = types.MethodType(wrapping(layer.call), layer)
    try:
        yield
    finally:
        for layer in model.layers:
            del vars(layer)["call"]


@contextlib.contextmanager
def torch_hooked(model: Any, reductions: Reductions) -> Generator[None]:
    """Torch's own forward hooks on every layer, reading each number with `.item()`."""

    def hook(module: Any, inputs: Any, outputs: Any) -> None:
        reductions.torch(outputs.detach())

    handles = [layer.register_forward_hook(hook) for layer in model.layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

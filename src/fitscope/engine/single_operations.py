"""A training step, one operation of the backend after the other, and which made what is not finite.

Each backend says for every operation it runs what went in and what came out. Whose operation it
is stands in a mark around each layer's `call` and each optimizer's `apply`: backends carry the
marks of the forward pass on to the backward pass.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from typing import Any, Protocol

from fitscope.engine import keras_internals
from fitscope.engine.entry import entries
from fitscope.engine.operations import BACKWARD, FORWARD, UPDATE, Arrays, Operation, judged
from fitscope.engine.optimizers import optimizers_of

_NAME = re.compile(r"fitscope_(\d+|update)(?!\d)")


class See(Protocol):
    """Called for each operation that was run."""

    def __call__(
        self,
        name: str,
        marks: str,
        given: Arrays,
        results: Arrays,
        *,
        backward: bool = False,
        of: str | None = None,
    ) -> None:
        """See one.

        Args:
            name: what the backend calls it.
            marks: the names it ran under, in one text, the innermost one last.
            given: the floating-point values that went in.
            results: and came out.
            backward: whether it belongs to the backward pass.
            of: in the backward pass, what was differentiated.
        """
        ...


class Backend(Protocol):
    """What a backend does to look at single operations."""

    def mark(self, name: str, /) -> AbstractContextManager[Any]:
        """Puts operations, and those of their backward pass, under a name."""
        ...

    def left(self, outputs: Any) -> None:
        """Called at the end of a marked block, with what it gave."""
        ...

    def run(self, step: Callable[..., Any], args: Any, see: See) -> Any:
        """Runs a step, and sees each operation."""
        ...


@contextlib.contextmanager
def watched(model: Any, steps: int) -> Generator[list[Operation]]:
    """Look at every operation of one training step.

    Args:
        model: compiled with `run_eagerly`.
        steps: how many steps are taken in the block; the last one is looked at.

    Yields:
        The operations that made what is not finite, filled in the order of execution.
    """
    backend = _backend()
    paths = [entry.path for entry in entries(model)]
    found: list[Operation] = []
    taken = 0
    step = model.train_step

    def see(
        name: str,
        marks: str,
        given: Arrays,
        results: Arrays,
        *,
        backward: bool = False,
        of: str | None = None,
    ) -> None:
        names = _NAME.findall(marks)
        layers = [n for n in names if n != "update"]
        part = BACKWARD if backward else UPDATE if len(layers) < len(names) else FORWARD
        layer = paths[int(layers[-1])] if layers else None
        made = judged(name, layer, given, results, part, of)
        if made is not None:
            found.append(made)

    @functools.wraps(step)
    def train_step(*args: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken < steps:
            return step(*args)
        with _marked(model, backend):
            return backend.run(step, args, see)

    vars(model)["train_step"] = train_step
    try:
        yield found
    finally:
        del vars(model)["train_step"]


def _backend() -> Backend:
    name = keras_internals.backend_name()
    if name == "jax":
        from fitscope.engine import jax_operations

        return jax_operations
    if name == "tensorflow":
        from fitscope.engine import tensorflow_operations

        return tensorflow_operations
    from fitscope.engine import torch_operations

    return torch_operations


@contextlib.contextmanager
def _marked(model: Any, backend: Backend) -> Generator[None]:
    """Every layer's call and every optimizer's apply under a mark of its own."""
    layers = [(e.target, "call", f"fitscope_{i}") for i, e in enumerate(entries(model))]
    applies = [(o, "apply", "fitscope_update") for o in optimizers_of(model)]
    try:
        for target, name, text in (*layers, *applies):
            # Past the attribute tracking of Keras, and deleted afterwards.
            vars(target)[name] = _under(backend, text, getattr(target, name))
        yield
    finally:
        for target, name, _ in (*layers, *applies):
            vars(target).pop(name, None)


def _under(backend: Backend, text: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def marked(*args: Any, **kwargs: Any) -> Any:
        with backend.mark(text):
            outputs = function(*args, **kwargs)
            backend.left(outputs)
            return outputs

    return marked

"""Operations one by one, in a step that runs eagerly: which made what is not finite.

Those of Keras are told by the names of `keras.ops`; `single_operations` tells the backend's own,
in the backward pass and the update, too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Generator, Sequence
from typing import Any

import keras
import numpy as np

from fitscope.engine import keras_internals
from fitscope.engine.entry import entries
from fitscope.engine.layout import to_host
from fitscope.engine.leaves import leaves

FORWARD, BACKWARD, UPDATE = "forward", "backward", "update"
"""The parts of a step. The loss counts as forward."""


@dataclasses.dataclass(frozen=True)
class Operation:
    """An operation that was given finite numbers, and gave some that are not.

    Attributes:
        name: as in `keras.ops`, or as the backend calls it.
        layer: the path of the layer whose `call` it ran in, or in whose backward pass; None outside
            of all layers, as in the loss.
        bad: how many elements of its result are not finite.
        size: how many elements that has.
        given: the range of what it was given; None where that was no floating-point number.
        part: `FORWARD`, `BACKWARD` or `UPDATE`.
        of: in the backward pass, what was differentiated, as the backend calls it; None where it
            does not tell.
    """

    name: str
    layer: str | None
    bad: int
    size: int
    given: tuple[float, float] | None
    part: str = FORWARD
    of: str | None = None


Arrays = Sequence[np.ndarray[Any, Any]]
"""Floating-point values on the host, in float64."""


def judged(
    name: str,
    layer: str | None,
    given: Arrays,
    results: Arrays,
    part: str = FORWARD,
    of: str | None = None,
) -> Operation | None:
    """The operation, if it made of finite numbers some that are not.

    Args:
        name: what it is called.
        layer: whose it is.
        given: all floating-point values that went into it.
        results: and came out.
        part: in which part of the step.
        of: what was differentiated.
    """
    bad = sum(int((~np.isfinite(x)).sum()) for x in results)
    if not bad or any(not np.isfinite(x).all() for x in given):
        return None
    sources = [x for x in given if x.size]
    span = None
    if sources:
        span = min(float(x.min()) for x in sources), max(float(x.max()) for x in sources)
    return Operation(name, layer, bad, sum(x.size for x in results), span, part, of)


class Operations:
    """Looks at every Keras operation of a model's forward pass, loss and update.

    What operators of Python (`x / y`), functions of the backend and the backward pass do is not
    among them.

    Args:
        model: a model whose step runs eagerly.
    """

    def __init__(self, model: Any) -> None:
        self.made_bad: list[Operation] = []
        """In the order of execution."""
        self._paths = {id(entry.target): entry.path for entry in entries(model)}
        self._depth = 0
        self._value = reader()

    @contextlib.contextmanager
    def installed(self) -> Generator[None]:
        """Look, for the time of a block."""
        placed = keras_internals.backend_operations()
        for module, name, function in placed:
            setattr(module, name, self._watched(name, function))
        try:
            yield
        finally:
            for module, name, function in placed:
                setattr(module, name, function)

    def _watched(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def watched(*args: Any, **kwargs: Any) -> Any:
            self._depth += 1
            try:
                outputs = function(*args, **kwargs)
            finally:
                self._depth -= 1
            if not self._depth:  # an operation may be made of others
                self._look(name, (args, kwargs), outputs)
            return outputs

        return watched

    def _look(self, name: str, given: Any, outputs: Any) -> None:
        results = self._floats(outputs)
        if all(np.isfinite(x).all() for x in results):
            return
        layer = keras_internals.current_layer()
        path = None if layer is None else self._paths.get(id(layer), layer.name)
        made = judged(name, path, self._floats(given), results)
        if made is not None:
            self.made_bad.append(made)

    def _floats(self, tree: Any) -> Arrays:
        found = [self._value(value) for _, value in leaves(tree)]
        return [x for x in found if x is not None]


def reader() -> Callable[[Any], np.ndarray[Any, Any] | None]:
    """Reads a floating-point tensor; what is none, or has no value yet, gives None."""
    stop: Callable[[Any], Any] = lambda x: x  # noqa: E731
    if keras_internals.backend_name() == "jax":
        import jax

        stop = jax.lax.stop_gradient

    def read(value: Any) -> np.ndarray[Any, Any] | None:
        if isinstance(value, keras.Variable):
            value = value.value
        dtype = str(getattr(value, "dtype", type(value).__name__))
        if "float" not in dtype:
            return None
        try:
            array = to_host(stop(value)) if hasattr(value, "dtype") else np.asarray(value)
            return array.astype(np.float64)
        except Exception:
            return None

    return read

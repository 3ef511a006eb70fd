"""TensorFlow's operations one by one, in a step that runs eagerly."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
from tensorflow.python import pywrap_tfe  # type: ignore[import-not-found]
from tensorflow.python.eager import backprop, core, record  # type: ignore[import-not-found]
from tensorflow.python.framework import op_callbacks  # type: ignore[import-not-found]

if TYPE_CHECKING:
    from fitscope.engine.single_operations import See

_READS = ("ReadVariableOp", "ResourceGather")
"""They give what is there, and make nothing."""

mark = tf.name_scope
"""Operations in the block, and those of their backward pass, are under the name."""


def left(outputs: Any) -> None:
    """A marked block gave these; the backend itself knows what they are made of."""
    del outputs


def run(step: Callable[..., Any], args: Any, see: See) -> Any:
    """Run a step and see each operation."""
    with _backward_passes() as backward, _slow_path():

        def callback(
            op_type: Any, inputs: Any, attrs: Any, outputs: Any, op_name: Any = None,
            graph: Any = None,
        ) -> None:  # fmt: skip
            del attrs, op_name
            name = op_type.decode() if isinstance(op_type, bytes) else str(op_type)
            if graph is not None or name in _READS:
                return
            results = _floats(outputs)
            if any(not np.isfinite(x).all() for x in results):
                marks, of = backward[-1] if backward else (tf.get_current_name_scope(), None)
                see(name, marks, _floats(inputs), results, backward=bool(backward), of=of)

        op_callbacks.add_op_callback(callback)
        try:
            return step(*args)
        finally:
            op_callbacks.remove_op_callback(callback)


@contextlib.contextmanager
def _backward_passes() -> Generator[list[tuple[str, str | None]]]:
    """Gives a list that grows while tapes compute gradients.

    By the name scope of what they are of, and what that is called.
    """
    names: list[tuple[str, str | None]] = []
    gradient = tf.GradientTape.gradient
    of_operation = backprop._gradient_function  # noqa: SLF001 - no public way to each gradient

    @functools.wraps(gradient)
    def of_all(*args: Any, **kwargs: Any) -> Any:
        names.append(("", None))
        try:
            return gradient(*args, **kwargs)
        finally:
            names.pop()

    def of_one(*args: Any) -> Any:
        names.append((args[-1] or "", str(args[0])))  # the scope that the operation ran in
        try:
            return of_operation(*args)
        finally:
            names.pop()

    def recorded(kind: Any, outputs: Any, inputs: Any, backward: Any, *rest: Any) -> Any:
        """A function with a gradient of its own is none of TensorFlow's operations."""
        within = tf.get_current_name_scope()

        def named(*args: Any) -> Any:
            names.append((within, str(kind)))
            try:
                return backward(*args)
            finally:
                names.pop()

        return record_operation(kind, outputs, inputs, named, *rest)

    record_operation, record.record_operation = record.record_operation, recorded
    tf.GradientTape.gradient = of_all
    pywrap_tfe.TFE_Py_RegisterGradientFunction(of_one)
    try:
        yield names
    finally:
        tf.GradientTape.gradient = gradient
        record.record_operation = record_operation
        pywrap_tfe.TFE_Py_RegisterGradientFunction(of_operation)


@contextlib.contextmanager
def _slow_path() -> Generator[None]:
    """Operations go by way of Python, where tapes keep the names of the forward pass."""
    fast = pywrap_tfe.TFE_Py_FastPathExecute

    def refused(*args: Any) -> Any:
        del args
        # What the fast path itself raises where it cannot run an operation.
        raise core._FallbackException("fitscope looks at each operation")  # noqa: SLF001

    pywrap_tfe.TFE_Py_FastPathExecute = refused
    try:
        yield
    finally:
        pywrap_tfe.TFE_Py_FastPathExecute = fast


def _floats(tensors: Sequence[Any]) -> list[np.ndarray[Any, Any]]:
    return [
        tensor.numpy().astype(np.float64)
        for tensor in tensors
        if tensor.dtype.is_floating and hasattr(tensor, "numpy")
    ]

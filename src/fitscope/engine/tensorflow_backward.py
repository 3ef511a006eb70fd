"""Gradients of inner tensors, from the same call of the tape that differentiates the weights."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Sequence
from typing import Any

import tensorflow as tf


class Backward:
    """Asks the tapes of a step for a few gradients more.

    A tape has the gradient of every tensor on its way in hand, and lets go of it; to be asked for
    it adds no operation to the forward pass, and none to the backward pass.
    """

    def __init__(self) -> None:
        self._watched: list[tuple[Any, Callable[[Any], None]]] = []

    def watch(self, tensor: Any, came: Callable[[Any], None]) -> None:
        """Have `came` called with the gradient of a tensor, once for each tape that has one."""
        self._watched.append((tensor, came))

    @contextlib.contextmanager
    def installed(self) -> Generator[None]:
        """Extend `tf.GradientTape.gradient` on this thread for the duration of the block."""
        original = tf.GradientTape.gradient
        thread = threading.get_ident()

        def gradient(tape: Any, target: Any, sources: Any, *args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != thread or not self._watched:
                return original(tape, target, sources, *args, **kwargs)
            flat = tf.nest.flatten(sources)
            asked = _on_the_way(self._watched, flat)
            tensors = [tensor for tensor, _ in asked]
            found = list(original(tape, target, [*flat, *tensors], *args, **kwargs))
            for (_, came), value in zip(asked, found[len(flat) :], strict=True):
                if value is not None:
                    came(tf.convert_to_tensor(value))
            return tf.nest.pack_sequence_as(sources, found[: len(flat)])

        tf.GradientTape.gradient = gradient  # type: ignore[method-assign]
        try:
            yield
        finally:
            tf.GradientTape.gradient = original


def _on_the_way(
    watched: Sequence[tuple[Any, Callable[[Any], None]]], sources: Sequence[Any]
) -> list[tuple[Any, Callable[[Any], None]]]:
    """Those that depend on a source; beyond, a backward pass would run for us alone."""
    if tf.executing_eagerly():
        return list(watched)
    graph = tf.compat.v1.get_default_graph()
    known: dict[int, bool] = {id(t): True for t in (_inside(s, graph) for s in sources)}
    return [w for w in watched if w[0].graph is graph and _depends(w[0], known)]


def _inside(source: Any, graph: Any) -> Any:
    """The tensor that a source is read from in a graph."""
    value = getattr(source, "value", source)
    handle = getattr(value, "handle", None)
    if handle is None:
        return value
    return handle if getattr(handle, "graph", None) is graph else graph.capture(handle)


def _depends(tensor: Any, known: dict[int, bool]) -> bool:
    """Whether a tensor is computed from one that is known to be; fills `known` on its way."""
    waiting = [tensor]
    while waiting:
        each = waiting[-1]
        if id(each) in known:
            waiting.pop()
            continue
        ahead = [t for t in each.op.inputs if id(t) not in known]
        if ahead:
            waiting.extend(ahead)
            continue
        known[id(each)] = any(known[id(t)] for t in each.op.inputs)
        waiting.pop()
    return known[id(tensor)]

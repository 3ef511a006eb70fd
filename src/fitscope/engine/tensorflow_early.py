"""Compiling reductions beside the tracing and the compilation of the step that needs them.

XLA compiles a function when it is first called with arguments of a shape, and keeps it under its
name, whichever graph calls it. A first call on another thread is not waited for: where the step
comes first, it compiles, and where both come at once, one waits for the other.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import threading
from collections.abc import Callable
from typing import Any

import tensorflow as tf


@functools.lru_cache(maxsize=4096)
def compile_early(
    function: Callable[..., Any], tensors: tuple[tuple[tuple[int | None, ...], str], ...]
) -> None:
    """Have a function that XLA compiles compiled for shapes and dtypes, if those are known."""
    if not any(None in shape for shape, _ in tensors):
        _thread.add(lambda: _call(function, [tf.TensorSpec(*tensor) for tensor in tensors]))


class _Thread:
    """A thread that lives while there is work: one, for the step is compiled at the same time."""

    def __init__(self) -> None:
        self._waiting: collections.deque[Callable[[], None]] = collections.deque()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, work: Callable[[], None]) -> None:
        with self._lock:
            self._waiting.append(work)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="fitscope-compilation")
                self._thread.start()

    def wait(self) -> None:
        thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._thread = None
                    return
                work = self._waiting.popleft()
            work()


_thread = _Thread()


def wait() -> None:
    """Until nothing is compiled; a moment, once a step ran, for which all was compiled."""
    _thread.wait()


def _call(function: Callable[..., Any], specs: list[tf.TensorSpec]) -> None:
    # Called from a graph as it is in a step; called as it is, it would have another name.
    graph = tf.function(lambda *x: function(*x)[0], autograph=False, input_signature=specs)
    with contextlib.suppress(Exception):  # what fails here fails again in the step, which tells
        graph(*(tf.zeros(spec.shape, spec.dtype) for spec in specs))

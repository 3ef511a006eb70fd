"""A whole `fit`, with and without `fs.Scope()`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import keras

import fitscope as fs
from benchmarks.interleave import Timings, interleave
from benchmarks.models import Repeated, Work
from benchmarks.step import check


def fitting(work: Work, steps: int, *callbacks: Any) -> Callable[[], Sequence[float]]:
    """A way that fits one epoch and returns the seconds it took, all callbacks included.

    Not what comes after them: Keras then joins the thread that reads a `PyDataset`, which may sleep
    for up to five seconds, on TensorFlow above all.
    """
    data = Repeated(work.x, work.y, steps)
    began, ended = _Clock("on_train_begin"), _Clock("on_train_end")

    def turn() -> list[float]:
        around = [began, *callbacks, ended]
        work.model.fit(data, epochs=1, verbose=0, shuffle=False, callbacks=around)
        return [ended.at - began.at]

    return turn


class _Clock(keras.callbacks.Callback):
    """Notes when Keras calls one of its methods."""

    def __init__(self, method: str) -> None:
        super().__init__()
        self.at = 0.0
        setattr(self, method, self._note)

    def _note(self, logs: Any = None) -> None:
        del logs
        self.at = time.perf_counter()


def measure(work: Work, steps: int, rounds: int) -> tuple[Timings, float]:
    """Time `plain` and `scope` fits of one model in turn, after one of each to warm up.

    Args:
        work: the model and its batch.
        steps: of each fit.
        rounds: fits of each way.

    Returns:
        The timings, and the share of the scope's steps that were observed after the first fit.
    """
    scope = fs.Scope()
    ways = {"plain": fitting(work, steps), "scope": fitting(work, steps, scope)}
    for turn in ways.values():
        turn()
    before = scope.cost["observed_steps"]
    timings = interleave(ways, rounds)
    check(scope)
    return timings, (scope.cost["observed_steps"] - before) / (steps * rounds)

"""One training step: plain, observed, and not observed with a scope attached."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras

import fitscope as fs
from benchmarks.device import finish
from benchmarks.interleave import Timings, interleave
from benchmarks.models import Work

NEVER = 10**9
TIMED = 2
"""Steps that are timed in each turn of a way, after one that is not.

The step before is of the same way: an observed step thus carries the recording of the observed
step before it, as in a training that observes them all, and a plain step carries nobody's."""

SETTLING = 4
"""Turns before the first that counts: on JAX the first rows are reduced in a way that compiles fast
but runs slower."""


class Stepper:
    """Runs single steps of a model through functions put in place of its own.

    Only that function is timed, to the end of its work on the device; what `train_on_batch` does
    around it would make every ratio look better.
    """

    def __init__(self, work: Work) -> None:
        self.model = work.model
        self._x = keras.ops.convert_to_tensor(work.x)
        self._y = keras.ops.convert_to_tensor(work.y)
        self.plain = self.model.make_train_function() or self.model.train_function

    def step(self, function: Callable[..., Any]) -> tuple[float, float]:
        """Seconds of one step: by the clock, and of all the process' threads."""
        taken: list[tuple[float, float]] = []

        def timed(*args: Any) -> Any:
            wall, cpu = time.perf_counter(), time.process_time()
            outputs = function(*args)
            finish(outputs)
            taken.append((time.perf_counter() - wall, time.process_time() - cpu))
            return outputs

        self.model.train_function = timed
        try:
            self.model.train_on_batch(self._x, self._y)
        finally:
            self.model.train_function = self.plain
        return taken[0]

    @contextlib.contextmanager
    def scoped(self, scope: fs.Scope) -> Any:
        """The function that a scope attached to the model runs in place of the plain one."""
        with scope.attach(self.model):
            function = self.model.train_function
            self.model.train_function = self.plain
            yield function


def check(scope: fs.Scope) -> int:
    """How many sites the scope's last observed step measured; an error when watching broke.

    A scope that fails warns once and leaves the training alone: its ratio would be excellent.
    """
    session = scope._session
    if session is None or session.broken is not None or not scope.latest():
        why = "it recorded nothing" if session is None else session.broken
        raise RuntimeError(f"the scope observed no step, so there is nothing to measure: {why}")
    return len(scope.latest())


def measure(work: Work, steps: int, of: Sequence[str] = ("output",)) -> tuple[Timings, int]:
    """Time `plain`, `observed` and `unobserved` steps of one model in turn.

    Args:
        work: the model and its batch.
        steps: how many steps of each way are timed, at least.
        of: the ports that are watched.

    Returns:
        The timings, and how many sites an observed step measured.
    """
    stepper = Stepper(work)
    every, never = (fs.Scope(fs.watch("**", of=of), every=n) for n in (1, NEVER))

    def way(function: Callable[..., Any]) -> Callable[[], Sequence[float]]:
        def turn() -> list[float]:
            return [stepper.step(function)[0] for _ in range(TIMED + 1)][1:]

        return turn

    with stepper.scoped(every) as observed, stepper.scoped(never) as unobserved:
        functions = {"plain": stepper.plain, "observed": observed, "unobserved": unobserved}
        ways = {name: way(function) for name, function in functions.items()}
        for turn in ways.values():
            for _ in range(SETTLING):
                turn()
        timings = interleave(ways, math.ceil(steps / TIMED))
    return timings, check(every)

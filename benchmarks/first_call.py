"""The first call of a train function: building the graph, compiling it, and one step."""

from __future__ import annotations

import keras

import fitscope as fs
from benchmarks.interleave import Timings, interleave
from benchmarks.models import work
from benchmarks.step import Stepper


def measure(name: str, jit: bool | str, rounds: int) -> tuple[Timings, Timings]:
    """Time the first calls of the `plain` and the `observed` function, each on a fresh model.

    Args:
        name: of the model.
        jit: `jit_compile`.
        rounds: models of each way.

    Returns:
        By the clock, and of all the process' threads: a compiler works on several at once.
    """
    cpu: dict[str, list[list[float]]] = {"plain": [], "observed": []}

    def plain() -> list[float]:
        forget()
        stepper = Stepper(work(name, jit=jit))
        return keep("plain", *stepper.step(stepper.plain))

    def observed() -> list[float]:
        forget()
        stepper = Stepper(work(name, jit=jit))
        with stepper.scoped(fs.Scope(every=1)) as function:
            return keep("observed", *stepper.step(function))

    def forget() -> None:
        """Let nothing be taken from what an earlier model compiled."""
        if keras.backend.backend() == "jax":
            import jax

            jax.clear_caches()

    def keep(way: str, wall: float, process: float) -> list[float]:
        cpu[way].append([process])
        return [wall]

    # The process' own first compilation loads what all later ones share.
    plain()
    observed()
    for kept in cpu.values():
        kept.clear()
    wall = interleave({"plain": plain, "observed": observed}, rounds)
    return wall, Timings(cpu)

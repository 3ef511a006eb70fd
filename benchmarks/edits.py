"""What edits cost: a training step with one that is off, and with some that act, to a plain one.

python -m benchmarks.edits --backend jax
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

BACKENDS = ("jax", "tensorflow", "torch")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.edits", description=__doc__)
    parser.add_argument("--backend", choices=BACKENDS, required=True)
    parser.add_argument("--models", default="mlp,cnn,transformer", help="by comma")
    parser.add_argument("--steps", type=int, default=60, help="timed training steps of each kind")
    parser.add_argument("--jit", choices=("on", "off", "auto"), default="auto", help="jit_compile")
    return parser.parse_args()


def measure(name: str, options: Any) -> list[str]:
    """The ratios of one model."""
    import contextlib

    import fitscope as fs
    from benchmarks.interleave import interleave
    from benchmarks.models import work
    from benchmarks.report import milliseconds, ratio
    from benchmarks.step import TIMED, Stepper

    jit = {"on": True, "off": False, "auto": "auto"}[options.jit]
    stepper = Stepper(work(name, jit=jit))
    # Every layer that puts out a floating-point tensor, as an edit of the whole model would.
    scopes = {
        "off": fs.Scope(fs.edit("*", fs.Scale(0.999), when=fs.steps(10**9))),
        "scaled": fs.Scope(fs.edit("*", fs.Scale(0.999))),
        "noisy": fs.Scope(fs.edit("*", fs.Noise(1e-3))),
    }

    def way(function: Callable[..., Any]) -> Callable[[], Sequence[float]]:
        def turn() -> list[float]:
            return [stepper.step(function)[0] for _ in range(TIMED + 1)][1:]

        return turn

    with contextlib.ExitStack() as stack:
        functions = {n: stack.enter_context(stepper.scoped(s)) for n, s in scopes.items()}
        ways = {"plain": way(stepper.plain), **{n: way(f) for n, f in functions.items()}}
        for turn in ways.values():
            turn()
        timings = interleave(ways, math.ceil(options.steps / TIMED))
    plain = milliseconds(timings.seconds("plain"))
    return [name, plain, *(ratio(timings, each) for each in scopes)]


def main() -> None:
    options = arguments()
    os.environ["KERAS_BACKEND"] = options.backend
    from benchmarks.report import page, table

    rows = [measure(name, options) for name in options.models.split(",")]
    head = ["model", "plain step", "edit off", "every layer scaled", "noise in every layer"]
    print(page("Edited training steps", "edits", options.backend, table(head, rows)))


if __name__ == "__main__":
    main()

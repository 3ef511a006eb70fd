"""`python -m benchmarks.doctor.cost`: what the doctor costs as a fit begins and as it ends.

Where it costs nothing is in between: rules read what a run has recorded when the fit is over. What
an observed step costs is measured by `benchmarks.step`.

Seconds are of the process' CPU, of all its threads, and by the clock; the least of the repetitions.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

import fitscope as fs
from benchmarks.models import MODELS, Repeated, work
from fitscope.launch.doctor_scope import DoctorScope
from fitscope.rules.registry import contract, findings
from fitscope.scope.facts import facts
from fitscope.scope.scale_sample import ScaleSample
from fitscope.scope.weight_sample import WeightSample

Seconds = tuple[float, float]


def small() -> tuple[Any, int]:
    """Seven Dense layers of width 32; batch 32."""
    hidden = [keras.layers.Dense(32, activation="relu") for _ in range(6)]
    return keras.Sequential([keras.Input((16,)), *hidden, keras.layers.Dense(10)]), 32


MODELS["small"] = small


def timed(function: Callable[[], Any], repetitions: int) -> Seconds:
    """The least CPU and clock seconds of a call; the first, which imports, is not counted."""
    function()
    taken = []
    for _ in range(repetitions):
        wall, cpu = time.perf_counter(), time.process_time()
        function()
        taken.append((time.process_time() - cpu, time.perf_counter() - wall))
    return min(cpu for cpu, _ in taken), min(wall for _, wall in taken)


class Begin(keras.callbacks.Callback):
    """Times what a scope looks at before the first step, from inside the fit."""

    def __init__(self, repetitions: int) -> None:
        super().__init__()
        self.taken: dict[str, Seconds] = {}
        self._repetitions = repetitions

    def on_train_begin(self, logs: Any = None) -> None:
        model = self.model
        known = facts(model)
        parts: dict[str, Callable[[], Any]] = {
            "facts of the fit": lambda: facts(model),
            "rules of the contract": lambda: contract(known),
            "sample of the weights": lambda: (WeightSample(model), ScaleSample(model, 0)),
        }
        self.taken = {name: timed(part, self._repetitions) for name, part in parts.items()}


def measure(name: str, steps: int, repetitions: int, *, gradients: bool) -> None:
    """Train one model with every step observed, and print the table of its costs."""
    one = work(name)
    batch = len(one.x)
    x = np.concatenate([one.x] * max(1, 512 // batch))
    y = np.concatenate([one.y] * max(1, 512 // batch))
    begin = Begin(repetitions)
    one.model.fit(x, y, batch_size=batch, epochs=1, verbose=0, callbacks=[begin])
    scope = DoctorScope() if gradients else fs.Scope(every=1)
    data = Repeated(one.x, one.y, steps // 4)
    one.model.fit(data, epochs=4, verbose=0, callbacks=[scope])
    run = scope.run
    sample = WeightSample(one.model)
    ends = {
        "rules of the training": timed(lambda: findings(run, scope._rules), repetitions),
        "how far weights moved": timed(sample.moved, repetitions),
    }
    print(f"\n{name}: {len(run.sites)} sites, {scope.cost['observed_steps']:.0f} observed steps")
    for part, (cpu, wall) in {**begin.taken, **ends}.items():
        print(f"  {part:24} {cpu * 1e3:8.1f} ms CPU {wall * 1e3:8.1f} ms")
    total = np.sum([*begin.taken.values(), *ends.values()], axis=0)
    print(f"  {'together':24} {total[0] * 1e3:8.1f} ms CPU {total[1] * 1e3:8.1f} ms")
    slowest = sorted(
        ((timed(lambda r=rule: r(run), 2)[0], rule.id) for rule in scope._rules.values()
         if rule.stage == "training"), reverse=True)[:5]  # fmt: skip
    print("  slowest rules:", ", ".join(f"{each} {cpu * 1e3:.1f} ms" for cpu, each in slowest))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="small,mlp,transformer")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--gradients", action="store_true")
    given = parser.parse_args()
    for name in given.models.split(","):
        measure(name, given.steps, given.repetitions, gradients=given.gradients)


if __name__ == "__main__":
    main()

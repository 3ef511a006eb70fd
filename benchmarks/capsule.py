"""What it costs to keep a step for a replay, and to look at every step for what is not finite.

python -m benchmarks.capsule --backend jax
python -m benchmarks.capsule --backend jax --memory
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

BACKENDS = ("jax", "tensorflow", "torch")
BLOCK = 10
"""Steps that are timed at a stretch, after one that is not, so that each has a share of copies."""

WAYS = {
    "watched": "all five ports watched",
    "batch": "and the batch handed out",
    "stop_on": "fs.stop_on(fs.non_finite())",
    "capsule 1": "fs.capsule(keep_weights=1)",
    "capsule 10": "keep_weights=10",
    "capsule 100": "keep_weights=100",
}
MORE = {
    "outputs": "outputs watched",
    "outputs and batch": "outputs watched, the batch handed out",
}
"""What `--ways` takes besides; TensorFlow hands batches out where the first is looked at."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capsule", description=__doc__)
    parser.add_argument("--backend", choices=BACKENDS, required=True)
    parser.add_argument("--models", default="mlp", help="by comma")
    parser.add_argument("--rounds", type=int, default=9, help=f"blocks of {BLOCK} steps, each way")
    parser.add_argument("--jit", choices=("on", "off", "auto"), default="auto", help="jit_compile")
    parser.add_argument("--ways", default=",".join(WAYS), help=f"by comma; also {', '.join(MORE)}")
    parser.add_argument("--memory", action="store_true", help="memory, in place of time")
    parser.add_argument("--memory-of", help="of one way, for --memory")
    return parser.parse_args()


def scope_of(way: str, folder: Path) -> Any:
    """The scope of a way; None where there is none."""
    import fitscope as fs

    name, _, number = way.partition(" ")
    if name == "plain":
        return None
    if name == "capsule":
        kept = fs.capsule(keep_weights=int(number))
        return fs.Scope(kept, run=folder / way.replace(" ", "-"))
    if name == "stop_on":
        return fs.Scope(fs.stop_on(fs.non_finite()))
    ports = ["output"]
    if way in ("watched", "batch"):  # what the condition looks at, but for the model's input
        ports += ["gradient", "weight", "weight_gradient", "update"]
    return fs.Scope(fs.watch("**", of=ports), every=1)


@contextlib.contextmanager
def function_of(way: str, stepper: Any, folder: Path) -> Iterator[Callable[..., Any]]:
    """The train function of a way."""
    scope = scope_of(way, folder)
    if scope is None:
        yield stepper.plain
        return
    with stepper.scoped(scope) as function:
        if way.endswith("batch"):
            # As where the data set is not known before the first step, which is looked at then.
            scope._session.on_batch = lambda batch: None
        yield function
        assert scope._session.broken is None, scope._session.broken
        assert scope.latest()


def measure(name: str, options: Any, folder: Path) -> list[str]:
    """The ratios of one model."""
    from benchmarks.interleave import interleave
    from benchmarks.models import work
    from benchmarks.report import milliseconds, ratio
    from benchmarks.step import Stepper

    jit = {"on": True, "off": False, "auto": "auto"}[options.jit]
    stepper = Stepper(work(name, jit=jit))

    def turn_of(function: Callable[..., Any]) -> Callable[[], Sequence[float]]:
        def turn() -> list[float]:
            taken = [stepper.step(function)[0] for _ in range(BLOCK + 1)][1:]
            return [math.fsum(taken) / len(taken)]

        return turn

    chosen = options.ways.split(",")
    with contextlib.ExitStack() as stack:
        functions = {
            way: stack.enter_context(function_of(way, stepper, folder / name))
            for way in ("plain", *chosen)
        }
        ways = {way: turn_of(function) for way, function in functions.items()}
        for turn in ways.values():
            turn()
        timings = interleave(ways, options.rounds)
    return [name, milliseconds(timings.seconds("plain")), *(ratio(timings, w) for w in chosen)]


def memory_of(way: str, name: str, folder: Path, jit: bool | str) -> dict[str, int]:
    """The most memory that a process has while it trains, compilation left aside."""
    from benchmarks.models import Repeated, work

    made = work(name, jit=jit)
    scope = scope_of(way, folder)
    callbacks = [] if scope is None else [scope]

    def fit(steps: int) -> None:
        data = Repeated(made.x, made.y, steps)
        made.model.fit(data, epochs=1, verbose=0, shuffle=False, callbacks=callbacks)

    fit(3)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the highest so far
    fit(60)
    told = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    kilobytes = next(line for line in told if line.startswith("VmHWM:")).split()[1]
    variables = [*made.model.variables, *made.model.optimizer.variables]
    state = sum(math.prod(v.shape) * 4 for v in variables)
    return {"most": 1024 * int(kilobytes), "state": state}


def memories(name: str, options: Any) -> list[str]:
    """Of each way, in a process of its own, how much more than plain."""
    found: dict[str, dict[str, int]] = {}
    chosen = options.ways.split(",")
    for way in ("plain", *chosen):
        command = [sys.executable, "-m", "benchmarks.capsule", "--backend", options.backend]
        command += ["--models", name, "--jit", options.jit, "--memory-of", way]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found[way] = json.loads(done.stdout.splitlines()[-1])
    plain = found["plain"]

    def megabytes(count: int) -> str:
        return f"{count / 1e6:.0f} MB"

    more = [f"+{megabytes(found[way]['most'] - plain['most'])}" for way in chosen]
    return [name, megabytes(plain["state"]), megabytes(plain["most"]), *more]


def main() -> None:
    options = arguments()
    os.environ["KERAS_BACKEND"] = options.backend
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        jit = {"on": True, "off": False, "auto": "auto"}[options.jit]
        names = options.models.split(",")
        if options.memory_of:
            print(json.dumps(memory_of(options.memory_of, names[0], folder, jit)))
            return
        from benchmarks.report import page, table

        heads = [{**WAYS, **MORE}[way] for way in options.ways.split(",")]
        if options.memory:
            rows = [memories(name, options) for name in names]
            head = ["model", "its variables", "most memory, plain", *heads]
            title = "Capsules: memory"
        else:
            rows = [measure(name, options, folder) for name in names]
            head = ["model", "plain step", *heads]
            title = "Capsules: time"
        print(page(title, "capsule", options.backend, table(head, rows)))


if __name__ == "__main__":
    main()

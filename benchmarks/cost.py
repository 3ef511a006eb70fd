"""What watching every layer costs, as ratios to the same work without it.

python -m benchmarks.cost --backend jax --models mlp,cnn,transformer --jit on
python -m benchmarks.cost --backend jax --of output,gradient --only-step
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

BACKENDS = ("jax", "tensorflow", "torch")
JIT: dict[str, bool | str] = {"auto": "auto", "on": True, "off": False}
STEPS = {"mlp": 60, "cnn": 12, "transformer": 12}
FIT_STEPS = {"mlp": 200, "cnn": 24, "transformer": 24}
"""A step of the last two takes about a second on two cores."""

HEAD = (
    "model",
    "sites",
    "plain step",
    "observed step",
    "unobserved step",
    "fit with Scope()",
    "steps observed",
    "plain first call",
    "first call, wall",
    "first call, CPU",
)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cost", description=__doc__)
    parser.add_argument("--backend", choices=BACKENDS, required=True)
    parser.add_argument("--models", default="mlp,cnn,transformer", help="by comma")
    parser.add_argument("--jit", choices=JIT, default="auto", help="jit_compile")
    parser.add_argument("--of", default="output", help="ports that single steps watch, by comma")
    parser.add_argument("--only-step", action="store_true", help="single steps, nothing else")
    parser.add_argument("--steps", type=int, help="timed steps of each kind (default: by model)")
    parser.add_argument("--fit-steps", type=int, help="steps of each fit (default: by model)")
    parser.add_argument("--fits", type=int, default=3, help="fits with and without a scope")
    parser.add_argument("--compiles", type=int, default=2, help="fresh models for first calls")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write all timings here")
    return parser.parse_args()


def measure(name: str, options: argparse.Namespace) -> tuple[list[str], dict[str, Any]]:
    """The table's row for one model, and the numbers behind it."""
    from benchmarks import first_call, step, whole_fit
    from benchmarks.models import work
    from benchmarks.report import milliseconds, ratio

    jit = JIT[options.jit]
    if options.only_step:
        return measure_step(name, options)
    wall, cpu = first_call.measure(name, jit, options.compiles)
    made = work(name, jit=jit)
    steps, sites = step.measure(made, options.steps or STEPS[name], options.of.split(","))
    fits, share = whole_fit.measure(
        work(name, jit=jit), options.fit_steps or FIT_STEPS[name], options.fits
    )
    row = [
        f"{name}, {'jit' if made.model.jit_compile else 'no jit'}",
        str(sites),
        milliseconds(steps.seconds("plain")),
        ratio(steps, "observed"),
        ratio(steps, "unobserved"),
        ratio(fits, "scope"),
        f"{share:.1%}",
        f"{wall.seconds('plain'):.2f} s",
        ratio(wall, "observed"),
        ratio(cpu, "observed"),
    ]
    timings = {"step": steps, "fit": fits, "first_call_wall": wall, "first_call_cpu": cpu}
    return row, {
        "model": name,
        "jit": made.model.jit_compile,
        "sites": sites,
        "share_observed": share,
        "seconds": {kind: timing.rounds for kind, timing in timings.items()},
    }


def measure_step(name: str, options: argparse.Namespace) -> tuple[list[str], dict[str, Any]]:
    """As `measure`, of single steps alone."""
    from benchmarks import step
    from benchmarks.models import work
    from benchmarks.report import milliseconds, ratio

    made = work(name, jit=JIT[options.jit])
    steps, sites = step.measure(made, options.steps or STEPS[name], options.of.split(","))
    row = [
        f"{name}, {'jit' if made.model.jit_compile else 'no jit'}",
        str(sites),
        milliseconds(steps.seconds("plain")),
        ratio(steps, "observed"),
        ratio(steps, "unobserved"),
    ]
    found = {"model": name, "jit": made.model.jit_compile, "sites": sites, "of": options.of}
    return row, {**found, "seconds": {"step": steps.rounds}}


def main() -> None:
    options = arguments()
    os.environ["KERAS_BACKEND"] = options.backend

    from benchmarks import report

    measured = [measure(name, options) for name in options.models.split(",")]
    head = HEAD[:5] if options.only_step else HEAD
    body = report.table(head, [row for row, _ in measured])
    title = f"Cost, {options.backend}, jit {options.jit}"
    if options.of != "output":
        title += f", of {options.of}"
    print(report.page(title, "cost", options.backend, body))
    if options.json is not None:
        found = {
            "command": report.command("cost"),
            "facts": report.facts(options.backend),
            "models": [numbers for _, numbers in measured],
        }
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

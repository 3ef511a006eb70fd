"""`python -m benchmarks.doctor`: seed faults, train, and write what the doctor found.

    python -m benchmarks.doctor --backend jax --seeds 1 --out benchmarks/doctor/results

A run that was cut short (`--seconds`) goes on where it stopped when it is started again with the
same `--out`; delete the `.jsonl` file there to begin anew.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path


def main() -> None:  # noqa: C901 - a script, read from top to bottom
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", default=os.environ.get("KERAS_BACKEND", "jax"))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--bases", type=int, default=99, help="bases for each fault at most")
    parser.add_argument("--only", default="", help="part of a fault's name; 'healthy' for none")
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after so long")
    parser.add_argument("--no-jit", action="store_true", help="compile with jit_compile=False")
    parser.add_argument(
        "--gradients", action="store_true", help="watch as `fitscope doctor train.py` does"
    )
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    os.environ["KERAS_BACKEND"] = given.backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if given.backend == "torch":
        os.environ.setdefault("OMP_NUM_THREADS", "1")

    from benchmarks.doctor.bases import BASES
    from benchmarks.doctor.controls import CONTROLS
    from benchmarks.doctor.faults import FAULTS
    from benchmarks.doctor.measure import Outcome, measure
    from benchmarks.doctor.tables import write

    began = time.monotonic()
    name = f"{given.backend}-gradients" if given.gradients else given.backend
    path = None if given.out is None else given.out / f"{name}.jsonl"
    outcomes: list[Outcome] = []
    if path is not None and path.exists():
        outcomes = [Outcome(**json.loads(line)) for line in path.read_text().splitlines()]
    known = {(o.program, o.fault, o.seed) for o in outcomes}
    planned = []
    for seed in range(given.seeds):
        planned += [(make, None, seed) for make in (*BASES, *CONTROLS)]
        for place, fault in enumerate(FAULTS):
            # Each fault and each seed begins at another base, so that few bases still cover all.
            first = (place + seed) % len(BASES)
            turned = [*BASES[first:], *BASES[:first]]
            planned += [(make, fault, seed) for make in turned]
    used: dict[tuple[str, int], int] = {}
    for make, fault, seed in planned:
        kind = fault.name if fault else "healthy"
        if given.only not in kind or (used.get((kind, seed), 0) >= given.bases and fault):
            continue
        if time.monotonic() - began > given.seconds:
            print("time is up", flush=True)
            break
        program = make(seed)
        if given.no_jit:
            program.compile["jit_compile"] = False
        if fault is not None and fault.seed(program) is False:
            continue
        used[kind, seed] = used.get((kind, seed), 0) + 1
        if (program.name, fault.name if fault else None, seed) in known:
            continue
        outcome = measure(program, fault, seed, gradients=given.gradients)
        outcomes.append(outcome)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a") as file:
                file.write(json.dumps(outcome.to_json()) + "\n")
        print(
            f"{kind:28} {program.name:20} {seed} {outcome.seconds:5.1f}s "
            f"{'first' if outcome.cause_first else 'told' if outcome.cause_told else '-':5} "
            f"{' '.join(f'{r}:{s[0]}@{at}' for r, s, at in outcome.rules)} "
            f"{outcome.error or ''}",
            flush=True,
        )
    write(outcomes, name, given.out, jit=not given.no_jit)


if __name__ == "__main__":
    main()

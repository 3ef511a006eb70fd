"""Run every benchmark, each in a process of its own, and write results/<backend>.md."""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.cost import BACKENDS

HERE = Path(__file__).parent
JITS = {"jax": ("on",), "tensorflow": ("on", "off"), "torch": ("off",)}
"""The settings of `jit_compile` that people use; without it JAX runs one operation at a time."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--backends", default=",".join(BACKENDS), help="by comma")
    parser.add_argument("--models", default="mlp,cnn,transformer", help="by comma")
    parser.add_argument("--steps", type=int, help="instead of each benchmark's own number")
    parser.add_argument("--results", type=Path, default=HERE / "results", metavar="DIR")
    return parser.parse_args()


def commands(backend: str, models: str, steps: int | None) -> list[list[str]]:
    """The arguments of every process for one backend."""
    size = [] if steps is None else ["--steps", str(steps)]
    costs = [
        ["benchmarks.cost", "--backend", backend, "--models", models, "--jit", jit, *size]
        for jit in JITS[backend]
    ]
    rivals = ["benchmarks.rivals", "--backend", backend, *size]
    recording = ["benchmarks.recording", "--backend", backend]
    return [*costs, rivals, ["benchmarks.preview", "--backend", backend], recording]


def run(arguments: list[str]) -> str | None:
    """What the process printed, or None if it failed."""
    print(f"python -m {' '.join(arguments)}", file=sys.stderr, flush=True)
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ}
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=HERE.parent,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    return done.stdout if done.returncode == 0 else None


def main() -> int:
    options = arguments()
    options.results.mkdir(parents=True, exist_ok=True)
    failed: list[str] = []
    for backend in options.backends.split(","):
        if importlib.util.find_spec(backend) is None:
            print(f"{backend} is not installed: left out", file=sys.stderr)
            continue
        pages: list[str] = []
        for command in commands(backend, options.models, options.steps):
            page = run(command)
            if page is None:
                failed.append(" ".join(command))
                continue
            print(page, flush=True)
            pages.append(page)
        if pages:
            text = f"# Measured on {backend}\n\nHow to read this: ../README.md\n\n"
            (options.results / f"{backend}.md").write_text(text + "\n".join(pages))
    for command in failed:
        print(f"failed: python -m {command}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

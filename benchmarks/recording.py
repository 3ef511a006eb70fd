"""What recording costs: the disk against a plain write, and a training step against a plain one.

python -m benchmarks.recording --backend jax
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

BACKENDS = ("jax", "tensorflow", "torch")
TENSORS = {
    "64 x 64 float32 (16 kB)": ((64, 64), "float32", 16_000),
    "128 x 1024 float32 (0.5 MB)": ((128, 1024), "float32", 500),
    "32 x 128 x 1024 float32 (16.8 MB)": ((32, 128, 1024), "float32", 16),
    "64 x 56 x 56 x 64 bfloat16 (25.7 MB)": ((64, 56, 56, 64), "bfloat16", 12),
}

TURN = 12
"""Steps of one turn: what is small is written once in several steps, and counts in all of them."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recording", description=__doc__)
    parser.add_argument("--backend", choices=BACKENDS, required=True)
    parser.add_argument("--rounds", type=int, default=7, help="of writing each tensor")
    parser.add_argument("--steps", type=int, default=360, help="timed training steps of each kind")
    parser.add_argument("--jit", choices=("on", "off", "auto"), default="auto", help="jit_compile")
    parser.add_argument("--only", choices=("writing", "training"), help="one of the two tables")
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary one)")
    return parser.parse_args()


def writing(shape: tuple[int, ...], dtype: str, steps: int, rounds: int, folder: Path) -> list[str]:
    """Seconds of a plain sequential write of some tensors, and of recording them."""
    import ml_dtypes

    from benchmarks.interleave import interleave
    from fitscope.run import RunWriter
    from fitscope.run.value_store import StepValues, Tensor
    from fitscope.select import Site, SiteName

    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    array = np.random.default_rng(0).standard_normal(shape, dtype="float32").astype(kind)
    site = Site.of(SiteName("site"), shape=shape, dtype=dtype)

    def plain() -> list[float]:
        data = array.reshape(-1).view(np.uint8).data
        start = time.perf_counter()
        with open(folder / "plain", "wb", buffering=0) as file:
            file.writelines(itertools.repeat(data, steps))
        taken = time.perf_counter() - start
        (folder / "plain").unlink()
        return [taken]

    def recorded() -> list[float]:
        writer = RunWriter(folder / "run", config={})
        start = time.perf_counter()
        for step in range(steps):
            values = StepValues(step, 0, "train", (Tensor(site, array, length=len(array)),))
            writer.append_values(values)
        writer.close()
        taken = time.perf_counter() - start
        assert len(writer.run.values("site")) == steps
        shutil.rmtree(folder / "run")
        return [taken]

    plain(), recorded()
    timings = interleave({"plain": plain, "recorded": recorded}, rounds)
    size = steps * array.nbytes / 1e9
    speeds = [size / timings.seconds(way) for way in ("plain", "recorded")]
    low, high = timings.spread("plain", "recorded")
    return [
        f"{steps}",
        f"{speeds[0]:.2f} GB/s",
        f"{speeds[1]:.2f} GB/s",
        f"{timings.ratio('plain', 'recorded'):.0%} ({low:.0%} to {high:.0%})",
    ]


def training(name: str, places: str, samples: int | None, options: Any, folder: Path) -> list[str]:
    """Seconds of a plain step, of one whose tensors are recorded, and of one that hands them out.

    Args:
        name: of the model.
        places: which of its layers, as Python slices a list of them.
        samples: how many of each batch.
        options: of the command line.
        folder: where the run goes.
    """
    import fitscope as fs
    from benchmarks.by_hand import HandingOut, by_hand
    from benchmarks.interleave import interleave
    from benchmarks.models import work
    from benchmarks.report import milliseconds, ratio
    from benchmarks.step import Stepper

    jit = {"on": True, "off": False, "auto": "auto"}[options.jit]
    stepper = Stepper(work(name, jit=jit))
    layers = stepper.model.layers
    first, _, last = places.partition(":")
    chosen = range(len(layers))[int(first or 0) : int(last) if last else None]
    handing = Stepper(work(name, jit=jit, kind=HandingOut))
    handing.model.wanted, handing.model.samples = tuple(chosen), samples
    select = [layers[place].name for place in chosen]
    scope = fs.Scope(fs.record(select, samples=samples), run=folder / "steps")
    cpu: dict[str, list[float]] = {"plain": [], "recorded": [], "by hand": []}

    with stepper.scoped(scope) as observed:
        session = scope._session
        assert session is not None

        def way(
            name: str, stepper: Stepper, function: Callable[..., Any]
        ) -> Callable[[], Sequence[float]]:
            def turn() -> Sequence[float]:
                stepper.step(function)
                began = time.process_time()
                wall = sum(stepper.step(function)[0] for _ in range(TURN))
                while session.drain._value_bytes:  # what is left to write is not a plain step's
                    time.sleep(0.001)
                cpu[name].append((time.process_time() - began) / TURN)
                return [wall / TURN]

            return turn

        ways = {
            "plain": way("plain", stepper, stepper.plain),
            "recorded": way("recorded", stepper, observed),
            "by hand": way("by hand", handing, by_hand(handing.plain)),
        }
        for turn in ways.values():
            turn()
        for seconds in cpu.values():
            seconds.clear()
        timings = interleave(ways, math.ceil(options.steps / TURN))
    assert session.broken is None
    assert not scope.run.lost_values
    pieces = [scope.run.values(site)[-1].array for site in scope.run.recorded.names]
    assert len(pieces) == len(chosen)
    shutil.rmtree(folder / "steps")
    plain, recorded, handed = (timings.seconds(way) for way in ways)
    of_cpu = {name: median(seconds) / median(cpu["plain"]) for name, seconds in cpu.items()}
    return [
        f"{sum(p.nbytes for p in pieces) / 1e6:.2f} MB",
        milliseconds(plain),
        ratio(timings, "recorded"),
        ratio(timings, "by hand"),
        f"{(recorded - max(handed - plain, 0)) / plain:.3f}",
        f"{of_cpu['recorded']:.3f}",
        f"{of_cpu['recorded'] - max(of_cpu['by hand'] - 1, 0):.3f}",
    ]


def main() -> None:
    options = arguments()
    os.environ["KERAS_BACKEND"] = options.backend
    from benchmarks.report import page, table

    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        tables = []
        if options.only != "training":
            rows = [
                [name, *writing(*tensor, options.rounds, folder)]
                for name, tensor in TENSORS.items()
            ]
            head = ("tensor of one step", "steps", "plain write", "recorded", "of the plain speed")
            tables.append(table(head, rows))
        if options.only != "writing":
            rows = [
                [f"{name}, {what}", *training(name, places, samples, options, folder)]
                for name, places, samples, what in (
                    ("mlp", "1:2", None, "one layer of 128 x 1024"),
                    ("mlp", ":", None, "all seven layers"),
                    ("mlp", ":", 16, "16 samples of all seven"),
                )
            ]
            head = ("model and sites", "a step records", "plain step", "recorded step", "by hand",
                    "less copy", "CPU, recorded", "CPU, less copy")  # fmt: skip
            tables.append(table(head, rows))
        body = "\n\n".join(tables)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(page("Recording", "recording", options.backend, body))


if __name__ == "__main__":
    main()

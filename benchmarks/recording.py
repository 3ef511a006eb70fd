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


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recording", description=__doc__)
    parser.add_argument("--backend", choices=BACKENDS, required=True)
    parser.add_argument("--rounds", type=int, default=7, help="of writing each tensor")
    parser.add_argument("--steps", type=int, default=60, help="timed training steps of each kind")
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


def training(name: str, select: str, samples: int | None, options: Any, folder: Path) -> list[str]:
    """Seconds of a plain training step, and of one whose tensors are recorded."""
    import fitscope as fs
    from benchmarks.interleave import interleave
    from benchmarks.models import work
    from benchmarks.report import milliseconds, ratio
    from benchmarks.step import TIMED, Stepper

    jit = {"on": True, "off": False, "auto": "auto"}[options.jit]
    stepper = Stepper(work(name, jit=jit))
    scope = fs.Scope(fs.record(select, samples=samples), run=folder / "steps")

    cpu: dict[str, list[float]] = {"plain": [], "recorded": []}

    def way(name: str, function: Callable[..., Any]) -> Callable[[], Sequence[float]]:
        def turn() -> list[float]:
            taken = [stepper.step(function) for _ in range(TIMED + 1)][1:]
            cpu[name] += [seconds for _, seconds in taken]
            return [seconds for seconds, _ in taken]

        return turn

    with stepper.scoped(scope) as observed:
        session = scope._session
        assert session is not None
        recorded = way("recorded", observed)

        def and_written() -> Sequence[float]:
            taken = recorded()
            while session.drain._value_bytes:  # what is left of its work is not a plain step's
                time.sleep(0.001)
            return taken

        ways = {"plain": way("plain", stepper.plain), "recorded": and_written}
        for turn in ways.values():
            turn()
        for seconds in cpu.values():
            seconds.clear()
        timings = interleave(ways, math.ceil(options.steps / TIMED))
    assert session.broken is None
    assert not scope.run.lost_values
    pieces = [scope.run.values(site)[-1].array for site in scope.run.recorded.names]
    copies = []
    for _ in range(15):
        start = time.perf_counter()
        for piece in pieces:
            np.copy(piece)
        copies.append(time.perf_counter() - start)
    copy = sorted(copies)[7]
    shutil.rmtree(folder / "steps")
    plain, seconds = timings.seconds("plain"), timings.seconds("recorded")
    return [
        f"{sum(p.nbytes for p in pieces) / 1e6:.2f} MB",
        milliseconds(plain),
        ratio(timings, "recorded"),
        milliseconds(copy),
        f"{(seconds - copy) / plain:.3f}",
        f"{(median(cpu['recorded']) - copy) / median(cpu['plain']):.3f}",
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
                [f"{name}, {what}", *training(name, select, samples, options, folder)]
                for name, select, samples, what in (
                    ("mlp", "dense_1", None, "one layer of 128 x 1024"),
                    ("mlp", "dense*", None, "all seven layers"),
                    ("mlp", "dense*", 16, "16 samples of all seven"),
                )
            ]
            head = ("model and sites", "a step records", "plain step", "recorded step", "copy",
                    "recorded less copy", "the same in CPU time")  # fmt: skip
            tables.append(table(head, rows))
        body = "\n\n".join(tables)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(page("Recording", "recording", options.backend, body))


if __name__ == "__main__":
    main()

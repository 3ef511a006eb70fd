"""Steps made of real tensors, and what NumPy says of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fitscope.run import Run, RunWriter, StepRecord, open_run
from fitscope.select import Site, SiteName

STORED = (
    *("count", "nan", "posinf", "neginf", "zeros", "saturated", "units", "dead_units"),
    *("saturated_units", "mean", "std", "mean_abs", "min", "max", "hist_count"),
)


def moments(x: np.ndarray) -> dict[str, float]:
    """The stored columns of one tensor, by NumPy."""
    finite = x[np.isfinite(x)].astype(np.float64)
    some = finite.size > 0
    return {
        "count": x.size,
        "nan": np.isnan(x).sum(),
        "posinf": np.isposinf(x).sum(),
        "neginf": np.isneginf(x).sum(),
        "zeros": (x == 0).sum(),
        "saturated": (x > 1).sum(),
        "units": x.shape[-1],
        "dead_units": (x <= 0).all(axis=0).sum(),
        "saturated_units": (x > 1).all(axis=0).sum(),
        "mean": finite.mean() if some else np.nan,
        "std": finite.std() if some else np.nan,
        "mean_abs": np.abs(finite).mean() if some else np.nan,
        "min": finite.min() if some else np.nan,
        "max": finite.max() if some else np.nan,
        "hist_count": x.size,
    }


def histogram(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sparse magnitude histogram, from the bits."""
    bins, counts = np.unique(x.astype(np.float32).view(np.uint32) >> 21, return_counts=True)
    return bins.astype(np.uint16), counts.astype(np.uint32)


@dataclass
class Made:
    """Steps, and the tensors they were made of."""

    tensors: list[dict[str, np.ndarray]] = field(default_factory=list)
    records: list[StepRecord] = field(default_factory=list)
    sites: list[Site] = field(default_factory=list)

    def where(self, phase: str | None = None) -> list[tuple[StepRecord, dict[str, np.ndarray]]]:
        pairs = zip(self.records, self.tensors, strict=True)
        return [(r, t) for r, t in pairs if phase in (None, r.phase)]


def make_sites(names: list[str]) -> list[Site]:
    return [
        Site.of(
            SiteName.parse(name),
            layer_class="Conv2D" if "conv" in name else "Dense",
            shape=(None, 4),
            activation="relu",
        )
        for name in names
    ]


def make(
    steps: int, names: list[str], *, seed: int = 0, first: int = 0, validation_every: int = 7
) -> Made:
    rng = np.random.default_rng(seed)
    made = Made(sites=make_sites(names))
    for step in range(first, first + steps):
        tensors: dict[str, np.ndarray] = {}
        for name in names:
            x = (rng.standard_normal((8, 4)) * 10.0 ** rng.integers(-6, 4)).astype(np.float32)
            x[rng.random(x.shape) < 0.1] = 0
            if rng.random() < 0.1:
                x[rng.random(x.shape) < 0.3] = rng.choice([np.nan, np.inf, -np.inf])
            if rng.random() < 0.05:
                x[:] = np.nan
            tensors[name] = x
        phase = "validation" if step % validation_every == validation_every - 1 else "train"
        rows = [[float(moments(x)[c]) for c in STORED] for x in tensors.values()]
        made.tensors.append(tensors)
        made.records.append(
            StepRecord(
                step=step,
                epoch=step // 10,
                phase=phase,
                sites=np.arange(len(names)),
                moments=np.array(rows),
                hist=[histogram(x) for x in tensors.values()],
                extra=[(0, "range", float(step) / 2), (1, "range", -float(step))],
            )
        )
    return made


def write(writer: RunWriter, made: Made) -> None:
    writer.add_sites(made.sites)
    for record in made.records:
        writer.append(record)


NAMES = ["conv_1", "block/conv_2", "block/conv_2:gradient", "dense", "head[logits]"]


@pytest.fixture(scope="session")
def made() -> Made:
    return make(123, NAMES)


@pytest.fixture(
    scope="session", params=["memory", "live", "closed", "unclosed", "merged", "reopened"]
)
def run(request: pytest.FixtureRequest, made: Made, tmp_path_factory: Any) -> Run:
    """The same run in every state it can be read in."""
    return _STATES[request.param](made, tmp_path_factory.mktemp(request.param) / "run")


def _memory(made: Made, path: Path) -> Run:
    writer = RunWriter(None, config={"lr": 0.1})
    write(writer, made)
    return writer.run


def _live(made: Made, path: Path) -> Run:
    writer = RunWriter(path, config={"lr": 0.1})
    write(writer, made)
    return writer.run  # 123 steps: two flushes and 23 pending


def _closed(made: Made, path: Path) -> Run:
    writer = RunWriter(path, config={"lr": 0.1})
    write(writer, made)
    writer.close()
    return open_run(path)


def _unclosed(made: Made, path: Path) -> Run:
    writer = RunWriter(path, config={"lr": 0.1})
    write(writer, made)
    writer.flush()
    return open_run(path)


def _merged(made: Made, path: Path) -> Run:
    writer = RunWriter(path, config={"lr": 0.1}, flush_steps=5)
    writer.add_sites(made.sites)
    for place, record in enumerate(made.records):
        writer.append(record)
        if place % 20 == 19:
            for stream in writer._streams.values():
                stream.flush()
                stream.seal()
    writer.flush()
    return open_run(path)


def _reopened(made: Made, path: Path) -> Run:
    writer = RunWriter(path, config={"lr": 0.1})
    writer.add_sites(made.sites)
    for record in made.records[:60]:
        writer.append(record)
    writer.close()
    writer = RunWriter.reopen(path)
    assert writer.add_sites(made.sites) == list(range(len(made.sites)))
    for record in made.records[60:]:
        writer.append(record)
    writer.close()
    return open_run(path)


_STATES: dict[str, Callable[[Made, Path], Run]] = {
    "memory": _memory,
    "live": _live,
    "closed": _closed,
    "unclosed": _unclosed,
    "merged": _merged,
    "reopened": _reopened,
}


@pytest.fixture(scope="session")
def tools() -> Any:
    """`make`, `write`, `make_sites`, `moments` and `histogram`."""
    from types import SimpleNamespace

    return SimpleNamespace(
        make=make,
        write=write,
        make_sites=make_sites,
        moments=moments,
        histogram=histogram,
        names=NAMES,
        stored=STORED,
    )

"""Runs of known content, made through the run writer."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from fitscope.run.record import StepRecord
from fitscope.run.writer import RunWriter
from fitscope.select.naming import SiteName
from fitscope.select.site import Site
from fitscope.statistics.histogram import Histogram, sparse
from fitscope.statistics.moments import COLUMNS

LAYERS = ("conv_1", "conv_2", "dense", "digit")
EVIL = "<script>document.title='owned'</script>"
STEPS = 240
SPIKE = (1, 117)
"""Site and step of one large value."""


CAUSED = {
    "rule": "learning_rate",
    "severity": "fault",
    "site": "optimizer",
    "first_step": 0,
    "last_step": 0,
    "message": "SGD takes steps of 3e4 times the gradient.",
    "stage": "contract",
}
"""A finding before the first step, at no layer, which explains a NaN."""


def site(name: str, layer_class: str = "Dense") -> Site:
    return Site.of(SiteName(name), layer_class=layer_class, shape=(32, 16), activation="relu")


def row(rng: np.random.Generator, *, dead: float = 0.0, scale: float = 1.0) -> np.ndarray:
    values = {
        "count": 512.0,
        "zeros": round(512 * dead),
        "units": 16.0,
        "dead_units": round(16 * dead),
        "mean": 0.1 * scale * (1 + 0.02 * rng.standard_normal()),
        "std": scale * (1 + 0.02 * rng.standard_normal()),
        "mean_abs": 0.8 * scale,
        "min": -3 * scale,
        "max": 3 * scale,
        "hist_count": 512.0,
    }
    return np.array([values.get(name, 0.0) for name in COLUMNS])


def _opened(
    path: Path, names: tuple[str, ...], drawn: tuple[str, ...]
) -> tuple[RunWriter, np.ndarray]:
    """The writer of a run with some sites, or of one that goes on; and their indices."""
    if (path / "run.json").exists():
        return RunWriter.reopen(path), np.arange(len(names))
    writer = RunWriter(path, config={"model": "net", "backend": "jax"})
    if drawn:
        layers = [
            {"path": n, "class": "Dense", "parent": None, "parameters": 10, "trainable": True}
            for n in drawn
        ]
        edges = [[a, b] for a, b in itertools.pairwise(drawn)]
        writer.set_graph(
            {"name": "net", "class": "Sequential", "parameters": 40, "layers": layers}
            | {"edges": edges}
        )
    return writer, np.array(writer.add_sites([site(name) for name in names]) if names else [])


def write(
    path: Path,
    *,
    names: tuple[str, ...] = LAYERS,
    first: int = 0,
    steps: int = STEPS,
    every: int = 1,
    sick: str | None = "conv_2",
    nan_from: int | None = None,
    close: bool = True,
    graph: bool = True,
    losses: tuple[str, ...] = ("loss",),
) -> RunWriter:
    """A run with a spike, with a layer of dead units, or with NaN from a step on."""
    rng = np.random.default_rng(0)
    writer, indices = _opened(path, names if steps else (), names if graph else ())
    for step in range(first, steps, every):
        moments = np.stack([row(rng, dead=0.8 if name == sick else 0.0) for name in names])
        if (step == SPIKE[1]) and len(names) > SPIKE[0]:
            moments[SPIKE[0], COLUMNS.index("std")] = 50.0
        if nan_from is not None and step >= nan_from:
            moments[-1, COLUMNS.index("nan")] = 512.0
            for name in ("mean", "std", "mean_abs", "min", "max"):
                moments[-1, COLUMNS.index(name)] = np.nan
        hist = [sparse(Histogram.of(rng.normal(size=256)).counts) for _ in names]
        if len(names) > 20:
            hist = None
        writer.append(StepRecord(step, step // 100, "train", indices, moments, hist))
        loss = float(np.exp(-step / 80))
        if nan_from is not None and step >= nan_from:
            loss = float("nan")
        writer.add_history(
            {
                "event": "step",
                "step": step,
                "epoch": step // 100,
                "place": step % 100,
                "logs": dict.fromkeys(losses, loss),
            }
        )
    if close:
        writer.close()
    else:
        writer.flush()
    return writer

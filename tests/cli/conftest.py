"""A run on disk, small and known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fitscope.run.record import StepRecord
from fitscope.run.writer import RunWriter
from fitscope.select.naming import SiteName
from fitscope.select.site import Site
from fitscope.select.unseen import Unseen
from fitscope.statistics.histogram import sparse
from fitscope.statistics.moments import COLUMNS

WriteRun = Callable[..., Path]
VALUES = {
    "count": 4096,
    "zeros": 1024,
    "units": 32,
    "mean": 0.5,
    "std": 0.5,
    "mean_abs": 0.5,
    "min": 0,
    "max": 3,
    "hist_count": 4096,
}


def _moments(step: int, **changes: float) -> np.ndarray:
    row = np.zeros(len(COLUMNS))
    for name, value in {**VALUES, "mean": 0.5 + step / 100, **changes}.items():
        row[COLUMNS.index(name)] = value
    return row


@pytest.fixture
def write_run(tmp_path: Path) -> WriteRun:
    """`write_run(layers, steps)`: relu layers, of which `layer_1` has lost most units."""

    def write(
        layers: int = 3,
        steps: int = 20,
        *,
        validation: int = 2,
        unseen: int = 1,
        status: str = "finished",
        name: str = "run",
    ) -> Path:
        path = tmp_path / name
        writer = RunWriter(path, config={"model": "tiny", "backend": "jax"})
        sites = [
            Site.of(
                SiteName(f"layer_{i}"),
                layer_class="Dense",
                shape=(128, 32),
                activation="relu",
            )
            for i in range(layers)
        ]
        indices = np.asarray(writer.add_sites(sites), int)
        counts = np.bincount(np.arange(480, 520), minlength=2048)
        for phase, number in (("train", steps), ("validation", validation)):
            for i in range(number):
                step = i * 4
                rows = [_moments(step, dead_units=24.0 * (place == 1)) for place in range(layers)]
                moments = np.array(rows).reshape(layers, len(COLUMNS))
                histograms = [sparse(counts)] * layers
                writer.append(StepRecord(step, step // 40, phase, indices, moments, histograms))
        writer.add_unseen(
            [Unseen(f"rnn/cell_{i}", "It runs in a loop.", "") for i in range(unseen)]
        )
        writer.close(status)
        return path

    return write

"""A large run made through the run writer, for measuring the page."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from fitscope.run.record import StepRecord
from fitscope.run.writer import RunWriter
from fitscope.select.naming import SiteName
from fitscope.select.site import Site
from fitscope.statistics.moments import COLUMNS, PLACE


def make(path: Path, sites: int, steps: int, *, pause: float = 0.0) -> float:
    """Write a run of random statistics, with a spike and a layer that fades.

    Args:
        path: The run directory to make.
        sites: Sites of the run.
        steps: Steps, all of them observed.
        pause: Seconds between two steps.

    Returns:
        The seconds that it took.
    """
    rng = np.random.default_rng(0)
    names = [f"block_{i // 20}/layer_{i:04d}" for i in range(sites)]
    writer = RunWriter(path, config={"model": "synthetic", "backend": "none"})
    indices = np.array(
        writer.add_sites(
            [
                Site.of(SiteName(n), layer_class="Dense", shape=(64, 256), activation="relu")
                for n in names
            ]
        )
    )
    level = np.exp(rng.normal(0, 1, sites))
    moments = np.zeros((sites, len(COLUMNS)))
    for name, value in (("count", 16384), ("units", 256), ("hist_count", 16384)):
        moments[:, PLACE[name]] = value
    # Real statistics have digits that do not repeat: a table of noise, read at random places.
    noise = rng.normal(1, 0.02, 1_000_003)
    began = time.perf_counter()
    for step in range(steps):
        place = int(rng.integers(0, len(noise) - 3 * sites))
        std = level * noise[place : place + sites]
        if sites > 7:
            std[7] *= np.exp(-step / steps * 12)
        if step == steps * 6 // 10:
            std[sites // 2] *= 100
        moments[:, PLACE["mean"]] = 0.1 * noise[place + sites : place + 2 * sites]
        moments[:, PLACE["std"]] = std
        moments[:, PLACE["mean_abs"]] = 0.8 * std
        moments[:, PLACE["min"]] = -3 * std
        moments[:, PLACE["max"]] = 3 * std
        moments[:, PLACE["zeros"]] = np.round(4000 * noise[place + 2 * sites : place + 3 * sites])
        writer.append(StepRecord(step, step // 1000, "train", indices, moments))
        if step % 20 == 0:
            loss = float(np.exp(-step / steps))
            event = {"event": "step", "step": step, "epoch": step // 1000, "place": step % 1000}
            writer.add_history({**event, "logs": {"loss": loss}})
        if pause:
            time.sleep(pause)
    writer.close()
    return time.perf_counter() - began

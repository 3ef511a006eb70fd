"""Records onto a disk of its own that becomes full, and says what became of it.

Run in a mount namespace of its own: the disk is a tmpfs that goes with the process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import warnings

import numpy as np

from fitscope.run import Run, RunWriter, open_run
from fitscope.run.value_store import StepValues, Tensor
from fitscope.select import Site, SiteName

folder, size, flush_every, steps = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)


def found(run: Run, name: str) -> list[int]:
    """The recorded steps of a site whose values are those of the step."""
    if name not in run.recorded.names:
        return []
    return [int(p.step) for p in run.values(name) if (p.array == p.step).all()]


def room(blocks: int | None) -> None:
    options = "remount,size=64m" if blocks is None else f"remount,size={blocks}"
    subprocess.run(["mount", "-o", options, folder], check=True)


with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    writer = RunWriter(f"{folder}/run", config={}, flush_seconds=1e9)
    for step in range(steps):
        tensors = [
            Tensor(Site.of(SiteName("a")), np.full((8, 1000), step, "float32"), length=8),
            Tensor(Site.of(SiteName("b")), np.full((8, 90 + step % 2), step, "float32"), length=8),
        ]
        writer.append_values(StepValues(step, 0, "train", tuple(tensors)))
        if step % flush_every == flush_every - 1:
            writer.flush()
    live = [found(writer.run, name) for name in "ab"]
    writer.rest()
    full = open_run(f"{folder}/run")
    on_disk, lost = [found(full, name) for name in "ab"], full.lost_values
    room(None)
    writer.close()
    later = open_run(f"{folder}/run")
    recovered = [found(later, name) for name in "ab"]
print(
    json.dumps(
        {
            "live": live,
            "on_disk": on_disk,
            "lost": lost,
            "recovered": recovered,
            "lost_later": later.lost_values,
            "told": [str(warning.message) for warning in told],
        }
    )
)

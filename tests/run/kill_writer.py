"""A writer to be killed: appends as fast as it can and says which step was flushed last."""

from __future__ import annotations

import os
import sys

import numpy as np

from fitscope.run import RunWriter, StepRecord, seal, stream
from fitscope.select import Site, SiteName

# Small limits, so that a second sees many seals, merges and rollups.
stream.HOT_BYTES = 60_000
seal.SEGMENT_ROWS = 2_000
seal.SECOND_LEVEL_RECORDS = 2_000

path, again = sys.argv[1], sys.argv[2] == "reopen"
writer = RunWriter.reopen(path) if again else RunWriter(path, config={})
indices = np.array(
    writer.add_sites([Site.of(SiteName(f"layer_{i}"), layer_class="Dense") for i in range(4)])
)
first = len(writer.run.stats("layer_0", "mean")) if again else 0
pair = (np.array([508], np.uint16), np.array([1], np.uint32))
for step in range(first, 10**9):
    moments = indices[:, None] * 1e6 + step + np.zeros(15)
    writer.append(StepRecord(step, 0, "train", indices, moments, [pair] * 4, [(0, "own", step)]))
    if step % 7 == 6:
        writer.flush()
        os.write(1, f"{step}\n".encode())

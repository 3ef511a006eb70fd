"""A writer of recorded values, to be killed: says which step was flushed last."""

from __future__ import annotations

import os
import sys

import numpy as np

from fitscope.run import RunWriter, value_store
from fitscope.run.value_store import StepValues, Tensor
from fitscope.select import Site, SiteName

value_store.BUFFER_BYTES = 3_000  # so that rows are written before they are committed, too

path, again = sys.argv[1], sys.argv[2] == "reopen"
writer = RunWriter.reopen(path) if again else RunWriter(path, config={}, flush_seconds=1e9)
large = Site.of(SiteName("large"))
small = Site.of(SiteName("block/small"))
for step in range(writer.values.steps, 10**9):
    rows = 3 + step % 4
    tensors = [
        Tensor(large, np.full((rows, 10 + step % 2), step, "float32"), length=rows),
        Tensor(small, np.full(rows, step, "int64"), length=rows),
    ]
    writer.append_values(StepValues(step, 0, "train", tuple(tensors)))
    if step % 7 == 6:
        writer.flush()
        os.write(1, f"{step}\n".encode())

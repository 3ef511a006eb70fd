"""Labels of a program, whichever way they are written."""

from __future__ import annotations

import numpy as np

from benchmarks.doctor.program import Program


def labels(p: Program) -> np.ndarray:
    """The class of each row, int `[n]`."""
    return p.y.argmax(1) if p.y.ndim > 1 and p.y.shape[1] > 1 else p.y

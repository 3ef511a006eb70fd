"""What one observed step hands to a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

PHASES: tuple[str, ...] = ("train", "validation", "test", "predict")

SparseHistogram = tuple[NDArray[np.uint16], NDArray[np.uint32]]


@dataclass(slots=True, eq=False)
class StepRecord:
    """The statistics of every site observed in one step.

    Args:
        step: Global step number.
        epoch: Epoch number, from 0.
        phase: One of `"train"`, `"validation"`, `"test"`, `"predict"`.
        sites: Integer array `[k]`, indices into the run's site table.
        moments: float64 array `[k, len(COLUMNS)]`, the stored columns in the order of
            `fitscope.statistics.moments.COLUMNS`.
        hist: One `(bins uint16, counts uint32)` pair per entry of `sites`, or `None` for a
            site without a histogram in this step; `None` when no site has one.
        extra: `(site index, statistic name, value)` for statistics of the user.

    Example:
        >>> import numpy as np
        >>> from fitscope.statistics.moments import COLUMNS
        >>> StepRecord(0, 0, "train", np.array([0]), np.zeros((1, len(COLUMNS)))).step
        0
    """

    step: int
    epoch: int
    phase: str
    sites: NDArray[np.integer]
    moments: NDArray[np.float64]
    hist: Sequence[SparseHistogram | None] | None = None
    extra: Sequence[tuple[int, str, float]] = field(default_factory=tuple)

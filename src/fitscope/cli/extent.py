"""Which steps of a run were observed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from fitscope.run.reader import Run


@dataclass(frozen=True, slots=True)
class Extent:
    """Which steps of one phase were observed.

    Args:
        observed: How many.
        first: The first one; `None` without any.
        last: The last one.
        epochs: How many epochs they lie in.
        share: The observed share of the steps up to the last observed one; only training
            numbers its own steps.
    """

    observed: int = 0
    first: int | None = None
    last: int | None = None
    epochs: int = 0
    share: float | None = None


def extents_of(run: Run) -> dict[str, Extent]:
    """The observed steps by phase, read off the first site.

    Args:
        run: The run.
    """
    first = next(iter(run.sites), None)
    if first is None:
        return {}
    table = run.stats(first.name, "count").to_arrow()
    steps, epochs = table.column("step").to_numpy(), table.column("epoch").to_numpy()
    phases = np.asarray(table.column("phase").to_pylist(), object)
    return {
        phase: _extent(steps[phases == phase], epochs[phases == phase], phase)
        for phase in dict.fromkeys(phases.tolist())
    }


def _extent(steps: NDArray[np.int64], epochs: NDArray[np.int64], phase: str) -> Extent:
    distinct, last = len(np.unique(steps)), int(steps.max())
    return Extent(
        observed=len(steps),
        first=int(steps.min()),
        last=last,
        epochs=len(np.unique(epochs)),
        share=distinct / (last + 1) if phase == "train" else None,
    )

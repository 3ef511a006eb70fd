"""Losses and metrics of a run, as rules read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from fitscope.run.reader import Run


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """A loss or metric over time: `steps` int64 `[n]`, `values` float64 `[n]`."""

    steps: NDArray[np.int64]
    values: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.steps)

    def thirds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The values of the first and of the last third."""
        size = max(1, len(self) // 3)
        return self.values[:size], self.values[-size:]


def of_fit(run: Run) -> dict[str, Any]:
    """What the last `fit` was started with; empty for a run without."""
    return next((r for r in reversed(run.history) if r.get("event") == "fit"), {})


def has_just_begun(run: Run) -> bool:
    """Whether less than a tenth of the epochs that were asked for have been run.

    A plateau there says little: many trainings that come to something begin with one.
    """
    planned = of_fit(run).get("epochs")
    return planned is not None and len(epochs(run)) + 1 < 0.1 * planned


def epochs(run: Run, name: str = "loss") -> Curve:
    """A log at the end of each epoch.

    Args:
        run: The run.
        name: The log: `loss`, `val_loss`, `accuracy`, ...
    """
    return _curve(r for r in run.history if r.get("event") == "epoch" and name in r["logs"])(name)


def batches(run: Run, name: str = "loss") -> Curve:
    """A loss over stretches between observed steps.

    Keras' logs are averages over the epoch so far: of n steps m_n, of k steps m_k. The steps
    between have the average (n m_n - k m_k) / (n - k).

    Args:
        run: The run.
        name: The log.
    """
    steps: list[int] = []
    values: list[float] = []
    before: tuple[int, int, float] | None = None
    for record in run.history:
        if record.get("event") != "step" or name not in record["logs"]:
            continue
        epoch, place, mean = record["epoch"], record["place"], number(record["logs"][name])
        value = mean
        if before is not None and before[0] == epoch and place > before[1]:
            value = (place * mean - before[1] * before[2]) / (place - before[1])
        before = (epoch, place, mean)
        steps.append(record["step"])
        values.append(value)
    return Curve(np.asarray(steps, np.int64), np.asarray(values, np.float64))


def number(value: Any) -> float:
    """A number of the history; JSON has no NaN and holds it as a string."""
    return float(value)


def _curve(records: Any) -> Any:
    found = list(records)

    def of(name: str) -> Curve:
        return Curve(
            np.asarray([r["step"] - 1 for r in found], np.int64),
            np.asarray([number(r["logs"][name]) for r in found], np.float64),
        )

    return of

"""Weights that ended about where they began.

Formula: the greatest relative change of a kernel, rms(after - before) / rms(before), over the
whole `fit` is below `change`.

Source: Karpathy, update ratio near 1e-3 a step; You et al. (2017), LARS.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fitscope.rules.rule import Sign, rule
from fitscope.terminal.numbers import compact

if TYPE_CHECKING:
    from fitscope.run.reader import Run


@rule(
    "weights_barely_moved",
    "The weights ended about where they began.",
    severity="warning",
    explains=("no_better_than_constant", "metric_flat", "loss_flat"),
    confidence=0.7,
)
def weights_barely_moved(run: Run, *, change: float = 1e-3, min_steps: int = 30) -> Iterator[Sign]:
    """Find trainings whose steps are too short."""
    records = [r for r in run.history if r.get("event") == "end"]
    if not records or records[-1]["step"] < min_steps:
        return
    kernels = [w for w in records[-1]["weights"] if w["rank"] > 1 and w["rms"] > 0]
    if not kernels or not all(w["finite"] for w in kernels):
        return
    moved = {w["layer"]: float(w["change"]) / w["rms"] for w in kernels}
    most = max(moved, key=lambda layer: moved[layer])
    if not 0 < moved[most] < change:
        return
    steps = int(records[-1]["step"])
    yield Sign(
        "fit",
        f"in {steps} steps no kernel changed by more than {compact(moved[most])} of its size "
        f"({most}).",
        "The steps are too short for the weights to get anywhere.",
        "a learning rate ten to a hundred times higher.",
        {"relative_change": moved, "threshold": change},
        last_step=steps - 1,
    )

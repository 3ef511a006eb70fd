"""The loss grows.

Formula: the median loss of the last third of the observed steps over the least median of any third
before it is above `times`, and it is above the loss of the best constant answer, where that is
known. A fault above `times` squared.

Source: Goodfellow et al. (2016), "Deep Learning", 8.2.4 and 11.4.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from fitscope.rules.history import batches, epochs, of_fit
from fitscope.rules.rule import Sign, rule
from fitscope.terminal.numbers import compact

if TYPE_CHECKING:
    from fitscope.run.reader import Run


@rule(
    "loss_diverges",
    "The loss grows in place of falling.",
    severity="warning",
    explains=("no_better_than_constant", "metric_flat", "weights_moved_far", "loss_oscillates"),
    confidence=0.9,
)
def loss_diverges(run: Run, *, times: float = 3.0, min_points: int = 9) -> Iterator[Sign]:
    """Find a loss that ends higher than it was."""
    curve = batches(run)
    if len(curve) < min_points:
        curve = epochs(run)
    if len(curve) < min_points or not np.isfinite(curve.values).all():
        return
    parts = np.array_split(curve.values, 3)
    medians = [float(np.median(part)) for part in parts]
    lowest, last = min(medians[:2]), medians[2]
    baseline = of_fit(run).get("constant_answer_loss")
    if lowest <= 0 or last <= times * lowest or (baseline and last <= 1.1 * baseline):
        return
    where = int(curve.steps[2 * len(curve) // 3])
    yield Sign(
        "loss",
        f"the loss grew from {compact(lowest)} to {compact(last)} (medians of thirds).",
        "The steps are longer than the slope holds: each makes the next error larger.",
        "a learning rate ten times lower, or clipnorm=1.0 in the optimizer.",
        {"medians_of_thirds": medians, "constant_answer_loss": baseline, "threshold": times},
        first_step=where,
        last_step=int(curve.steps[-1]),
        severity="fault" if last > times**2 * lowest else None,
    )

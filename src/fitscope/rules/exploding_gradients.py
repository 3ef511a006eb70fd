"""Gradients that grow without bound.

Formula: the norm of a weight's gradient in the last quarter of the observed steps is above `times`
its median in the first quarter, and above that of its weight.

Source: Pascanu et al. (2013), "On the difficulty of training recurrent neural networks".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from fitscope.rules.rule import Sign, rule
from fitscope.rules.series import MIN_STEPS, series_of
from fitscope.terminal.numbers import compact

if TYPE_CHECKING:
    from fitscope.run.reader import Run


@rule(
    "exploding_gradients",
    "Gradients grow by orders of magnitude while training.",
    severity="warning",
    explains=("loss_diverges", "loss_non_finite", "loss_oscillates", "weights_moved_far",
              "update_ratio"),
    confidence=0.8,
)  # fmt: skip
def exploding_gradients(run: Run, *, times: float = 100.0) -> Iterator[Sign]:
    """Find the weight whose gradient grew most."""
    names = [s.name for s in run.sites if s.port == "weight_gradient"]
    worst: tuple[float, str, float, float, int, int] | None = None
    for name, series in series_of(run, ["rms"], names).items():
        values = series["rms"]
        if len(values) < MIN_STEPS or not np.isfinite(values).all():
            continue
        quarter = max(1, len(values) // 4)
        before, after = float(np.median(values[:quarter])), float(np.median(values[-quarter:]))
        if before > 0 and after > times * before and after > 1.0:
            place = len(values) - quarter
            found = (after / before, name, before, after, int(series.steps[place]),
                     int(series.steps[-1]))  # fmt: skip
            worst = found if worst is None else max(worst, found)
    if worst is not None:
        ratio, name, before, after, first, last = worst
        yield Sign(
            name,
            f"the gradient's rms grew from {compact(before)} to {compact(after)}.",
            "Steps grow with it, until weights overflow.",
            "clipnorm=1.0 in the optimizer, or a lower learning rate.",
            {"ratio": ratio, "threshold": times},
            first_step=first,
            last_step=last,
        )

"""The loss is NaN or infinite.

Formula: the first observed step, or epoch, whose loss is not finite.

Source: Humbatova et al. (2020), training process; Zhang et al. (2021), "AutoTrainer".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from fitscope.rules.history import batches, epochs
from fitscope.rules.rule import Sign, rule

if TYPE_CHECKING:
    from fitscope.run.reader import Run


@rule(
    "loss_non_finite",
    "The loss is NaN or infinite.",
    severity="fault",
    explains=("no_better_than_constant", "metric_flat", "loss_diverges", "unchanged_weights",
              "update_ratio"),
)  # fmt: skip
def loss_non_finite(run: Run) -> Iterator[Sign]:
    """Find where the loss stopped being a number."""
    for curve, what in ((batches(run), "step"), (epochs(run), "epoch")):
        bad = np.flatnonzero(~np.isfinite(curve.values))
        if not len(bad):
            continue
        first = int(curve.steps[bad[0]])
        since = f"step {first}" if what == "step" else f"epoch {bad[0] + 1}"
        yield Sign(
            "loss",
            f"the loss is {curve.values[bad[0]]} from {since} on.",
            "A NaN loss makes NaN gradients, and with the next update NaN weights: nothing learns.",
            "a learning rate ten times lower, clipnorm=1.0; look for log or division of 0.",
            {"first": first, "observed": len(curve), "non_finite": len(bad)},
            first_step=first,
            last_step=int(curve.steps[bad[-1]]),
        )
        return

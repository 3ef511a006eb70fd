"""The loss jumps up and down from epoch to epoch.

Formula: over the last half of the epochs, at least `rises` of the changes go up, and the mean size
of a change is above `swing` of the loss of the best constant answer (of the first epoch, where
that is not known). Against the noise of small batches, epochs count and not steps.

Source: Bengio (2012), "Practical Recommendations", 3.1 (learning rate); AutoTrainer, oscillating
loss.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from fitscope.rules.history import epochs, of_fit
from fitscope.rules.rule import Sign, rule
from fitscope.terminal.numbers import compact

if TYPE_CHECKING:
    from fitscope.run.reader import Run


@rule(
    "loss_oscillates",
    "The loss jumps up and down.",
    severity="warning",
    explains=("metric_flat",),
    confidence=0.7,
)
def loss_oscillates(
    run: Run, *, swing: float = 0.1, rises: float = 0.3, min_epochs: int = 8
) -> Iterator[Sign]:
    """Find a loss that cannot settle."""
    curve = epochs(run)
    if len(curve) < min_epochs or not np.isfinite(curve.values).all():
        return
    scale = of_fit(run).get("constant_answer_loss") or abs(float(curve.values[0]))
    half = curve.values[len(curve) // 2 :]
    changes = np.diff(half)
    size, up = float(np.abs(changes).mean()), float((changes > 0).mean())
    if size <= swing * scale or up < rises or up > 1 - rises / 2:
        return
    yield Sign(
        "loss",
        f"the loss jumps by {compact(size)} an epoch, up in {up:.0%} of them.",
        "The steps overshoot: what one epoch learns the next one undoes.",
        "a learning rate three to ten times lower, or a larger batch_size.",
        {"mean_change": size, "share_of_rises": up, "scale": scale, "threshold": swing},
        first_step=int(curve.steps[len(curve) // 2]),
        last_step=int(curve.steps[-1]),
    )

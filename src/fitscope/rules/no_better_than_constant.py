"""A model that is no better than one constant answer.

Formula: the least loss of the last third of the epochs, training or validation, is above `share`
of the loss that the best answer without looking at the input has: the entropy of the class shares
for cross-entropies, the variance of the targets for squared error, their mean distance from the
median for absolute error. A fault where in the last half of at least 100 steps it did not fall by
1% of that either, and no epochs are left: a plateau can end. A note where it does fall and epochs
are left, or less than a tenth of them has been run. Losses with regularizers are left out.

Source: Karpathy (2019), "A Recipe for Training Neural Networks" (dumb baselines); Cover and
Thomas, entropy as the least expected code length.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from fitscope.rules.history import epochs, has_just_begun, of_fit
from fitscope.rules.rule import Sign, rule
from fitscope.terminal.numbers import compact

if TYPE_CHECKING:
    from fitscope.run.reader import Run


@rule(
    "no_better_than_constant",
    "The model has learned no more than the best constant answer.",
    severity="warning",
    explains=("metric_flat", "weights_barely_moved", "stopped_early"),
    confidence=0.7,
)
def no_better_than_constant(
    run: Run, *, share: float = 0.97, min_epochs: int = 3, min_steps: int = 30
) -> Iterator[Sign]:
    """Find models that do not look at their input."""
    settings, curve = of_fit(run), epochs(run)
    baseline = settings.get("constant_answer_loss")
    if not baseline or len(curve) < min_epochs or curve.steps[-1] + 1 < min_steps:
        return
    if settings.get("regularization", 0) > 0.02 * baseline or not np.isfinite(curve.values).all():
        return
    held_out = epochs(run, "val_loss").values
    third = max(1, len(curve) // 3)
    least = float(min(curve.values[-third:].min(), *held_out[-third:], np.inf))
    if least < share * baseline:
        return
    half = curve.values[len(curve) // 2 :]
    falling = float(half[0] - half[-1]) > 0.01 * baseline
    planned = settings.get("epochs")
    ended = planned is None or len(curve) >= planned
    lasting = ended and curve.steps[-1] + 1 >= 100 and len(curve) >= 5
    yield Sign(
        "fit",
        f"after {len(curve)} epochs the loss is {compact(float(curve.values[-1]))}; one constant "
        f"answer has {compact(baseline)}.",
        "It is still falling: the training may only be too short."
        if falling
        else "The prediction does not depend on the input in any useful way.",
        "more epochs." if falling else "overfit 10 rows first: if that fails, the model is wrong.",
        {"loss": float(curve.values[-1]), "constant_answer_loss": baseline, "threshold": share},
        first_step=int(curve.steps[0]),
        last_step=int(curve.steps[-1]),
        severity="fault"
        if lasting and not falling
        else "note"
        if (falling and not ended) or has_just_begun(run)
        else None,
    )

"""Training and validation part.

Formula: the validation loss of the last epoch is above `times` its least, at least 3 epochs after
it, while the training loss went on falling since.

Source: Prechelt (1998), "Early Stopping - But When?", generalization loss.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from fitscope.rules.history import epochs
from fitscope.rules.rule import Sign, rule
from fitscope.terminal.numbers import compact

if TYPE_CHECKING:
    from fitscope.run.reader import Run


@rule(
    "overfitting",
    "The validation loss rises while the training loss falls.",
    severity="warning",
    confidence=0.8,
)
def overfitting(run: Run, *, times: float = 1.2, min_epochs: int = 6) -> Iterator[Sign]:
    """Find the epoch from which on the model memorizes."""
    held, train = epochs(run, "val_loss"), epochs(run)
    if len(held) < min_epochs or len(held) != len(train) or not np.isfinite(held.values).all():
        return
    best = int(held.values.argmin())
    low, last = float(held.values[best]), float(held.values[-3:].min())
    if best > len(held) - 4 or low <= 0 or last <= times * low:
        return
    if train.values[-1] >= train.values[best]:
        return
    yield Sign(
        "fit",
        f"the validation loss was least in epoch {best + 1} ({compact(low)}) and is "
        f"{compact(float(held.values[-1]))} now.",
        "Since then the model learns the training rows by heart.",
        "EarlyStopping(restore_best_weights=True), dropout, or more data.",
        {"best_epoch": best + 1, "least": low, "last": last, "threshold": times},
        first_step=int(held.steps[best]),
        last_step=int(held.steps[-1]),
    )

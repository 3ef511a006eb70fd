"""The training ends while it still learns fast.

Formula: each of the last 3 epochs lowered the loss by more than `share` of what it was, and it is
still above `left` times the loss of the best constant answer, where that is known.

Source: Goodfellow et al. (2016), "Deep Learning", 7.8.
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
    "stopped_early",
    "The training ended while the loss was still falling fast.",
    severity="note",
    confidence=0.5,
)
def stopped_early(run: Run, *, share: float = 0.03, left: float = 0.3) -> Iterator[Sign]:
    """Find trainings that are too short."""
    curve, settings = epochs(run), of_fit(run)
    planned = settings.get("epochs")
    if len(curve) < 4 or planned is None or len(curve) < planned or run.status == "running":
        return
    last = curve.values[-4:]
    if not np.isfinite(last).all() or (last <= 0).any():
        return
    if last[-1] < left * (settings.get("constant_answer_loss") or 0):
        return
    falls = 1 - last[1:] / last[:-1]
    if (falls <= share).any():
        return
    yield Sign(
        "fit",
        f"the last epochs lowered the loss by {falls.min():.0%} or more each, to "
        f"{compact(float(last[-1]))}.",
        "More of the same would have lowered it further.",
        f"epochs={2 * planned}, with EarlyStopping.",
        {"falls": falls.tolist(), "epochs": planned, "threshold": share},
        first_step=int(curve.steps[-4]),
        last_step=int(curve.steps[-1]),
    )

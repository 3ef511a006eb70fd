"""The loss does not move.

Formula: means of the first and the last third of the observed steps differ by less than twice the
standard error of their difference, and by less than `change` of the first. A fault where also no
value differs from the first by more than one part in 100,000: then not even noise is there. A note
in the first tenth of the epochs that were asked for: many trainings begin with a plateau.

Not told of a loss below half that of the best constant answer.

Source: Welch (1947), the unequal variances t-test; Zhang et al. (2021), "AutoTrainer", slow
convergence.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from fitscope.rules.history import batches, epochs, has_just_begun, of_fit
from fitscope.rules.rule import Sign, rule
from fitscope.terminal.numbers import compact

if TYPE_CHECKING:
    from fitscope.run.reader import Run


@rule(
    "loss_flat",
    "The loss neither falls nor rises.",
    severity="warning",
    explains=("no_better_than_constant", "metric_flat", "weights_barely_moved"),
    confidence=0.7,
)
def loss_flat(run: Run, *, change: float = 0.02, min_steps: int = 30) -> Iterator[Sign]:
    """Find a loss that stands."""
    curve, whole = batches(run), epochs(run)
    if len(curve) < min_steps or not np.isfinite(curve.values).all():
        return
    first, last = curve.thirds()
    start, end = float(first.mean()), float(last.mean())
    error = float(np.sqrt(first.var() / len(first) + last.var() / len(last)))
    baseline = of_fit(run).get("constant_answer_loss")
    if baseline and end < 0.5 * baseline:
        return  # it has learned before it stood
    if start == 0 or abs(start - end) > max(2 * error, 1e-12):
        return
    # A model that has learned all there is is flat, too: it was higher before.
    if abs(start - end) > change * abs(start) or _fell(whole.values, change):
        return
    spread = float(np.abs(whole.values - whole.values[:1]).max(initial=0.0))
    still = len(whole) >= 3 and spread <= 1e-5 * abs(start)
    yield Sign(
        "loss",
        f"the loss stayed near {compact(end)} over {len(curve)} observed steps.",
        "Nothing was learned: no gradient reaches the weights, or the steps are too short."
        if still
        else "What the steps change does not show in the loss.",
        "a learning rate ten times higher; look whether activations are dead or saturated.",
        {"first_third": start, "last_third": end, "standard_error": error, "threshold": change},
        first_step=int(curve.steps[0]),
        last_step=int(curve.steps[-1]),
        severity="fault" if still else "note" if has_just_begun(run) else None,
        confidence=0.95 if still else None,
    )


def _fell(values: np.ndarray, change: float) -> bool:
    """Whether the epochs tell of a fall that the thirds do not show."""
    return len(values) >= 2 and float(values[0] - values[-1]) > change * abs(float(values[0]))

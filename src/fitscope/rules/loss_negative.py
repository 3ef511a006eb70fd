"""A loss below zero that cannot be.

Formula: cross-entropies of targets in 0..1, squared and absolute errors are sums of terms that are
not negative. Below zero the targets lie outside 0..1, or a weight is negative.

Source: the definitions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fitscope.rules.history import epochs, of_fit
from fitscope.rules.rule import Sign, rule
from fitscope.terminal.numbers import compact

if TYPE_CHECKING:
    from fitscope.run.reader import Run

NOT_NEGATIVE = frozenset(
    {"binary_crossentropy", "categorical_crossentropy", "sparse_categorical_crossentropy",
     "mean_squared_error", "mean_absolute_error", "huber", "hinge", "squared_hinge",
     "mean_absolute_percentage_error", "mean_squared_logarithmic_error", "log_cosh"}
)  # fmt: skip


@rule(
    "loss_negative",
    "The loss is negative, which this loss cannot be.",
    severity="fault",
    explains=("loss_diverges", "metric_flat", "no_better_than_constant"),
)
def loss_negative(run: Run) -> Iterator[Sign]:
    """Find losses that fall through their floor."""
    losses = of_fit(run).get("losses") or []
    curve = epochs(run)
    below = curve.values < -1e-6
    if not losses or not set(losses) <= NOT_NEGATIVE or not below.any():
        return
    lowest = float(curve.values[below].min())
    yield Sign(
        "loss",
        f"the loss of {losses[0]} is {compact(lowest)}; it cannot be below 0.",
        "The targets lie outside 0..1, or weights are negative: lower is not better any more.",
        "print y.min(), y.max(); for integer labels sparse_categorical_crossentropy.",
        {"lowest": lowest, "losses": losses},
        first_step=int(curve.steps[below][0]),
        last_step=int(curve.steps[below][-1]),
    )

"""A regularizer that outweighs the loss.

Formula: sum of the regularizers' terms before the first step, over the loss of the best constant
answer (entropy of the classes, variance of the targets).

Source: Goodfellow et al. (2016), "Deep Learning", 7.1; Humbatova et al. (2020), wrong
regularization.
"""

from __future__ import annotations

from collections.abc import Iterator

from fitscope.rules.fit import Fit
from fitscope.rules.rule import Sign, rule
from fitscope.terminal.numbers import compact


@rule(
    "regularization",
    "The regularizers weigh more than the loss on the data.",
    severity="warning",
    stage="contract",
    explains=("constant_output", "no_better_than_constant", "metric_flat", "loss_flat",
              ),
    confidence=0.8,
)  # fmt: skip
def regularization(fit: Fit, *, ratio: float = 5.0) -> Iterator[Sign]:
    """Find regularizers that pull the weights to zero."""
    added = {layer.path: layer.regularization for layer in fit.layers if layer.regularization > 0}
    baseline = sum(fit.baseline().values())
    if not added or baseline <= 0:
        return
    total = sum(added.values())
    if total > ratio * baseline:
        most = max(added, key=lambda path: added[path])
        yield Sign(
            most,
            f"regularizers add {compact(total)} to a loss that a constant answer holds at "
            f"{compact(baseline)}.",
            "The lowest loss is then near weights of zero, whatever the data say.",
            "a factor of 1e-4 in place of the one given, or none.",
            {"regularization": added, "constant_answer_loss": baseline, "threshold": ratio},
        )

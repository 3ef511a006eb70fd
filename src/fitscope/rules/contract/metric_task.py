"""An accuracy of predictions that are no classes.

Formula: accuracy counts predictions that equal the target; with targets that are quantities, that
hardly ever happens, and the number stays near 0 however good the model is.

Source: keras.metrics documentation; Humbatova et al. (2020), wrong metric.
"""

from __future__ import annotations

from collections.abc import Iterator

from fitscope.rules.contract.loss_activation import REGRESSION
from fitscope.rules.fit import Fit
from fitscope.rules.rule import Sign, rule


@rule(
    "metric_task",
    "Accuracy is asked for of targets that are quantities.",
    severity="warning",
    stage="contract",
    explains=("metric_flat",),
    confidence=0.9,
)
def metric_task(fit: Fit) -> Iterator[Sign]:
    """Find accuracies that say nothing."""
    asked = [name for name in fit.metrics if name in ("acc", "accuracy", "binary_accuracy")]
    for output, loss, target in fit.pairs():
        if not asked or loss.name not in REGRESSION or target.classes is not None:
            continue
        if not target.finite.size or target.shape not in ((), (1,)) or target.is_whole_numbers:
            continue
        yield Sign(
            output.path,
            f"{asked[0]!r} is asked for, but the targets are quantities, not classes.",
            "It counts exact hits, and stays near 0 however good the model is.",
            "metrics=['mae'].",
            {"metrics": list(fit.metrics), "loss": loss.name},
        )

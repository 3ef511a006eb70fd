"""One class that nearly all rows are of.

Formula: the share of the most frequent class among the rows looked at; answering it always reaches
that accuracy. Not told where samples or classes are weighted.

Source: He and Garcia (2009), "Learning from Imbalanced Data".
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fitscope.rules.fit import Fit
from fitscope.rules.rule import Sign, rule
from fitscope.terminal.numbers import percent


@rule(
    "class_balance",
    "Nearly all rows are of one class.",
    severity="warning",
    stage="contract",
    explains=("metric_flat", "no_better_than_constant", "constant_output"),
    confidence=0.7,
)
def class_balance(fit: Fit, *, share: float = 0.95) -> Iterator[Sign]:
    """Find classes that drown the others."""
    if fit.weighted:
        return
    for target in fit.targets:
        classes = target.classes if target.whole else None
        if classes is None or len(classes) < 100:
            continue
        names, counts = np.unique(classes, return_counts=True)
        most = float(counts.max() / counts.sum())
        if share <= most < 1:
            yield Sign(
                target.name,
                f"{percent(most)} of the rows are of class {names[counts.argmax()]:g}.",
                f"Answering that class always has an accuracy of {percent(most)}.",
                "class_weight in fit, and a metric such as keras.metrics.AUC.",
                {"share": most, "classes": len(names), "threshold": share},
            )

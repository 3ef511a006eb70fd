"""A regression loss on class labels.

Formula: with one linear unit and squared error, label 2 is taken as twice label 1; the best
constant answer is their mean. Counted as class labels are whole numbers from 0 (or 1) on without a
gap, at most `classes` of them, each held by many rows, while an accuracy is asked for.

Source: Humbatova et al. (2020), wrong loss function.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fitscope.rules.contract.loss_activation import REGRESSION
from fitscope.rules.fit import ArrayFact, Fit
from fitscope.rules.rule import Sign, rule


@rule(
    "loss_task",
    "Classes are trained with a loss for quantities.",
    severity="warning",
    stage="contract",
    explains=("loss_flat", "no_better_than_constant", "metric_flat", "metric_task"),
    confidence=0.7,
)
def loss_task(fit: Fit, *, classes: int = 20) -> Iterator[Sign]:
    """Find regression losses on labels."""
    accuracy = any("acc" in name for name in fit.metrics)
    for output, loss, target in fit.pairs():
        if loss.name not in REGRESSION or output.units != 1:
            continue
        count = label_count(target, classes)
        if count is None or (count == 2 and output.activation in ("sigmoid", "hard_sigmoid")):
            continue
        if count == 2 and not accuracy:
            continue
        yield Sign(
            output.path,
            f"one unit ({output.activation}) is trained with {loss.name} on {count} classes.",
            "Answers are no probabilities, and those beyond 0 and 1 count as errors."
            if count == 2
            else "It treats labels as quantities: class 2 is twice class 1, and near class 3.",
            "sigmoid with binary_crossentropy."
            if count == 2
            else f"{count} softmax units with sparse_categorical_crossentropy.",
            {"classes": count, "loss": loss.name, "accuracy_asked_for": accuracy},
            severity=None if accuracy else "note",
        )


def label_count(target: ArrayFact, most: int) -> int | None:
    """How many classes integer labels name; `None` where they are not labels."""
    if target.classes is None or target.is_one_hot or target.shape not in ((), (1,)):
        return None
    labels = np.unique(target.classes)
    if not 2 <= len(labels) <= most or labels[0] not in (-1, 0, 1):
        return None
    gaps = np.diff(labels)
    return len(labels) if (gaps == 1).all() or labels.tolist() == [-1, 1] else None

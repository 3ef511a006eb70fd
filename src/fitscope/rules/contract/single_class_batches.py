"""Sorted labels without shuffling: each batch holds one class.

Formula: the share of the first batches, in the order of training, all of whose rows are of one
class; and, with `validation_split`, classes of the validation part (the last rows) that the
training part does not hold, or half of its rows in other shares (total variation above 0.5).

Source: Bengio (2012), "Practical Recommendations for Gradient-Based Training", 3.1; keras `fit`
documentation (validation_split takes the last rows, before shuffling).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fitscope.rules.fit import ArrayFact, Fit
from fitscope.rules.rule import Sign, rule
from fitscope.terminal.numbers import percent


@rule(
    "single_class_batches",
    "Batches, or the training part, lack classes because the data are sorted.",
    severity="fault",
    stage="contract",
    explains=("loss_oscillates", "loss_flat", "no_better_than_constant", "metric_flat",
              "overfitting", "constant_output", "class_balance"),
    confidence=0.9,
)  # fmt: skip
def single_class_batches(fit: Fit, *, share: float = 0.8) -> Iterator[Sign]:
    """Find data whose order keeps classes apart."""
    if len(fit.targets) != 1 or not fit.targets[0].whole:
        return
    target = fit.targets[0]
    classes = target.classes
    if classes is None or len(np.unique(classes)) < 2:
        return
    if fit.shuffle is False and fit.batch_size and fit.batch_size >= 4:
        alone = _alone(target, classes, fit.batch_size)
        if alone >= share:
            yield Sign(
                target.name,
                f"labels are sorted and shuffle=False: {percent(alone)} of the batches hold one "
                "class.",
                "Each batch pulls the model to its own class, and undoes the one before.",
                "shuffle=True in fit.",
                {"share_of_batches": alone, "batch_size": fit.batch_size, "threshold": share},
            )
    held = fit.validation[1] if fit.validation is not None else ()
    if len(held) == 1 and held[0].classes is not None and held[0].is_one_hot == target.is_one_hot:
        names = np.unique(classes)
        apart = _distance(held[0].classes, classes)
        missing = np.setdiff1d(np.unique(held[0].classes), np.unique(classes))
        seen = np.isin(held[0].classes, missing).mean()
        if len(missing) and seen > 0.1:
            yield Sign(
                "validation y",
                f"{percent(float(seen))} of the validation rows are of classes that no training "
                "row has.",
                "validation_split takes the last rows, before shuffling; the data are sorted.",
                "shuffle the rows before fit, or split with train_test_split(stratify=y).",
                {"classes": missing[:20].tolist(), "share_of_rows": float(seen)},
            )
        elif apart > 0.5 and len(held[0].classes) >= 20 and len(names) <= 50:
            yield Sign(
                "validation y",
                f"classes of training and validation differ: {percent(apart)} of the rows would "
                "have to change class.",
                "validation_split takes the last rows, before shuffling; the data are sorted.",
                "shuffle the rows before fit, or split with train_test_split(stratify=y).",
                {"distance_of_shares": apart, "threshold": 0.5},
            )


def _distance(some: np.ndarray, others: np.ndarray) -> float:
    """Total variation between the class shares: the share of rows one would have to change."""
    names = np.union1d(some, others)
    shares = [np.array([(rows == name).mean() for name in names]) for rows in (some, others)]
    return float(np.abs(shares[0] - shares[1]).sum() / 2)


def _alone(target: ArrayFact, classes: np.ndarray, batch: int) -> float:
    """Share of batches of one class; of a sample at a stride, of blocks as long in the data."""
    stride = max(1, target.rows // len(classes))
    size = max(2, batch // stride)
    blocks = classes[: len(classes) // size * size].reshape(-1, size)
    return float((blocks == blocks[:, :1]).all(1).mean()) if len(blocks) > 1 else 0.0

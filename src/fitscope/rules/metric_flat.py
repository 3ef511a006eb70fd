"""An accuracy that never moves.

Formula: over at least 5 epochs, accuracy is the same to the last digit and below 1, or never above
the share of the most frequent class by more than `margin`. In the first tenth of the epochs a note.

Source: Humbatova et al. (2020); the majority class as baseline as in scikit-learn's
DummyClassifier.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from fitscope.rules.history import epochs, has_just_begun, of_fit
from fitscope.rules.rule import Sign, rule
from fitscope.terminal.numbers import percent

if TYPE_CHECKING:
    from fitscope.run.reader import Run


@rule(
    "metric_flat",
    "Accuracy stays where answering one class would put it.",
    severity="warning",
    confidence=0.7,
)
def metric_flat(run: Run, *, margin: float = 0.02, min_epochs: int = 5) -> Iterator[Sign]:
    """Find accuracies at the level of one answer."""
    settings = of_fit(run)
    majority = settings.get("majority")
    for name in ("accuracy", "acc", "binary_accuracy", "sparse_categorical_accuracy"):
        curve = epochs(run, name)
        if len(curve) < min_epochs or not np.isfinite(curve.values).all():
            continue
        if curve.steps[-1] + 1 < 30:
            continue
        still = bool((curve.values == curve.values[0]).all()) and curve.values[0] < 0.999
        at_chance = majority is not None and float(curve.values.max()) <= majority + margin
        if not still and not (at_chance and majority is not None and majority < 0.95):
            continue
        value = float(curve.values[-1])
        against = f"; the most frequent class has {percent(majority)}" if majority else ""
        yield Sign(
            "fit",
            f"{name} is {percent(value)} after {len(curve)} epochs{against}.",
            "It never changed: the predicted class does not depend on the input."
            if still
            else "Answering the most frequent class does as well.",
            "look at model.predict(x[:10]); check loss, last activation and labels.",
            {"metric": name, "last": value, "majority": majority, "threshold_margin": margin},
            first_step=int(curve.steps[0]),
            last_step=int(curve.steps[-1]),
            severity="note" if has_just_begun(run) else None,
        )
        return

"""Sample weights that leave nothing to learn from, or that cannot be meant.

Formula: the weights of the rows looked at, those that `class_weight` gives to their classes
included. All zero: every loss is zero. Some below zero: the loss falls when the model gets worse
on those rows. NaN or infinite: so is the loss. More than `share` zero: told as a note, for masking
rows with a weight of 0 is common.

Source: keras.losses.Loss, which multiplies each sample's loss by its weight.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fitscope.rules.fit import Fit
from fitscope.rules.rule import Sign, rule
from fitscope.terminal.numbers import compact, percent


@rule(
    "sample_weights",
    "Sample weights are zero for all rows, negative, or not finite.",
    severity="fault",
    stage="contract",
    explains=("loss_zero", "loss_negative", "loss_non_finite", "non_finite", "loss_flat",
              "unchanged_weights", "metric_flat", "loss_diverges", "no_better_than_constant",
              "update_ratio"),
)  # fmt: skip
def sample_weights(fit: Fit, *, share: float = 0.95) -> Iterator[Sign]:
    """Find weights that undo the loss."""
    for array in fit.sample_weights:
        if not array.is_number or not array.sample.size:
            continue
        values = array.sample.astype(np.float64).ravel()
        bad = float((~np.isfinite(values)).mean())
        below, zero = float((values < 0).mean()), float((values == 0).mean())
        evidence = {"non_finite": bad, "negative": below, "zero": zero, "looked_at": len(values)}
        if bad:
            yield Sign(
                array.name,
                f"{percent(bad)} of the sample weights are NaN or infinite.",
                "The first batch with one makes the loss NaN, and then every weight.",
                "np.isfinite(sample_weight); a division by a class that has no rows makes them.",
                evidence,
            )
        elif zero == 1:
            yield Sign(
                array.name,
                f"every sample weight is 0 ({len(values)} looked at).",
                "The loss is 0 whatever the model says, and no gradient comes.",
                "print np.unique(sample_weight), or the class_weight.",
                evidence,
            )
        elif below:
            yield Sign(
                array.name,
                f"{percent(below)} of the sample weights are below 0, down to "
                f"{compact(float(values.min()))}.",
                "The model is paid for being wrong on those rows, without end.",
                "weights of 0 or more.",
                evidence,
            )
        elif zero > share:
            yield Sign(
                array.name,
                f"{percent(zero)} of the sample weights are 0.",
                "The model learns from the rest alone, and most batches may hold none of it.",
                "leave those rows out, unless they are padding.",
                {**evidence, "threshold": share},
                severity="note",
                confidence=0.5,
            )

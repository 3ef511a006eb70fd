"""Inputs that hold the answer; validation rows that were trained on.

Formula: a column of x whose correlation with y is above `correlation` in magnitude; the share of
validation rows that equal a training row, byte for byte, above `share`.

Source: Kaufman et al. (2012), "Leakage in Data Mining".
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fitscope.rules.fit import ArrayFact, Fit
from fitscope.rules.rule import Sign, rule
from fitscope.terminal.numbers import percent


@rule(
    "target_leak",
    "The inputs hold the targets, or the validation rows were trained on.",
    severity="warning",
    stage="contract",
    confidence=0.8,
)
def target_leak(fit: Fit, *, correlation: float = 0.99999, share: float = 0.5) -> Iterator[Sign]:
    """Find answers that the model is given."""
    if fit.custom_step:
        return
    if len(fit.inputs) == 1 and len(fit.targets) == 1:
        column = _column(fit.inputs[0], fit.targets[0], correlation)
        if column is not None:
            yield Sign(
                "x",
                f"column {column} of x is the target, up to scale.",
                "The model can copy it, and scores say nothing about new data.",
                f"np.delete(x, {column}, axis=1).",
                {"column": column, "threshold_correlation": correlation},
            )
    held = fit.validation[0] if fit.validation is not None else ()
    if len(held) == 1 and len(fit.inputs) == 1 and fit.inputs[0].whole:
        known = {row.tobytes() for row in fit.inputs[0].sample}
        # Rows of few kinds come up again by chance.
        if len(known) < 0.9 * len(fit.inputs[0].sample):
            return
        sampled = len(fit.inputs[0].sample) / fit.inputs[0].rows
        again = np.mean([row.astype(fit.inputs[0].sample.dtype).tobytes() in known
                         for row in held[0].sample])  # fmt: skip
        expected = float(again) / sampled
        if expected > share and held[0].sample[0].size > 4:
            yield Sign(
                "validation x",
                f"{percent(min(expected, 1.0))} of the validation rows are training rows.",
                "Validation then measures what was memorized.",
                "split once, before fit: train_test_split, or validation_split=0.2.",
                {"share": float(again), "threshold": share},
            )


def _column(x: ArrayFact, y: ArrayFact, limit: float) -> int | None:
    if len(x.shape) != 1 or not 2 <= x.shape[0] <= 2000 or y.shape not in ((), (1,)):
        return None
    if not x.is_number or not y.is_number or len(x.sample) != len(y.sample) or len(y.sample) < 16:
        return None
    table, answer = x.sample.astype(np.float64), y.sample.astype(np.float64).ravel()
    if not (np.isfinite(table).all() and np.isfinite(answer).all()) or answer.std() == 0:
        return None
    table, answer = table - table.mean(0), answer - answer.mean()
    with np.errstate(all="ignore"):
        r = np.abs(answer @ table) / np.sqrt((table**2).sum(0) * (answer**2).sum())
    place = int(np.nanargmax(r)) if np.isfinite(r).any() else 0
    return place if r[place] > limit else None

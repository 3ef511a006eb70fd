"""NaN, infinities and constants in the data.

Formula: counts of non-finite values in the sample (up to 4,096 rows at an even stride); columns,
and whole arrays, whose greatest value equals their least.

Source: Humbatova et al. (2020), training data quality; Breck et al. (2019), "Data Validation for
Machine Learning".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from fitscope.rules.fit import ArrayFact, Fit
from fitscope.rules.rule import Sign, rule
from fitscope.terminal.numbers import compact, count, percent


@rule(
    "data_values",
    "The data hold NaN, infinities, or nothing but one value.",
    severity="fault",
    stage="contract",
    explains=("non_finite", "loss_non_finite", "constant_output", "loss_flat", "dead_units",
              "no_better_than_constant", "metric_flat", "inputs_scaled", "unchanged_weights",
              "class_balance", "single_class_batches", "loss_zero", "contradicting_labels",
              "effective_rank", "update_ratio", "vanishing_gradients"),
)  # fmt: skip
def data_values(fit: Fit, *, columns: float = 0.5) -> Iterator[Sign]:
    """Find values that end or empty a training."""
    for array in (*fit.inputs, *fit.targets):
        if not array.is_number or array.sample.size == 0:
            continue
        flat = array.sample.reshape(len(array.sample), -1)
        bad = ~np.isfinite(flat)
        if bad.any():
            rows = float(bad.any(1).mean())
            yield Sign(
                array.name,
                f"{count(int(bad.sum()))} values of {array.name} are NaN or infinite, in "
                f"{percent(rows)} of the rows looked at.",
                "The first batch with one makes the loss NaN, and then every weight.",
                f"drop or fill those rows before fit: np.isfinite({array.name}).",
                {"non_finite": int(bad.sum()), "share_of_rows": rows, "rows_looked_at": len(flat)},
            )
            continue
        if len(flat) < 8:
            continue
        low, high = flat.min(0), flat.max(0)
        if float(low.min()) == float(high.max()):
            yield _constant(array, float(low.min()), fit)
        elif array.name.startswith("y") and (low == high).all():
            yield Sign(
                array.name,
                f"every row of {array.name} is the same ({len(flat)} rows looked at).",
                "One answer fits all.",
                "look at how it was made; print np.unique(y, axis=0).",
                {"row": low[:20].tolist(), "rows_looked_at": len(flat)},
                **_less_grave(array, fit),
            )
        elif array.name.startswith("x") and len(array.shape) == 1 and len(low) > 1:
            constant = np.flatnonzero(low == high)
            share = len(constant) / len(low)
            if share > columns:
                yield Sign(
                    array.name,
                    f"{len(constant)} of {len(low)} columns hold one value in all rows looked at.",
                    "A constant column tells the model nothing.",
                    "look at how the columns were made, and drop those.",
                    {"columns": constant[:20].tolist(), "share": share},
                    severity="note",
                    confidence=0.5,
                )


def _less_grave(array: ArrayFact, fit: Fit) -> dict[str, Any]:
    """One batch of a script's own loop may well hold one class: that of a GAN's discriminator."""
    known_whole = array.whole or not fit.own_loop
    return {} if known_whole else {"severity": "note", "confidence": 0.3}


def _constant(array: ArrayFact, value: float, fit: Fit) -> Sign:
    scaled = value == 0 and array.name.startswith("x")
    return Sign(
        array.name,
        f"every value of {array.name} is {compact(value)} ({len(array.sample)} rows looked at).",
        "There is nothing to learn from." if array.name.startswith("x") else "One answer fits all.",
        "scale in floats: an integer division (x // 255, or astype(int) after it) gives zeros."
        if scaled
        else "look at how it was made; print np.unique of it.",
        {"value": value, "rows_looked_at": len(array.sample)},
        **({} if array.name.startswith("x") else _less_grave(array, fit)),
    )

"""Integer labels that no unit stands for.

Formula: sparse categorical cross-entropy reads p[label]; labels must be whole numbers from 0 to
units - 1. TensorFlow on a CPU raises; on a GPU, JAX and torch a wrong label gives NaN, no loss at
all or another class, depending on the backend.

Source: keras.losses documentation; Humbatova et al. (2020), wrong labels and output units.
"""

from __future__ import annotations

from collections.abc import Iterator

from fitscope.rules.fit import Fit
from fitscope.rules.rule import Sign, rule
from fitscope.terminal.numbers import compact


@rule(
    "labels_in_range",
    "Labels are not whole numbers from 0 to the number of units less one.",
    severity="fault",
    stage="contract",
    explains=("loss_non_finite", "non_finite", "loss_flat", "no_better_than_constant",
              "metric_flat", "constant_output", "unchanged_weights", "loss_zero"),
)  # fmt: skip
def labels_in_range(fit: Fit) -> Iterator[Sign]:
    """Find labels that the output has no unit for."""
    for output, loss, target in fit.pairs():
        if loss.name != "sparse_categorical_crossentropy" or not target.finite.size:
            continue
        low, high, units = target.finite.min(), target.finite.max(), output.units
        evidence = {"min": float(low), "max": float(high), "units": units}
        if not target.is_whole_numbers:
            yield Sign(
                target.name,
                f"labels are not whole numbers (they go from {compact(low)} to {compact(high)}).",
                f"{loss.name} cuts them to integers, and trains towards those.",
                "mean_squared_error for quantities; integer labels for classes.",
                evidence,
            )
        elif units is not None and (low < 0 or high >= units):
            from_one = low == 1 and high == units
            yield Sign(
                target.name,
                f"labels go from {int(low)} to {int(high)}, but {output.path} has {units} units, "
                f"for labels 0 to {units - 1}.",
                "A label without a unit gives NaN, no gradient or another class.",
                "y - 1, so that labels begin at 0."
                if from_one
                else f"{int(high) + 1} units in the last layer, or labels from 0 on.",
                evidence,
            )

"""Targets of a scale that the first outputs are far from.

Formula: rms of the targets of a squared or absolute error above `rms` behind a linear output. The
first outputs have an rms near 1; the squared error, and its gradient, begin at the square of the
targets'.

Source: LeCun et al. (1998), "Efficient BackProp", 4.5; Bishop (1995), "Neural Networks", 8.2.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fitscope.rules.contract.loss_activation import REGRESSION
from fitscope.rules.fit import Fit
from fitscope.rules.rule import Sign, rule
from fitscope.terminal.numbers import compact


@rule(
    "targets_scaled",
    "Targets are much larger than the first outputs of the model.",
    severity="warning",
    stage="contract",
    explains=("loss_diverges", "loss_oscillates", "loss_flat", "no_better_than_constant",
              "loss_non_finite", "non_finite", "dead_units", "exploding_gradients",
              "weights_moved_far", "unchanged_weights", "constant_output", "update_ratio"),
    confidence=0.7,
)  # fmt: skip
def targets_scaled(fit: Fit, *, rms: float = 100.0) -> Iterator[Sign]:
    """Find targets that should be scaled."""
    for output, loss, target in fit.pairs():
        if loss.name not in REGRESSION or output.activation != "linear" or not target.finite.size:
            continue
        if "percentage" in loss.name or "logarithmic" in loss.name:
            continue
        size = float(np.sqrt(np.mean(target.finite**2)))
        if size > rms:
            yield Sign(
                target.name,
                f"targets go from {compact(float(target.finite.min()))} to "
                f"{compact(float(target.finite.max()))} (rms {compact(size)}).",
                "The first outputs are near 0: errors, and gradients, begin that large.",
                "StandardScaler for y, and inverse_transform for predictions.",
                {"rms": size, "threshold": rms},
            )

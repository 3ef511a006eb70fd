"""A softmax over one unit is always 1.

Formula: softmax(z)_i = exp(z_i) / sum_j exp(z_j); with one unit exp(z) / exp(z) = 1, and its
derivative is 0. Keras on TensorFlow computes cross-entropy from cached logits, so there the loss
may fall all the same.

Fires on: an output with activation softmax whose last axis has one unit.

Source: Humbatova et al. (2020), "Taxonomy of Real Faults in Deep Learning Systems", wrong
activation.
"""

from __future__ import annotations

from collections.abc import Iterator

from fitscope.rules.contract.loss_activation import REGRESSION
from fitscope.rules.fit import Fit
from fitscope.rules.rule import Sign, rule


@rule(
    "one_unit_softmax",
    "The output is a softmax over a single unit, which is 1 whatever comes in.",
    severity="fault",
    stage="contract",
    explains=("constant_output", "loss_flat", "no_better_than_constant", "unchanged_weights",
              "loss_unit_mismatch", "saturation", "vanishing_gradients", "metric_flat",
              "loss_task", "update_ratio"),
)  # fmt: skip
def one_unit_softmax(fit: Fit) -> Iterator[Sign]:
    """Find outputs that are constant by their formula."""
    quantities = {
        output.path
        for output, loss, target in fit.pairs()
        if loss.name in REGRESSION and target.sample.size and target.classes is None
    }
    for output in fit.outputs:
        if output.activation == "softmax" and output.units == 1:
            yield Sign(
                output.path,
                "the softmax has one unit, so every prediction is exactly 1.",
                "exp(z) / exp(z) = 1 for every z: the prediction does not depend on the input.",
                "activation=None (linear) in the last layer, for targets that are quantities."
                if output.path in quantities
                else "activation='sigmoid' with binary_crossentropy, or one unit for each class.",
                {"units": 1, "activation": "softmax"},
            )

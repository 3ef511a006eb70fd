"""Probabilities where the loss expects logits, or logits where it expects probabilities.

Formula: with `from_logits=True` the loss applies softmax (sigmoid) itself; applied twice, outputs
lie in a narrow band (two classes: 0.27 to 0.73) and gradients shrink. With `from_logits=False` it
takes log(p) of what it is given, and clips it to [1e-7, 1 - 1e-7]: outside there is no gradient.

Fires on: a softmax or sigmoid output with `from_logits=True`; a linear, ReLU or tanh output with a
cross-entropy and `from_logits=False`.

Source: keras.losses documentation; Humbatova et al. (2020), wrong loss and activation.
"""

from __future__ import annotations

from collections.abc import Iterator

from fitscope.rules.fit import Fit
from fitscope.rules.rule import Sign, rule

CROSS_ENTROPIES = frozenset(
    {"binary_crossentropy", "categorical_crossentropy", "sparse_categorical_crossentropy",
     "binary_focal_crossentropy", "categorical_focal_crossentropy"}
)  # fmt: skip
PROBABILITIES = frozenset({"softmax", "sigmoid", "hard_sigmoid", "sparsemax", "sparse_sigmoid"})
_CONSEQUENCES = (
    "constant_output", "loss_flat", "no_better_than_constant", "loss_oscillates", "loss_non_finite",
    "loss_diverges", "unchanged_weights", "metric_flat", "vanishing_gradients", "dead_units",
    "saturation", "non_finite", "weights_barely_moved",
    "effective_rank",
)  # fmt: skip


@rule(
    "from_logits",
    "The output and the loss disagree on whether predictions are probabilities or logits.",
    severity="fault",
    stage="contract",
    explains=_CONSEQUENCES,
)
def from_logits(fit: Fit) -> Iterator[Sign]:
    """Find cross-entropies that are given the wrong kind of numbers."""
    for output, loss, _ in fit.pairs():
        if loss.name not in CROSS_ENTROPIES or output.activation is None:
            continue
        wanted = "sigmoid" if loss.name.startswith("binary") else "softmax"
        evidence = {
            "activation": output.activation, "loss": loss.name, "from_logits": loss.from_logits
        }  # fmt: skip
        if loss.from_logits and output.activation in PROBABILITIES:
            yield Sign(
                output.path,
                f"{output.activation} probabilities go into {loss.name}(from_logits=True).",
                f"The loss applies {wanted} once more: predictions stay close to each other.",
                "remove the activation of the last layer, or from_logits=True.",
                evidence,
            )
        elif loss.from_logits and output.activation in ("relu", "relu6"):
            yield Sign(
                output.path,
                f"{output.activation} stands before {loss.name}(from_logits=True).",
                "Logits need both signs; where the ReLU is off no gradient comes back.",
                "remove the activation of the last layer.",
                evidence,
            )
        elif not loss.from_logits and output.activation not in PROBABILITIES:
            if output.activation == "exponential":
                continue
            yield Sign(
                output.path,
                f"{output.activation} values go into {loss.name}, which expects probabilities.",
                "Values at or below 0 and at or above 1 are clipped, and give no gradient.",
                f"activation={wanted!r} in the last layer, or from_logits=True in the loss.",
                evidence,
            )

"""float16 without a loss scale, and weights kept in float16.

float16 has no magnitudes below 6e-8, and gradients of deep layers are often smaller. Keras wraps
the optimizer in a `LossScaleOptimizer` when the *model's own* policy is `mixed_float16`; a policy
that is given to layers alone, or set to `float16`, is trained without.

Formula: a layer with trainable weights computes in float16, and the optimizer does not scale the
loss. Weights kept in float16: an update below 2^-11 of a weight is rounded away; 0.001 a step is
common. bfloat16 has the range of float32 and needs no scale, but keeps 8 bits: weights kept in it
lose updates below 2^-8, which is told as a note.

Source: Micikevicius et al. (2018), "Mixed Precision Training"; keras.Model.compile,
`auto_scale_loss`.
"""

from __future__ import annotations

from collections.abc import Iterator

from fitscope.rules.fit import Fit, LayerFact
from fitscope.rules.rule import Sign, rule
from fitscope.terminal.numbers import compact

# Bits of the mantissa, the hidden one included: an update of less than half the last is lost.
_BITS = {"float16": 11, "bfloat16": 8}


@rule(
    "half_precision",
    "float16 is trained without a loss scale, or weights are kept in half precision.",
    severity="warning",
    stage="contract",
    explains=("gradient_underflow", "unchanged_weights", "weights_barely_moved", "non_finite",
              "loss_non_finite", "loss_flat", "vanishing_gradients", "no_better_than_constant",
              "metric_flat", "layer_left_behind", "update_ratio"),
    confidence=0.7,
)  # fmt: skip
def half_precision(fit: Fit) -> Iterator[Sign]:
    """Find half precision that loses gradients or updates."""
    trained = [x for x in fit.layers if x.trainable and any(w.trainable for w in x.weights)]
    if fit.optimizer is None or not trained:
        return
    narrow = [x for x in trained if x.dtype == "float16"]
    if narrow and not fit.optimizer.scales_loss:
        yield Sign(
            "optimizer",
            f"{_named(narrow)} in float16, and {fit.optimizer.name} does not scale the loss.",
            "Gradients below 6e-8 become 0 on their way back.",
            "the global policy 'mixed_float16' before the model is made, or LossScaleOptimizer.",
            {"layers": [x.path for x in narrow][:20], "optimizer": fit.optimizer.name},
        )
    kept = [x for x in trained if x.variable_dtype in _BITS]
    if kept:
        dtype = kept[0].variable_dtype
        least = 2.0 ** -_BITS[dtype]
        yield Sign(
            kept[0].path,
            f"weights are kept in {dtype} ({len(kept)} of {len(trained)} layers).",
            f"A step that changes a weight by less than {compact(least)} of it changes nothing.",
            f"the policy 'mixed_{dtype}', which keeps weights in float32.",
            {"layers": [x.path for x in kept][:20], "least_relative_update": least},
            severity="note" if dtype == "bfloat16" else None,
        )


def _named(layers: list[LayerFact]) -> str:
    if len(layers) == 1:
        return f"{layers[0].path} computes"
    return f"{len(layers)} layers, {layers[0].path} first, compute"

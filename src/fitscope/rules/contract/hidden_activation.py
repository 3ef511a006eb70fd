"""Hidden layers without an activation, or with one that is meant for outputs.

Formula: two layers W2(W1 x + b1) + b2 without an activation between them are one layer W x + b:
the second adds parameters and no function that the first could not give. A softmax inside makes
the units of a layer share a sum of 1, so each carries about 1/units.

Fires on: a Dense layer without activation whose output reaches, through nothing but affine layers,
another Dense layer, where every hidden layer is so (fault) or one (warning); a hidden Dense layer
with softmax. Where other layers bend, one that is narrower than what comes in and than the next
layer is left out: W2 W1 then has its rank, and the next layer alone could not give that.

Source: Goodfellow et al. (2016), "Deep Learning", 6.1; Humbatova et al. (2020), missing
activation.
"""

from __future__ import annotations

from collections.abc import Iterator

from fitscope.rules.fit import DENSE, NORMALIZING, PASSING, Fit, LayerFact
from fitscope.rules.rule import Sign, rule

_AFFINE = (PASSING | NORMALIZING | {"AveragePooling1D", "AveragePooling2D"}) - {
    "LayerNormalization", "RMSNormalization", "GroupNormalization", "UnitNormalization"
}  # fmt: skip
_LINEAR = DENSE | {"Conv1D", "Conv2D"}


@rule(
    "hidden_activation",
    "A hidden layer has no activation, or one that is meant for outputs.",
    severity="warning",
    stage="contract",
    explains=("loss_flat", "no_better_than_constant", "vanishing_gradients", "metric_flat",
              "weights_barely_moved", "constant_output", "effective_rank", "update_ratio"),
    confidence=0.7,
)  # fmt: skip
def hidden_activation(fit: Fit) -> Iterator[Sign]:
    """Find hidden layers that add no function."""
    if not fit.sequential:
        return
    inner = [la for la in fit.layers if la.kind in _LINEAR and _reaches_linear(fit, la)]
    missing = [layer for layer in inner if layer.activation is None and not _bends(fit, layer)]
    if len(missing) < len(inner):
        missing = [layer for layer in missing if not _is_bottleneck(fit, layer)]
    if missing:
        yield Sign(
            missing[0].path,
            f"{_names(missing)} without an activation before the next layer with weights.",
            "Two linear layers in a row are one linear layer: the depth adds nothing.",
            "activation='relu'.",
            {"layers": [layer.path for layer in missing], "hidden_layers": len(inner)},
            confidence=0.9 if len(missing) == len(inner) else None,
        )
    squashed = [layer for layer in inner if layer.activation == "softmax"]
    if squashed:
        yield Sign(
            squashed[0].path,
            f"{_names(squashed)} with a softmax inside the model.",
            "Its units share a sum of 1: the more units, the less each says.",
            "activation='relu'; keep softmax for the last layer.",
            {"layers": [layer.path for layer in squashed]},
            confidence=0.9,
        )


def _is_bottleneck(fit: Fit, layer: LayerFact) -> bool:
    """Whether a layer is narrower than what comes in and than the next layer with a kernel."""
    following = fit.after(layer)
    while len(following) == 1 and following[0].kind not in _LINEAR:
        following = fit.after(following[0])
    after = following[0].units if len(following) == 1 else None
    if layer.kernel is None or layer.units is None or after is None:
        return False
    return layer.units < min(layer.kernel.fan_in, after)


def _names(layers: list[LayerFact]) -> str:
    if len(layers) == 1:
        return "a hidden layer stands"
    return f"{len(layers)} hidden layers stand"


def _reaches_linear(fit: Fit, layer: LayerFact) -> bool:
    """Whether another layer with a kernel follows, in a row."""
    following = fit.after(layer)
    while len(following) == 1:
        if following[0].kind in _LINEAR:
            return True
        following = fit.after(following[0])
    return False


def _bends(fit: Fit, layer: LayerFact) -> bool:
    """Whether anything that is not affine stands before the next layer with a kernel."""
    following = fit.after(layer)
    while len(following) == 1 and following[0].kind not in _LINEAR:
        if following[0].kind not in _AFFINE or following[0].activation is not None:
            return True
        following = fit.after(following[0])
    return False

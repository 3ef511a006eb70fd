"""Inputs of a scale that initial weights are not made for.

Formula: Glorot and He initialization keep the variance of a layer's output near that of its input,
so the first outputs, and gradients by the square, grow with the input's rms. Columns whose
deviations differ by a factor r give a loss whose curvature differs by r^2: one learning rate
cannot fit both.

Fires on: an input without a normalization before its first weights, whose rms over all values is
above `rms` or below `tiny`, or whose columns' deviations differ by more than `spread`.

Source: LeCun et al. (1998), "Efficient BackProp", 4.3; Glorot and Bengio (2010).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fitscope.rules.fit import NORMALIZING, PASSING, ArrayFact, Fit, LayerFact
from fitscope.rules.rule import Sign, rule
from fitscope.terminal.numbers import compact

_SEES_SCALE = frozenset(
    {"Dense", "EinsumDense", "Conv1D", "Conv2D", "Conv3D", "SeparableConv1D", "SeparableConv2D",
     "DepthwiseConv2D", "LSTM", "GRU", "SimpleRNN", "Bidirectional", "ConvLSTM2D"}
)  # fmt: skip


@rule(
    "inputs_scaled",
    "Inputs are much larger, smaller or more uneven than initial weights are made for.",
    severity="warning",
    stage="contract",
    explains=("loss_diverges", "loss_oscillates", "loss_flat", "dead_units", "saturation",
              "non_finite", "loss_non_finite", "no_better_than_constant", "constant_output",
              "exploding_gradients", "metric_flat", "signal_scale", "weights_moved_far",
              "unchanged_weights", "effective_rank", "update_ratio", "vanishing_gradients"),
    confidence=0.8,
)  # fmt: skip
def inputs_scaled(
    fit: Fit, *, rms: float = 10.0, tiny: float = 1e-3, spread: float = 100.0
) -> Iterator[Sign]:
    """Find inputs that should be scaled."""
    if fit.custom_step or not sees_scale(fit):
        return
    for array in fit.inputs:
        if not array.is_number or not array.finite.size:
            continue
        size = float(np.sqrt(np.mean(array.finite**2)))
        deviations = _deviations(array)
        ratio = float(deviations.max() / deviations.min()) if len(deviations) > 1 else 1.0
        low, high = float(array.finite.min()), float(array.finite.max())
        evidence = {
            "rms": size, "min": low, "max": high, "ratio_of_deviations": ratio,
            "threshold_rms": rms, "threshold_tiny": tiny, "threshold_spread": spread,
        }  # fmt: skip
        if size > rms:
            pixels = low >= 0 and 128 < high <= 255
            yield Sign(
                array.name,
                f"inputs go from {compact(low)} to {compact(high)} (rms {compact(size)}) and are "
                "not normalized.",
                "Initial weights are made for rms near 1: outputs and steps are that much larger.",
                "divide by 255." if pixels else "StandardScaler, or a Normalization layer first.",
                evidence,
            )
        elif 0 < size < tiny:
            yield Sign(
                array.name,
                f"inputs have rms {compact(size)}: next to the biases they are nothing.",
                "The first layer's output, and its gradient, is that much smaller.",
                "StandardScaler, or a Normalization layer first.",
                evidence,
            )
        elif ratio > spread:
            yield Sign(
                array.name,
                f"columns of the inputs differ {compact(ratio)} times in their deviation.",
                "One learning rate cannot fit all columns; the small ones are not learned.",
                "StandardScaler, or a Normalization layer first.",
                evidence,
                confidence=0.6,
            )


def _deviations(array: ArrayFact) -> np.ndarray:
    """Of the columns of a table, those that are not constant; nothing for other shapes."""
    if len(array.shape) != 1 or array.shape[0] < 2:
        return np.ones(1)
    with np.errstate(invalid="ignore"):
        columns = array.sample.astype(np.float64).std(0)
    # A column that is nearly always zero (a rare flag) is small for another reason than its scale.
    used = (array.sample != 0).mean(0) > 0.1
    columns = columns[np.isfinite(columns) & (columns > 0) & used]
    return columns if len(columns) else np.ones(1)


def sees_scale(fit: Fit) -> bool:
    """Whether the first layers with weights see the inputs' own scale.

    Args:
        fit: The training.
    """
    first = [layer for layer in fit.layers if not layer.sources and layer.kind not in _CONTAINERS]
    seen: set[str] = set()
    while first:
        layer = first.pop(0)
        if layer.path in seen or layer.kind in NORMALIZING or layer.kind == "Embedding":
            continue
        seen.add(layer.path)
        if layer.kind in _SEES_SCALE:
            return True
        if layer.kind in PASSING or not layer.parameters or _is_plain(layer):
            first.extend(fit.after(layer))
    return False


_CONTAINERS = frozenset({"Sequential", "Functional", "Model"})


def _is_plain(layer: LayerFact) -> bool:
    return layer.kind in ("Concatenate", "Add", "ZeroPadding2D", "MaxPooling2D")

"""Weights that begin equal, or much too large or small.

Formula: units with equal weights get equal gradients, and stay equal. The gain of a layer is
rms(kernel) * sqrt(fan in): 1 keeps the variance (Glorot: near 1, He: 1.41). The product of the
gains over the layers of a chain is the factor of the output's scale; without normalization it is
held between 1 / `gain` and `gain`, to the power of the square root of the depth.

Source: Glorot and Bengio (2010); He et al. (2015); Goodfellow et al. (2016), "Deep Learning", 8.4.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fitscope.rules.fit import DENSE, NORMALIZING, Fit, LayerFact
from fitscope.rules.rule import Sign, rule
from fitscope.terminal.numbers import compact

_MULTIPLY = DENSE | {"Conv1D", "Conv2D", "Conv3D"}


@rule(
    "initial_weights",
    "Weights begin equal in all units, or at a scale that explodes or vanishes along depth.",
    severity="fault",
    stage="contract",
    explains=("constant_output", "loss_flat", "no_better_than_constant", "dead_units", "saturation",
              "loss_diverges", "loss_non_finite", "non_finite", "unchanged_weights",
              "exploding_gradients", "vanishing_gradients", "metric_flat", "signal_scale",
              "loss_oscillates", "weights_barely_moved",
              "effective_rank", "attention"),
    confidence=0.95,
)  # fmt: skip
def initial_weights(fit: Fit, *, gain: float = 8.0) -> Iterator[Sign]:
    """Find weights that cannot break their symmetry, and scales that grow along depth."""
    if fit.resumed:
        return
    last = {output.path for output in fit.outputs}
    chain: list[tuple[LayerFact, float]] = []
    equal: list[LayerFact] = []
    normalized = any(
        layer.kind in NORMALIZING - {"Normalization", "Rescaling"} for layer in fit.layers
    )
    for layer in fit.layers:
        kernel = layer.kernel
        if kernel is None or layer.kind not in _MULTIPLY or not kernel.trainable:
            continue
        following = fit.after(layer)
        hidden = layer.path not in last and bool(following)
        zero = kernel.rms == 0
        joins = any(other.kind in ("Add", "Multiply") for other in following)
        ends = all(other.path in last and other.kernel is None for other in following)
        if kernel.equal_units and hidden and not ends and not (zero and joins):
            equal.append(layer)
        elif not zero:
            chain.append((layer, kernel.rms * float(np.sqrt(kernel.fan_in))))
    if equal:
        yield _equal_units(equal)
    if chain and not normalized and not fit.custom_step and fit.sequential:
        product = float(np.exp(np.sum(np.log([g for _, g in chain]))))
        limit = gain ** float(np.sqrt(len(chain)))
        worst = max(chain, key=lambda pair: abs(np.log(pair[1])))
        if not 1 / limit <= product <= limit:
            large = product > 1
            yield Sign(
                worst[0].path,
                f"the initial weights {'enlarge' if large else 'shrink'} signals "
                f"{compact(product if large else 1 / product)} times over {len(chain)} layers.",
                f"{worst[0].path} alone has a gain of {compact(worst[1])}, where 1 to 1.4 keeps "
                "the scale.",
                "kernel_initializer='he_normal' before ReLU, else 'glorot_uniform'.",
                {"product_of_gains": product, "gains": {la.path: g for la, g in chain},
                 "threshold": limit},
                severity="warning",
            )  # fmt: skip


def _equal_units(layers: list[LayerFact]) -> Sign:
    first = layers[0]
    kernel = first.kernel
    values = np.zeros(1) if kernel is None else kernel.values
    zero = bool((values == 0).all())
    others = f"; so do those of {len(layers) - 1} more layers" if len(layers) > 1 else ""
    value = f" ({compact(float(values[0]))})" if (values == values[0]).all() else ""
    return Sign(
        first.path,
        f"all {first.units} units begin with equal weights{value}{others}.",
        "Its output is 0, and behind zeros no gradient comes back."
        if zero
        else "Equal units get equal gradients and stay equal: the layer is worth one unit.",
        "kernel_initializer='glorot_uniform' (the default), or 'he_normal' before ReLU.",
        {"layers": [layer.path for layer in layers], "units": first.units},
    )

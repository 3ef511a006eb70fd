"""Weights that begin equal, or much too large or small.

Formula: units with equal weights get equal gradients, and stay equal. The gain of a layer is
rms(kernel) * sqrt(fan in): 1 keeps the variance (Glorot: near 1, He: 1.41). The product of the
gains over the layers of a chain is the factor of the output's scale; without normalization it is
held between 1 / `gain` and `gain`, to the power of the square root of the depth. Inputs whose rms
is above 1 make up for weights that shrink, below 1 for weights that enlarge: then the product with
that rms counts. Small weights are a note where the training outgrows them in half its steps: under
Adam and its like, which move a weight by the rate in each step, weights that grow to
1 / sqrt(fan in); under gradient descent, by the product u of the gains of L layers, which grows by
du/dt = rate L s u^(2 - 2/L) where inputs and targets are correlated by s, taken as 0.25.

Source: Glorot and Bengio (2010); He et al. (2015); Goodfellow et al. (2016), "Deep Learning", 8.4;
Saxe et al. (2014), "Exact solutions to the nonlinear dynamics of learning in deep linear networks".
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fitscope.rules.contract.inputs_scaled import sees_scale
from fitscope.rules.contract.learning_rate import BOUNDED_STEP
from fitscope.rules.fit import DENSE, NORMALIZING, Fit, LayerFact
from fitscope.rules.rule import Sign, rule
from fitscope.terminal.numbers import compact

_OF_SMALL = ("constant_output", "loss_flat", "no_better_than_constant", "unchanged_weights",
             "vanishing_gradients", "metric_flat", "signal_scale",
             "weights_barely_moved", "update_ratio", "gradient_underflow")  # fmt: skip
_OF_LARGE = ("constant_output", "loss_flat", "no_better_than_constant", "unchanged_weights",
             "dead_units", "saturation", "loss_diverges", "loss_non_finite", "non_finite",
             "exploding_gradients", "metric_flat", "signal_scale", "loss_oscillates",
             "update_ratio")  # fmt: skip
CORRELATION = 0.25
"""Of scaled inputs with what a unit should give: a rough, low figure."""
_MULTIPLY = DENSE | {"Conv1D", "Conv2D", "Conv3D"}


@rule(
    "initial_weights",
    "Weights begin equal in all units, or at a scale that explodes or vanishes along depth.",
    severity="fault",
    stage="contract",
    explains=("constant_output", "loss_flat", "no_better_than_constant", "dead_units",
              "saturation", "loss_diverges", "loss_non_finite", "non_finite", "unchanged_weights",
              "exploding_gradients", "vanishing_gradients", "metric_flat", "signal_scale",
              "loss_oscillates", "weights_barely_moved", "effective_rank", "attention",
              "update_ratio", "gradient_underflow"),
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
        scale = _input_rms(fit)
        large = product * min(scale, 1.0) > limit
        if large or product * max(scale, 1.0) < 1 / limit:
            worst = (max if large else min)(chain, key=lambda pair: pair[1])
            outgrown = not large and _outgrown(fit, [layer for layer, _ in chain], product)
            yield Sign(
                worst[0].path,
                f"the initial weights {'enlarge' if large else 'shrink'} signals "
                f"{compact(product if large else 1 / product)} times over {len(chain)} layers.",
                f"{worst[0].path} alone has a gain of {compact(worst[1])}, where 1 to 1.4 keeps "
                "the scale.",
                "kernel_initializer='he_normal' before ReLU, else 'glorot_uniform'.",
                {"product_of_gains": product, "gains": {la.path: g for la, g in chain},
                 "rms_of_inputs": scale, "threshold": limit},
                severity="note" if outgrown else "warning",
                confidence=0.9 if large else 0.5 if outgrown else 0.8,
                explains=_OF_LARGE if large else _OF_SMALL,
            )  # fmt: skip


def _outgrown(fit: Fit, layers: list[LayerFact], product: float) -> bool:
    """Whether the training takes all these weights to a fair size in good time."""
    optimizer, steps = fit.optimizer, fit.total_steps
    if optimizer is None or not optimizer.learning_rate or steps is None:
        return False
    rate = optimizer.learning_rate
    if optimizer.name in BOUNDED_STEP:
        kernels = [layer.kernel for layer in layers]
        missing = max(k.fan_in**-0.5 - k.rms for k in kernels if k is not None)
        return missing / rate <= steps / 2
    if optimizer.name != "sgd":
        return False
    momentum = float(optimizer.options.get("momentum") or 0.0)
    return _descent_steps(product, len(layers)) * (1 - momentum) / rate <= steps / 2


def _descent_steps(product: float, depth: int) -> float:
    """Steps of rate 1 in which gradient descent takes a product of gains from `product` to 1."""
    if depth == 1:
        time = 1 - product
    elif depth == 2:
        time = -np.log(product) / 2
    else:
        time = (product ** -(1 - 2 / depth) - 1) / (depth - 2)
    return float(time) / CORRELATION


def _input_rms(fit: Fit) -> float:
    """Of the only input, where the first weights see its scale; 1 where that is not known."""
    if len(fit.inputs) != 1 or not fit.inputs[0].finite.size or not sees_scale(fit):
        return 1.0
    size = float(np.sqrt(np.mean(fit.inputs[0].finite ** 2)))
    return size if size > 0 else 1.0


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

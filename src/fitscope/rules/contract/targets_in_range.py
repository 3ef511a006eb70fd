"""Targets that the output cannot give, or that the loss is not defined for.

Formula: the share of targets outside the closed range of the output's activation (sigmoid,
softmax: 0 to 1; tanh, softsign: -1 to 1; ReLU, softplus, exponential: 0 and above), held against
`share`; and of targets outside the domain of the loss (cross-entropies: 0 to 1; Poisson,
logarithmic error: 0 and above; hinges: -1, 0 and 1).

Source: the definitions; Humbatova et al. (2020), wrong output data and activation.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fitscope.rules.contract.from_logits import CROSS_ENTROPIES
from fitscope.rules.contract.loss_activation import REGRESSION
from fitscope.rules.fit import Fit
from fitscope.rules.rule import Sign, rule
from fitscope.terminal.numbers import compact, percent

_ABOVE_ZERO = (0.0, np.inf)
RANGES: dict[str, tuple[float, float]] = {
    "sigmoid": (0.0, 1.0), "hard_sigmoid": (0.0, 1.0), "softmax": (0.0, 1.0),
    "sparsemax": (0.0, 1.0), "tanh": (-1.0, 1.0), "hard_tanh": (-1.0, 1.0),
    "softsign": (-1.0, 1.0), "relu": _ABOVE_ZERO, "relu6": (0.0, 6.0), "softplus": _ABOVE_ZERO,
    "exponential": _ABOVE_ZERO, "elu": (-1.0, np.inf), "selu": (-1.7581, np.inf),
    "log_softmax": (-np.inf, 0.0), "log_sigmoid": (-np.inf, 0.0),
}  # fmt: skip
DOMAINS: dict[str, tuple[float, float]] = {
    "poisson": _ABOVE_ZERO, "mean_squared_logarithmic_error": _ABOVE_ZERO,
    "kl_divergence": (0.0, 1.0), "hinge": (-1.0, 1.0), "squared_hinge": (-1.0, 1.0),
    **{n: (0.0, 1.0) for n in CROSS_ENTROPIES if not n.startswith("sparse")},
}  # fmt: skip
# Rounding of targets that were scaled to the ends of a range.
_ROUNDING = 1e-4


@rule(
    "targets_in_range",
    "Targets lie where the output cannot go, or where the loss is not defined.",
    severity="fault",
    stage="contract",
    explains=("loss_flat", "loss_negative", "no_better_than_constant", "loss_diverges",
              "saturation", "constant_output", "loss_non_finite", "metric_flat", "dead_units",
              "loss_task", "metric_task", "unchanged_weights", "update_ratio"),
)  # fmt: skip
def targets_in_range(fit: Fit, *, share: float = 0.01) -> Iterator[Sign]:
    """Find targets outside the range of the output or the domain of the loss."""
    for output, loss, target in fit.pairs():
        if not target.finite.size:
            continue
        domain = DOMAINS.get(loss.name)
        outside = _outside(target.finite, domain)
        low, high = float(target.finite.min()), float(target.finite.max())
        evidence = {"min": low, "max": high, "threshold_share": share, "loss": loss.name}
        if domain is not None and outside > 0:
            yield Sign(
                target.name,
                f"targets go from {compact(low)} to {compact(high)}; {loss.name} is defined for "
                f"{_words(domain)}.",
                "Outside, the loss can fall without end, or is lowest at a wrong answer.",
                _domain_remedy(loss.name, target.is_whole_numbers),
                {**evidence, "share_outside": outside, "domain": list(domain)},
            )
            continue
        if output.activation == "softmax" and output.units == 1:
            continue  # it gives 1 and nothing else: see one_unit_softmax
        reach = RANGES.get(output.activation or "")
        outside = _outside(target.finite, reach)
        if loss.name in REGRESSION and reach is not None and outside > share:
            yield Sign(
                output.path,
                f"{percent(outside)} of the targets lie outside what {output.activation} can give "
                f"({_words(reach)}): they go from {compact(low)} to {compact(high)}.",
                "The output stops at the end of its range, and gets no gradient there.",
                "activation=None (linear) in the last layer, or scale the targets into the range.",
                {**evidence, "share_outside": outside, "activation": output.activation},
            )


def _outside(values: np.ndarray, limits: tuple[float, float] | None) -> float:
    if limits is None:
        return 0.0
    low, high = limits
    return float(((values < low - _ROUNDING) | (values > high + _ROUNDING)).mean())


def _words(limits: tuple[float, float]) -> str:
    low, high = limits
    if np.isinf(high):
        return f"{compact(low)} and above"
    return f"{compact(high)} and below" if np.isinf(low) else f"{compact(low)} to {compact(high)}"


def _domain_remedy(loss: str, whole: bool) -> str:
    if loss in CROSS_ENTROPIES and whole:
        return "sparse_categorical_crossentropy with one softmax unit a class, for integer labels."
    if loss in CROSS_ENTROPIES:
        return "mean_squared_error for targets that are quantities; else scale them to 0..1."
    return "another loss, such as mean_squared_error, or transform the targets."

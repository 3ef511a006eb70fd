"""A learning rate far off for the optimizer and the weights it moves.

Formula: Adam and its like move a weight by about the learning rate in each step, whatever the
gradient. So rate / rms(weights) is the relative change of one step, and rate * steps /
rms(weights) bounds that of the whole training. Plain SGD multiplies the gradient by the rate:
there the rate alone is held against limits. Adadelta makes a step of the size of the steps before,
sqrt(epsilon) at first, and times the rate: with a rate of 1 it is the method as published, with
Keras' default of 0.001 its steps are a thousand times shorter.

Fires on: a relative change of one step above `large` (fault above 3 times that); of the whole
training below `small`; SGD above `sgd` or, in all steps together, below `sgd_small`; Adadelta below
`adadelta`; a rate of 0 or below.

Source: Kingma and Ba (2015), "Adam", 2.1 (the step is bounded by the rate); Karpathy, update ratio
near 1e-3; Zeiler (2012), "ADADELTA", and keras.optimizers.Adadelta ("use 1.0").
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from fitscope.rules.fit import Fit, OptimizerFact
from fitscope.rules.rule import Sign, rule
from fitscope.terminal.numbers import compact

Evidence = Mapping[str, Any]

BOUNDED_STEP = frozenset(
    {"adam", "adamw", "nadam", "adamax", "rmsprop", "lion", "lamb", "adafactor"}
)


_OF_SMALL = (
    "loss_flat", "no_better_than_constant", "metric_flat", "weights_barely_moved", "update_ratio",
    "unchanged_weights", "stopped_early", "attention",
)  # fmt: skip
"""What steps that are too short lead to: they break nothing."""


@rule(
    "learning_rate",
    "The learning rate is far too high or too low for this optimizer and these weights.",
    severity="warning",
    stage="contract",
    explains=("loss_diverges", "loss_oscillates", "loss_flat", "dead_units", "saturation",
              "non_finite", "loss_non_finite", "no_better_than_constant", "constant_output",
              "exploding_gradients", "weights_barely_moved", "weights_moved_far", "metric_flat",
              "update_ratio", "stopped_early", "unchanged_weights", "effective_rank", "attention",
              "vanishing_gradients"),
    confidence=0.8,
)  # fmt: skip
def learning_rate(
    fit: Fit,
    *,
    large: float = 0.5,
    small: float = 0.01,
    sgd: float = 2.0,
    sgd_small: float = 1e-3,
    adadelta: float = 0.03,
) -> Iterator[Sign]:
    """Find learning rates that cannot be meant."""
    optimizer = fit.optimizer
    if optimizer is None or optimizer.learning_rate is None or fit.custom_step:
        return
    rate, steps = optimizer.learning_rate, fit.total_steps
    evidence = {"learning_rate": rate, "optimizer": optimizer.name, "steps": steps}
    if rate <= 0:
        if not _is_scheduled(optimizer):
            yield Sign(
                "optimizer", f"the learning rate is {compact(rate)}.",
                "No weight moves towards a lower loss.", "learning_rate=1e-3 for Adam.", evidence,
                severity="fault", confidence=1.0, explains=None if rate < 0 else _OF_SMALL,
            )  # fmt: skip
        return
    if optimizer.name in BOUNDED_STEP:
        yield from _bounded(fit, rate, evidence, large, small)
    elif optimizer.name == "sgd":
        yield from _sgd(optimizer, rate, evidence, sgd, sgd_small)
    elif optimizer.name == "adadelta" and rate < adadelta and not _is_scheduled(optimizer):
        yield Sign(
            "optimizer",
            f"Adadelta with learning rate {compact(rate)}: steps are {compact(rate)} of what the "
            "method asks for.",
            "Adadelta finds the length of its steps itself; the rate is meant to be 1.",
            "learning_rate=1.0 for Adadelta (Keras' default is 0.001), or Adam.",
            {**evidence, "threshold": adadelta},
            explains=_OF_SMALL,
        )


def _bounded(
    fit: Fit, rate: float, evidence: Evidence, large: float, small: float
) -> Iterator[Sign]:
    """Optimizers whose steps are as long as the rate, whatever the gradient."""
    optimizer, steps, weights = fit.optimizer, fit.total_steps, _typical_weight(fit)
    if optimizer is None or not weights:
        return
    share = rate / weights
    evidence = {**evidence, "rms_of_weights": weights, "change_of_a_step": share}
    if share > large:
        yield Sign(
            "optimizer",
            f"learning rate {compact(rate)}: each {optimizer.name} step moves a weight by "
            f"{compact(share)} times its own size ({compact(weights)}).",
            "What a step has learned the next one undoes; units die or saturate.",
            f"learning_rate={compact(_power(weights * 0.01))}.",
            {**evidence, "threshold": large},
            severity="fault" if share > 3 * large else None,
        )
    elif steps and share * steps < small and not _is_scheduled(optimizer):
        yield Sign(
            "optimizer",
            f"learning rate {compact(rate)}: all {steps} steps together move a weight by at "
            f"most {compact(share * steps)} of its size.",
            "The model ends about where it began.",
            f"learning_rate={compact(_power(weights * 0.01))}, or more epochs.",
            {**evidence, "change_of_all_steps": share * steps, "threshold": small},
            explains=_OF_SMALL,
        )


def _sgd(
    optimizer: OptimizerFact, rate: float, evidence: Evidence, large: float, small: float
) -> Iterator[Sign]:
    """Gradient descent, with momentum or without."""
    steps = evidence["steps"]
    reach = rate / (1 - min(float(optimizer.options.get("momentum") or 0.0), 0.999))
    evidence = {**evidence, "with_momentum": reach}
    clipped = any(optimizer.options.get(n) for n in ("clipnorm", "global_clipnorm", "clipvalue"))
    if reach > large and not clipped:
        yield Sign(
            "optimizer",
            f"SGD takes steps of {compact(reach)} times the gradient (rate {compact(rate)}).",
            "Above 2 / curvature gradient descent diverges; 0.01 to 0.1 is common.",
            "learning_rate=0.01.",
            {**evidence, "threshold": large},
            severity="fault" if reach > 10 * large else None,
            confidence=0.6,
        )
    elif steps and reach * steps < small and not _is_scheduled(optimizer):
        yield Sign(
            "optimizer",
            f"learning rate {compact(rate)}: {steps} SGD steps add up to "
            f"{compact(reach * steps)} times a gradient.",
            "The model ends about where it began.",
            "learning_rate=0.01.",
            {**evidence, "threshold": small},
            explains=_OF_SMALL,
        )


def _is_scheduled(optimizer: OptimizerFact) -> bool:
    """Whether the rate changes while it trains, so that the first one says little."""
    return bool(optimizer.options.get("scheduled"))


def _typical_weight(fit: Fit) -> float | None:
    """Median over kernels of their rms."""
    sizes = [
        k.rms for la in fit.layers if la.kind != "Embedding" and (k := la.kernel) and k.trainable
    ]
    sizes = [size for size in sizes if np.isfinite(size) and size > 0]
    return float(np.median(sizes)) if sizes else None


def _power(value: float) -> float:
    """The power of ten below a value."""
    return float(10.0 ** np.floor(np.log10(value)))

"""A learning rate far off for the optimizer and the weights it moves.

Formula: Adam and its like move a weight by about the learning rate in each step, whatever the
gradient. So rate / rms(weights) is the relative change of one step, and rate * steps /
rms(weights) bounds that of the whole training. Plain SGD multiplies the gradient by the rate:
there the rate alone is held against limits.

Fires on: a relative change of one step above `large` (fault above 3 times that); of the whole
training below `small`; SGD above `sgd` or, in all steps together, below `sgd_small`; a rate of 0
or below.

Source: Kingma and Ba (2015), "Adam", 2.1 (the step is bounded by the rate); Karpathy, update ratio
near 1e-3.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fitscope.rules.fit import Fit
from fitscope.rules.rule import Sign, rule
from fitscope.terminal.numbers import compact

BOUNDED_STEP = frozenset(
    {"adam", "adamw", "nadam", "adamax", "rmsprop", "lion", "lamb", "adafactor"}
)


@rule(
    "learning_rate",
    "The learning rate is far too high or too low for this optimizer and these weights.",
    severity="warning",
    stage="contract",
    explains=("loss_diverges", "loss_oscillates", "loss_flat", "dead_units", "saturation",
              "non_finite", "loss_non_finite", "no_better_than_constant", "constant_output",
              "exploding_gradients", "weights_barely_moved", "weights_moved_far", "metric_flat",
              "update_ratio", "stopped_early", "unchanged_weights",
              "effective_rank", "attention"),
    confidence=0.8,
)  # fmt: skip
def learning_rate(
    fit: Fit,
    *,
    large: float = 0.5,
    small: float = 0.01,
    sgd: float = 2.0,
    sgd_small: float = 1e-3,
) -> Iterator[Sign]:
    """Find learning rates that cannot be meant."""
    optimizer = fit.optimizer
    if optimizer is None or optimizer.learning_rate is None or fit.custom_step:
        return
    rate, steps = optimizer.learning_rate, fit.total_steps
    evidence = {"learning_rate": rate, "optimizer": optimizer.name, "steps": steps}
    if rate <= 0:
        if not optimizer.options.get("scheduled"):
            yield Sign(
                "optimizer", f"the learning rate is {compact(rate)}.",
                "No weight moves towards a lower loss.", "learning_rate=1e-3 for Adam.", evidence,
                severity="fault", confidence=1.0,
            )  # fmt: skip
        return
    weights = _typical_weight(fit)
    if optimizer.name in BOUNDED_STEP and weights:
        share = rate / weights
        evidence |= {"rms_of_weights": weights, "change_of_a_step": share}
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
        elif steps and share * steps < small and not optimizer.options.get("scheduled"):
            yield Sign(
                "optimizer",
                f"learning rate {compact(rate)}: all {steps} steps together move a weight by at "
                f"most {compact(share * steps)} of its size.",
                "The model ends about where it began.",
                f"learning_rate={compact(_power(weights * 0.01))}, or more epochs.",
                {**evidence, "change_of_all_steps": share * steps, "threshold": small},
            )
    elif optimizer.name == "sgd":
        reach = rate / (1 - min(float(optimizer.options.get("momentum") or 0.0), 0.999))
        evidence |= {"with_momentum": reach}
        clipped = any(
            optimizer.options.get(n) for n in ("clipnorm", "global_clipnorm", "clipvalue")
        )
        if reach > sgd and not clipped:
            yield Sign(
                "optimizer",
                f"SGD takes steps of {compact(reach)} times the gradient (rate {compact(rate)}).",
                "Above 2 / curvature gradient descent diverges; 0.01 to 0.1 is common.",
                "learning_rate=0.01.",
                {**evidence, "threshold": sgd},
                severity="fault" if reach > 10 * sgd else None,
                confidence=0.6,
            )
        elif steps and reach * steps < sgd_small and not optimizer.options.get("scheduled"):
            yield Sign(
                "optimizer",
                f"learning rate {compact(rate)}: {steps} SGD steps add up to "
                f"{compact(reach * steps)} times a gradient.",
                "The model ends about where it began.",
                "learning_rate=0.01.",
                {**evidence, "threshold": sgd_small},
            )


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

"""A loss and an output activation that do not belong together, though each is fine.

Formula: softmax makes the units share one sum, binary cross-entropy judges each unit by itself;
sigmoid units do not share one, categorical cross-entropy assumes they do. With squared error
behind softmax or sigmoid the gradient carries the factor p(1 - p), which vanishes for answers that
are sure and wrong. The absolute error of a label that is 1 in a share q of the cases, q(1 - p) +
(1 - q)p, is a straight line in p: it is lowest at p = 0 or 1, at the more frequent label.

Fires on: a categorical cross-entropy of rows of 0 and 1 with other than one 1 each; softmax with
binary cross-entropy (fault where targets hold other than one class a row);
sigmoid with a categorical cross-entropy, or a single unit with one (fault); softmax with a
regression loss on classes, or on rows that do not sum to 1 (fault); one sigmoid unit with an
absolute error on two classes.

Source: Bishop (2006), "Pattern Recognition and Machine Learning", 4.3.6 (canonical links); Gneiting
and Raftery (2007), "Strictly Proper Scoring Rules" (the absolute error is none).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fitscope.rules.fit import ArrayFact, Fit
from fitscope.rules.rule import Sign, rule

REGRESSION = frozenset(
    {"mean_squared_error", "mean_absolute_error", "huber", "log_cosh",
     "mean_absolute_percentage_error", "mean_squared_logarithmic_error"}
)  # fmt: skip
# Of a sum of shares that were rounded or smoothed.
_SLACK = 0.05
_ONE_OF_MANY = frozenset(
    {"categorical_crossentropy", "categorical_focal_crossentropy", "kl_divergence"}
)
_ABSOLUTE = frozenset({"mean_absolute_error", "mean_absolute_percentage_error"})


@rule(
    "loss_activation",
    "The output's activation and the loss do not belong together.",
    severity="warning",
    stage="contract",
    explains=("loss_flat", "no_better_than_constant", "vanishing_gradients", "metric_flat",
              "constant_output", "weights_barely_moved", "saturation", "update_ratio"),
    confidence=0.8,
)  # fmt: skip
def loss_activation(fit: Fit) -> Iterator[Sign]:
    """Find pairs of activation and loss that train towards something else."""
    for output, loss, target in fit.pairs():
        units, activation = output.units or 0, output.activation
        evidence = {"activation": activation, "loss": loss.name, "units": units}
        if units == 1 and loss.name in (
            "categorical_crossentropy",
            "categorical_focal_crossentropy",
        ):
            yield Sign(
                output.path,
                f"{loss.name} is taken of a single unit.",
                "It divides the unit by itself: the loss is 0 whatever is predicted.",
                "binary_crossentropy with sigmoid, or one unit for each class.",
                evidence,
                severity="fault",
                confidence=1.0,
            )
        if (
            units == 1
            and activation in ("sigmoid", "hard_sigmoid")
            and loss.name in _ABSOLUTE
            and target.classes is not None
            and np.isin(target.classes, (0, 1)).all()
        ):
            yield Sign(
                output.path,
                f"one {activation} unit is trained with {loss.name} on two classes.",
                "Absolute error is lowest at the more frequent label, whatever the odds are.",
                "binary_crossentropy.",
                evidence,
            )
        is_softmax = activation == "softmax" or (loss.from_logits and activation == "linear")
        if is_softmax and loss.name in _ONE_OF_MANY and _hold_several(target, units):
            yield Sign(
                output.path,
                f"{loss.name} is trained on rows that hold several classes, or none.",
                "A softmax shares one sum: it cannot say that two are there, or none.",
                "sigmoid (or from_logits=True) with binary_crossentropy.",
                evidence,
            )
        if units < 2 or loss.from_logits:
            continue
        if activation == "softmax" and loss.name == "binary_crossentropy":
            several = target.shape == (units,) and not target.is_one_hot
            yield Sign(
                output.path,
                f"a softmax over {units} units is trained with binary_crossentropy.",
                "The units share one sum, the loss judges each alone: "
                + ("rows with several labels cannot be met." if several else "metrics mislead."),
                "sigmoid for labels that may be several, categorical_crossentropy for one of many.",
                evidence,
                severity="fault" if several else None,
            )
        elif activation == "sigmoid" and "categorical" in loss.name:
            yield Sign(
                output.path,
                f"{units} sigmoid units are trained with {loss.name}.",
                "Sigmoids do not sum to 1; the loss divides by their sum, which blunts gradients.",
                "activation='softmax'; for labels that may be several, binary_crossentropy.",
                evidence,
            )
        elif activation == "softmax" and loss.name in REGRESSION and _off_simplex(target, units):
            yield Sign(
                output.path,
                f"a softmax over {units} units is trained with {loss.name} on rows that do not sum "
                "to 1.",
                "What a softmax gives sums to 1: such rows cannot be met.",
                "sigmoid with binary_crossentropy for labels that may be several, or no activation "
                "for quantities.",
                evidence,
                severity="fault",
                confidence=0.95,
            )
        elif (
            activation in ("softmax", "sigmoid")
            and loss.name in REGRESSION
            and target.classes is not None
        ):
            yield Sign(
                output.path,
                f"{activation} over {units} classes is trained with {loss.name}.",
                "Its gradient has the factor p(1 - p): answers sure and wrong hardly learn.",
                "softmax with categorical_crossentropy (sparse_ for integer labels).",
                evidence,
                confidence=None if activation == "softmax" else 0.6,
            )


def _hold_several(target: ArrayFact, units: int) -> bool:
    """Whether rows of 0 and 1, more of them than a few odd ones, have not exactly one 1."""
    if target.shape != (units,) or not target.is_number or not target.sample.size:
        return False
    return bool(
        np.isin(target.sample, (0, 1)).all() and ((target.sample != 0).sum(1) != 1).mean() > 0.1
    )


def _off_simplex(target: ArrayFact, units: int) -> bool:
    """Whether rows, more of them than a few odd ones, are no shares that sum to 1."""
    if target.shape != (units,) or not target.is_number:
        return False
    sums = target.sample.astype(np.float64).sum(1)
    return bool((np.abs(sums - 1) > _SLACK).mean() > 0.1)

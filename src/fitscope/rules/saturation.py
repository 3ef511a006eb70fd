"""Activations pushed into their flat part, where almost no gradient comes back.

An output layer is meant to saturate when it is sure of its answer, so sites whose layer gives the
model's output are left out, and so are the softmax layers inside a model.

Formula: the share of values where the activation's own slope is below 2% of its largest (the
limits stand in docs/statistics.md), >= `share` in each observed step of a stretch of at least 10
up to the end, and at least a quarter of all observed.

Source: Glorot and Bengio (2010), 4; half of a layer as in SageMaker Debugger's tanh rule.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from fitscope.rules.outputs import output_paths
from fitscope.rules.rule import Sign, rule
from fitscope.rules.series import MIN_STEPS, lasting_tail, series_of, when
from fitscope.rules.switching import activation_of, can_saturate
from fitscope.terminal.numbers import percent

if TYPE_CHECKING:
    from fitscope.run.reader import Run

MIN_STRETCH = 0.25
# Sure answers are what these are for: a one-hot softmax is not a fault.
MEANT_TO_SATURATE = frozenset({"softmax", "log_softmax", "sparsemax"})


@rule(
    "saturation",
    "Half the values of a hidden layer or more lie in the flat part of its activation.",
    severity="warning",
    explains=("constant_output", "loss_flat", "no_better_than_constant", "metric_flat",
              "vanishing_gradients", "weights_barely_moved", "unchanged_weights",
              "layer_left_behind", "effective_rank", "update_ratio"),
    confidence=0.8,
)  # fmt: skip
def saturation(run: Run, *, share: float = 0.5, min_steps: int = MIN_STEPS) -> Iterator[Sign]:
    """Find hidden layers of which half the values or more are saturated, step after step."""
    outputs = output_paths(run)
    candidates = {
        site.name: site
        for site in run.sites
        if can_saturate(site)
        and site.path not in outputs
        and (activation_of(site) or "").lower() not in MEANT_TO_SATURATE
    }
    for name, series in series_of(run, ["saturated_fraction"], list(candidates)).items():
        known = np.isfinite(series["saturated_fraction"])
        shares, steps = series["saturated_fraction"][known], series.steps[known]
        stretch = lasting_tail(shares >= share)
        if stretch < max(min_steps, MIN_STRETCH * len(shares)):
            continue
        lowest = float(shares[-stretch:].min())
        activation = activation_of(candidates[name])
        yield Sign(
            name,
            f"at least {percent(lowest)} of the values lay in the flat part of {activation} "
            f"{when(stretch, len(shares))}.",
            "Almost no gradient passes there.",
            "scale the input, put a normalization before the activation, or a smaller initializer.",
            {
                "lowest_share": lowest,
                "median_share": float(np.median(shares[-stretch:])),
                "activation": activation,
                "observed_steps": stretch,
                "threshold_share": share,
                "threshold_steps": min_steps,
            },
            first_step=int(steps[-stretch]),
            last_step=int(steps[-1]),
        )

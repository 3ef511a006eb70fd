"""Activations pushed into their flat part, where almost no gradient comes back.

An output layer is meant to saturate when it is sure of its answer, so sites whose layer gives
the model's output are left out, and so are the softmax layers inside a model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fitscope.rules.finding import Finding
from fitscope.rules.outputs import output_paths
from fitscope.rules.series import MIN_STEPS, lasting_tail, series_of, when
from fitscope.rules.switching import activation_of, can_saturate
from fitscope.terminal.numbers import percent

if TYPE_CHECKING:
    from fitscope.run.reader import Run

NAME = "saturation"
# Half of a layer, as in SageMaker Debugger's tanh and sigmoid rules.
SHARE = 0.5
MIN_STRETCH = 0.25
# Sure answers are what these are for: a one-hot softmax is not a fault.
MEANT_TO_SATURATE = frozenset({"softmax", "log_softmax", "sparsemax"})


def saturation(run: Run) -> list[Finding]:
    """Find hidden layers of which half the values or more are saturated, step after step.

    Args:
        run: The run to read.
    """
    outputs = output_paths(run)
    candidates = {
        site.name: site
        for site in run.sites
        if can_saturate(site)
        and site.path not in outputs
        and (activation_of(site) or "").lower() not in MEANT_TO_SATURATE
    }
    findings: list[Finding] = []
    for name, series in series_of(run, ["saturated_fraction"], list(candidates)).items():
        known = np.isfinite(series["saturated_fraction"])
        shares, steps = series["saturated_fraction"][known], series.steps[known]
        stretch = lasting_tail(shares >= SHARE)
        if stretch < max(MIN_STEPS, MIN_STRETCH * len(shares)):
            continue
        lowest = float(shares[-stretch:].min())
        activation = activation_of(candidates[name])
        findings.append(
            Finding(
                rule=NAME,
                severity="warning",
                site=name,
                first_step=int(steps[-stretch]),
                last_step=int(steps[-1]),
                message=(
                    f"At least {percent(lowest)} of the values of {name} lay in the flat part of "
                    f"{activation} {when(stretch, len(shares), int(steps[-stretch]))}; almost no "
                    "gradient passes there."
                ),
                evidence={
                    "lowest_share": lowest,
                    "median_share": float(np.median(shares[-stretch:])),
                    "activation": activation,
                    "observed_steps": stretch,
                    "threshold_share": SHARE,
                    "threshold_steps": MIN_STEPS,
                },
                remedy=(
                    "Scale the layer's input (normalize it, or put a normalization layer before "
                    "the activation), use a smaller initializer or a lower learning rate, or an "
                    "activation without two flat ends."
                ),
            )
        )
    return findings

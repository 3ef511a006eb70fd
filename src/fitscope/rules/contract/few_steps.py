"""Hardly any optimizer steps.

Formula: epochs * ceil(rows / batch_size). A batch as large as the data makes one step an epoch.
Under Adam and its like a step moves a weight by the learning rate at most, so that all n steps
change the output of a unit with k inputs by n * rate * k mean|x|, where it is rms(weights) *
sqrt(k) * rms(x) large: by n * rate * sqrt(k) / rms(weights) of its size, the median over layers.

Fires on: fewer than `steps` steps, or a change below `reach` while a single step is of common
length (0.001 of the weight or more). It becomes as grave as what follows from it: a note before the
first step, a warning once the training has ended no better than a constant answer.

Source: Kingma and Ba (2015), "Adam", 2.1; Karpathy, update ratio near 1e-3; Keskar et al. (2017),
"On Large-Batch Training"; Humbatova et al. (2020), wrong batch size and number of epochs.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fitscope.rules.contract.learning_rate import BOUNDED_STEP
from fitscope.rules.fit import Fit
from fitscope.rules.rule import Sign, rule
from fitscope.terminal.numbers import count, percent

COMMON = 1e-3
"""The change of a weight in a step, in its own size, from which on steps are not too short."""


@rule(
    "few_steps",
    "The whole training is a handful of steps.",
    severity="note",
    stage="contract",
    explains=("stopped_early", "weights_barely_moved", "no_better_than_constant", "loss_flat",
              "metric_flat"),
    confidence=0.5,
)  # fmt: skip
def few_steps(fit: Fit, *, steps: int = 30, reach: float = 0.2) -> Iterator[Sign]:
    """Find trainings that end before they begin."""
    total = fit.total_steps
    rows = fit.inputs[0].rows if fit.inputs and fit.inputs[0].whole else None
    if total is None or rows is None or fit.resumed or fit.custom_step:
        return
    moved = _reach(fit, total)
    short = moved is not None and moved < reach
    if total >= steps and not short:
        return
    yield Sign(
        "fit",
        f"the whole training is {total} steps: "
        f"{fit.epochs} epoch{'s' * (fit.epochs > 1)} of {fit.steps}.",
        f"Together they change what a unit gives by at most {percent(moved)} of its size."
        if short and moved is not None
        else f"{count(rows)} rows in batches of {fit.batch_size} give few updates of the weights.",
        "a smaller batch_size, or more epochs.",
        {"steps": total, "batch_size": fit.batch_size, "rows": rows, "threshold": steps,
         "reach": moved, "threshold_reach": reach},
    )  # fmt: skip


def _reach(fit: Fit, steps: int) -> float | None:
    """By how much of its size all steps can change what a unit gives; `None` where not bounded."""
    optimizer = fit.optimizer
    if optimizer is None or optimizer.name not in BOUNDED_STEP:
        return None
    rate = optimizer.learning_rate
    if not rate or optimizer.options.get("scheduled"):
        return None
    kernels = [k for la in fit.layers if la.kind != "Embedding" and (k := la.kernel)]
    kernels = [k for k in kernels if k.trainable and np.isfinite(k.rms) and k.rms > 0]
    # Steps that are too short themselves are the learning rate's matter.
    if not kernels or rate / np.median([k.rms for k in kernels]) < COMMON:
        return None
    return float(steps * rate * np.median([np.sqrt(k.fan_in) / k.rms for k in kernels]))

"""Hardly any optimizer steps.

Formula: epochs * ceil(rows / batch_size). A batch as large as the data makes one step an epoch.

Source: Keskar et al. (2017), "On Large-Batch Training"; Humbatova et al. (2020), wrong batch size
and number of epochs.
"""

from __future__ import annotations

from collections.abc import Iterator

from fitscope.rules.fit import Fit
from fitscope.rules.rule import Sign, rule
from fitscope.terminal.numbers import count


@rule(
    "few_steps",
    "The whole training is a handful of steps.",
    severity="note",
    stage="contract",
    explains=("stopped_early", "weights_barely_moved"),
    confidence=0.5,
)
def few_steps(fit: Fit, *, steps: int = 30) -> Iterator[Sign]:
    """Find trainings that end before they begin."""
    total = fit.total_steps
    rows = fit.inputs[0].rows if fit.inputs and fit.inputs[0].whole else None
    if total is None or total >= steps or rows is None or fit.resumed or fit.custom_step:
        return
    yield Sign(
        "fit",
        f"the whole training is {total} steps: {fit.epochs} epochs of {fit.steps}.",
        f"{count(rows)} rows in batches of {fit.batch_size} give few updates of the weights.",
        "a smaller batch_size, or more epochs.",
        {"steps": total, "batch_size": fit.batch_size, "rows": rows, "threshold": steps},
    )

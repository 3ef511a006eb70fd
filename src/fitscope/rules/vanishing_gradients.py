"""Gradients that vanish, or explode, along depth.

Formula: for each weight, the median over the observed steps of rms(weight gradient). Over the
layers in the order of the model a line is fitted through log10 of these, so that not one odd layer
decides; its fall from the last layer to the first is above `decades` and at least 0.3 decades a
layer. Under an optimizer that divides by the gradient's size (Adam and its like), small gradients
still move weights; there the rule asks for twice as many decades.

Source: Hochreiter (1991); Glorot and Bengio (2010); Kingma and Ba (2015) for the scale invariance.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from fitscope.rules.contract.learning_rate import BOUNDED_STEP
from fitscope.rules.history import of_fit
from fitscope.rules.rule import Sign, rule
from fitscope.rules.series import series_of
from fitscope.terminal.numbers import compact

if TYPE_CHECKING:
    from fitscope.run.reader import Run


@rule(
    "vanishing_gradients",
    "Gradients get smaller by orders of magnitude towards the first layers.",
    severity="warning",
    explains=("weights_barely_moved", "loss_flat", "no_better_than_constant", "metric_flat",
              "layer_left_behind", "effective_rank", "update_ratio", "constant_output"),
    confidence=0.8,
)  # fmt: skip
def vanishing_gradients(run: Run, *, decades: float = 3.0, min_layers: int = 3) -> Iterator[Sign]:
    """Find a profile of gradients that falls towards the input."""
    sizes = gradient_profile(run)
    if len(sizes) < min_layers:
        return
    logs = np.log10([size for _, size in sizes])
    slope = float(np.polyfit(np.arange(len(logs)), logs, 1)[0])
    fall = slope * (len(logs) - 1)
    wanted = decades * (2 if of_fit(run).get("optimizer") in BOUNDED_STEP else 1)
    if fall <= wanted or slope < 0.3:
        return
    first, last = sizes[0], sizes[-1]
    yield Sign(
        first[0],
        f"gradients have rms {compact(last[1])} at {last[0]}, {compact(first[1])} at {first[0]}.",
        "The first layers get next to no gradient, and stay as they began.",
        "relu in place of sigmoid or tanh, he_normal, normalization, or skip connections.",
        {"rms": dict(sizes), "decades": fall, "threshold": wanted},
    )


def gradient_profile(run: Run) -> list[tuple[str, float]]:
    """Median rms of the gradient of each kernel, in the order of the model; zeros are left out."""
    names = [s.name for s in run.sites if s.port == "weight_gradient"]
    found = []
    for name, series in series_of(run, ["rms"], names).items():
        values = series["rms"][np.isfinite(series["rms"])]
        if len(values) and float(np.median(values)) > 0 and "bias" not in name:
            found.append((name, float(np.median(values))))
    return found

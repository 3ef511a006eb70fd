"""One layer that learns next to nothing while the others learn.

`unchanged_weights` tells of layers in which not a bit changed, and `weights_barely_moved` of
trainings in which nothing moved. Between them is the layer that a thousandth of the gradient
reaches.

Formula: change = rms(after - before) / rms(before) of each kernel over the whole `fit`, not zero.
Told of a layer whose greatest change is below `share` of the median of all layers and below
`change`, while that median is at least ten times `change`; of three layers or more.

Source: Glorot and Bengio (2010), updates by layer; You et al. (2017), LARS.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from fitscope.rules.rule import Sign, rule
from fitscope.terminal.numbers import compact

if TYPE_CHECKING:
    from fitscope.run.reader import Run


@rule(
    "layer_left_behind",
    "One layer learns next to nothing while the others learn.",
    severity="warning",
    confidence=0.6,
)
def layer_left_behind(
    run: Run, *, share: float = 0.01, change: float = 1e-3, min_steps: int = 30
) -> Iterator[Sign]:
    """Find layers that hardly moved beside others that did."""
    records = [r for r in run.history if r.get("event") == "end"]
    if not records or records[-1]["step"] < min_steps:
        return
    moved: dict[str, float] = {}
    for weight in records[-1]["weights"]:
        if weight["rank"] > 1 and weight["rms"] > 0 and weight["finite"]:
            relative = float(weight["change"]) / float(weight["rms"])
            moved[weight["layer"]] = max(moved.get(weight["layer"], 0.0), relative)
    if len(moved) < 3:
        return
    middle = float(np.median(list(moved.values())))
    if middle < 10 * change:
        return
    behind = [n for n, m in moved.items() if 0 < m < min(share * middle, change)]
    if not behind:
        return
    steps = int(records[-1]["step"])
    others = f"; {len(behind) - 1} more like it" if len(behind) > 1 else ""
    yield Sign(
        behind[0],
        f"the kernel changed by {compact(moved[behind[0]])} of its size in {steps} steps, the "
        f"median one by {compact(middle)}{others}.",
        "It stays as it was initialized: next to no gradient comes to it.",
        "look between it and the loss: saturated or dead units, a tiny scale, no normalization.",
        {"relative_change": moved, "layers": behind, "threshold_share": share,
         "threshold_change": change},
        last_step=steps - 1,
    )  # fmt: skip

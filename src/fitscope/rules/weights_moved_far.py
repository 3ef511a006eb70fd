"""Weights that were thrown far from where they began.

Formula: rms(after - before) of a kernel over the whole `fit`, divided by rms(before) or, where that
is more, by 1 / sqrt(fan in), the size that keeps variances, is above `change`. A kernel that begins
small, or one of few weights that happens to, is meant to grow.

Source: Glorot and Bengio (2010); Pascanu et al. (2013), "On the difficulty of training recurrent
neural networks".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from fitscope.rules.rule import Sign, rule
from fitscope.terminal.numbers import compact

if TYPE_CHECKING:
    from fitscope.run.reader import Run


@rule(
    "weights_moved_far",
    "A layer's weights are many times larger than at the beginning.",
    severity="warning",
    explains=("dead_units", "saturation", "metric_flat", "constant_output", "loss_flat",
              "no_better_than_constant", "vanishing_gradients"),
    confidence=0.6,
)  # fmt: skip
def weights_moved_far(run: Run, *, change: float = 30.0) -> Iterator[Sign]:
    """Find weights that exploded."""
    records = [r for r in run.history if r.get("event") == "end"]
    kernels = [w for w in records[-1]["weights"] if w["rank"] > 1] if records else []
    # Weights that begin at zero, or nearly, have nowhere to go but far.
    moved = {w["layer"]: float(w["change"]) / _size(w) for w in kernels if w["rms"] > 1e-3}
    far = {layer: times for layer, times in moved.items() if times > change}
    if not far:
        return
    most = max(far, key=lambda layer: far[layer])
    yield Sign(
        most,
        f"the kernel moved by {compact(far[most])} times its own size.",
        "What it had at the beginning is gone after few steps: updates are too long.",
        "a learning rate ten times lower, or clipnorm=1.0.",
        {"relative_change": far, "threshold": change},
        last_step=int(records[-1]["step"]) - 1,
    )


def _size(weight: Mapping[str, Any]) -> float:
    """What a kernel's movement is held against; runs of earlier versions know no fan in."""
    fan_in = weight.get("fan_in")
    return max(float(weight["rms"]), fan_in**-0.5 if fan_in else 0.0)

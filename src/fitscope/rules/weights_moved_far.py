"""Weights that were thrown far from where they began.

Formula: rms(after - before) / rms(before) of a kernel over the whole `fit` is above `change`.

Source: Pascanu et al. (2013), "On the difficulty of training recurrent neural networks".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fitscope.rules.rule import Sign, rule
from fitscope.terminal.numbers import compact

if TYPE_CHECKING:
    from fitscope.run.reader import Run


@rule(
    "weights_moved_far",
    "A layer's weights are many times larger than at the beginning.",
    severity="warning",
    explains=("dead_units", "saturation", "metric_flat", "constant_output", "loss_flat",
              "no_better_than_constant"),
    confidence=0.6,
)  # fmt: skip
def weights_moved_far(run: Run, *, change: float = 30.0) -> Iterator[Sign]:
    """Find weights that exploded."""
    records = [r for r in run.history if r.get("event") == "end"]
    kernels = [w for w in records[-1]["weights"] if w["rank"] > 1] if records else []
    # Weights that begin at zero, or nearly, have nowhere to go but far.
    moved = {w["layer"]: float(w["change"]) / w["rms"] for w in kernels if w["rms"] > 1e-3}
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

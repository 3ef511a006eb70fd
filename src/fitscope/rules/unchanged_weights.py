"""A layer whose weights did not change in a bit.

Formula: up to 4,096 values of each trainable kernel, at an even stride, before and after at least
`min_steps` steps. An optimizer that is given any gradient but zero changes bits, so equality says
that none arrived, or that every step was skipped. Where all kernels are so, the cause lies at the
loss; where one is, it lies at that layer.

Source: the update rules; SageMaker Debugger, unchanged tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fitscope.rules.rule import Sign, rule

if TYPE_CHECKING:
    from fitscope.run.reader import Run


@rule(
    "unchanged_weights",
    "A layer that may learn did not: not a bit of its weights changed.",
    severity="fault",
    explains=("loss_flat", "no_better_than_constant", "metric_flat", "weights_barely_moved",
              "vanishing_gradients", "attention", "effective_rank", "update_ratio"),
    confidence=0.95,
)  # fmt: skip
def unchanged_weights(run: Run, *, min_steps: int = 10) -> Iterator[Sign]:
    """Find layers that no gradient reached."""
    records = [r for r in run.history if r.get("event") == "end"]
    if not records or records[-1]["step"] < min_steps:
        return
    # By layer: a recurrent kernel gets no gradient from sequences of one step, its layer does.
    kernels: dict[str, bool] = {}
    for weight in records[-1]["weights"]:
        if weight["rank"] > 1:
            layer = weight["layer"]
            kernels[layer] = kernels.get(layer, True) and bool(weight["equal"])
    still = [layer for layer, equal in kernels.items() if equal]
    if not still:
        return
    steps = int(records[-1]["step"])
    every = len(still) == len(kernels)
    others = f" ({len(still) - 1} more layers, too)" if len(still) > 1 else ""
    yield Sign(
        "fit" if every else still[0],
        f"no weight changed in {steps} steps."
        if every
        else f"not a bit of the kernel changed in {steps} steps{others}.",
        "No gradient arrives: the output is constant, or nothing leads from here to the loss.",
        "look at the last activation and the loss."
        if every
        else "check that the layer is called, and what stands behind it (dead units, argmax).",
        {"layers": still[:20], "kernels": len(kernels), "steps": steps},
        last_step=steps - 1,
    )

"""Gradients that are clipped to next to nothing.

Formula: clipping bounds the norm of a gradient by c (`clipnorm` of each weight, `global_clipnorm`
of all; `clipvalue` bounds each element, so c = value * sqrt(elements)). Plain gradient descent then
moves a weight by at most rate * c in a step, times 1 / (1 - momentum). Told where all steps
together cannot move any kernel by `small` of its norm; where their number is not known, where one
step cannot by `step`, which float32 rounds away. Adam and its like divide by the gradient's size,
so clipping does not shorten their steps until it comes down to their epsilon of 1e-7: told where no
element can be larger than `epsilon`. A limit of 0 or below is always told.

Source: Pascanu et al. (2013), "On the difficulty of training recurrent neural networks";
keras.optimizers.Optimizer.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fitscope.rules.contract.learning_rate import BOUNDED_STEP
from fitscope.rules.fit import Fit, WeightFact
from fitscope.rules.rule import Sign, rule
from fitscope.terminal.numbers import compact

_LIMITS = ("clipnorm", "global_clipnorm", "clipvalue")


@rule(
    "gradient_clipping",
    "Gradients are clipped to next to nothing.",
    severity="warning",
    stage="contract",
    explains=("unchanged_weights", "weights_barely_moved", "update_ratio", "loss_flat",
              "no_better_than_constant", "metric_flat", "stopped_early", "layer_left_behind",
              "attention", "effective_rank"),
    confidence=0.9,
)  # fmt: skip
def gradient_clipping(
    fit: Fit, *, small: float = 1e-3, step: float = 1e-7, epsilon: float = 1e-8
) -> Iterator[Sign]:
    """Find limits that leave no gradient."""
    optimizer = fit.optimizer
    kernels = [la.kernel for la in fit.layers if la.kernel and la.kernel.trainable]
    if optimizer is None or fit.custom_step or not kernels:
        return
    given = {n: float(v) for n in _LIMITS if (v := optimizer.options.get(n)) is not None}
    for name, limit in given.items():
        evidence = {name: limit, "learning_rate": optimizer.learning_rate, "steps": fit.total_steps}
        if limit <= 0:
            said = "no gradient is left."
        elif optimizer.name in BOUNDED_STEP:
            if limit > epsilon:
                continue
            said = f"gradients stay below the epsilon of {optimizer.name}, which is 1e-7."
        else:
            moved = _reach(fit, name, limit, kernels)
            least = step if fit.total_steps is None else small
            if moved is None or moved >= least:
                continue
            evidence["relative_change"] = moved
            together = "a step" if fit.total_steps is None else "all steps together"
            said = f"{together} cannot change a kernel by more than {compact(moved)} of it."
        yield Sign(
            "optimizer",
            f"{name}={compact(limit)}: {said}",
            "The weights stay where they began, whatever the gradients say.",
            "a limit of about the gradients' usual size, 1.0 for example, or none.",
            evidence,
        )


def _reach(fit: Fit, name: str, limit: float, kernels: list[WeightFact]) -> float | None:
    """The greatest relative change of a kernel in all steps, or in one if those are not known."""
    optimizer = fit.optimizer
    if optimizer is None or not optimizer.learning_rate:
        return None
    momentum = min(float(optimizer.options.get("momentum") or 0.0), 0.999)
    length = optimizer.learning_rate * limit / (1 - momentum) * (fit.total_steps or 1)
    norms = []
    for kernel in kernels:
        root = float(np.sqrt(np.prod(kernel.shape)))
        norm = kernel.rms * root
        if norm > 0:
            norms.append((root if name == "clipvalue" else 1.0) / norm)
    return max(norms, default=0.0) * length or None

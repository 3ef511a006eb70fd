"""A loss scale that finds no place, or that the training goes past.

In float16 Keras multiplies the loss by 32,768 and divides the gradients again. Where a gradient
overflows the step is skipped and the scale halved; after 2,000 good steps it is doubled. So it
settles within a few steps. Where it falls on and on, overflow is not what is wrong.

Formula: over a whole `fit`, of `steps` the updates of `skipped` were left out, as the optimizer's
own counter tells. A fault where at least half were, a warning from `share` on, the first `settling`
steps not counted. A scale at or below 1 at the end is a fault where the last observed steps
were still skipped, and a warning where not: gradients then reach 65,504 by themselves, and small
ones underflow as without a scale.
A model with a `train_step` of its own that never multiplies: weight gradients were watched, the
optimizer scales, and no scale was seen. Then updates are divided by a scale nothing carries.

Source: Micikevicius et al. (2018), "Mixed Precision Training", 3.2; keras.optimizers
.LossScaleOptimizer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from fitscope.rules.execution import SCALE
from fitscope.rules.history import of_fit
from fitscope.rules.rule import Sign, rule
from fitscope.rules.series import MIN_STEPS, Series, series_of
from fitscope.terminal.numbers import compact, count

if TYPE_CHECKING:
    from fitscope.run.reader import Run


@rule(
    "loss_scale",
    "The loss scale keeps falling, or is not used.",
    severity="warning",
    explains=("unchanged_weights", "weights_barely_moved", "loss_flat", "no_better_than_constant",
              "metric_flat", "gradient_underflow", "layer_left_behind", "update_ratio"),
    confidence=0.9,
)  # fmt: skip
def loss_scale(run: Run, *, share: float = 0.1, settling: int = 20) -> Iterator[Sign]:
    """Find steps that were skipped, and scales that are lost."""
    fit = of_fit(run)
    scales = _scales(run)
    if scales is None and _goes_past(run, fit):
        yield Sign(
            "optimizer",
            "gradients are divided by a loss scale that the own train_step does not multiply by.",
            "Updates are thousands of times too small, and float16 gradients underflow.",
            "loss = self.optimizer.scale_loss(loss), before the gradients are taken.",
        )
        return
    ends = [r for r in run.history if r.get("event") == "end" and r.get("loss_scale")]
    if ends:
        sign = _whole(ends[-1], scales, share, settling)
    else:
        sign = None if scales is None else _so_far(scales, share, settling)
    if sign is not None:
        yield sign


def _whole(end: dict[str, Any], scales: Series | None, share: float, settling: int) -> Sign | None:
    """Of a `fit` that is over."""
    known = end["loss_scale"]
    steps, skipped, scale = int(known["steps"]), int(known["skipped"]), float(known["scale"])
    if steps < MIN_STEPS:
        return None
    first = 0 if scales is None else int(scales.steps[0])
    lasting = _still_falling(scales) if scales is not None else skipped > steps // 2
    return _sign(steps, skipped, scale, lasting, share, settling, (first, int(end["step"]) - 1))


def _so_far(scales: Series, share: float, settling: int) -> Sign | None:
    """Of a training that goes on: only what the observed steps tell."""
    values = scales[SCALE]
    if len(values) < MIN_STEPS:
        return None
    # A scale that fell between two observed steps did so by halves.
    halved = np.log2(values[:-1] / values[1:])
    skipped = int(np.maximum(np.round(halved), 0).sum())
    steps = int(scales.steps[-1] - scales.steps[0]) + 1
    span = (int(scales.steps[0]), int(scales.steps[-1]))
    return _sign(steps, skipped, float(values[-1]), _still_falling(scales), share, settling, span)


def _sign(
    steps: int, skipped: int, scale: float, lasting: bool, share: float, settling: int,
    span: tuple[int, int],
) -> Sign | None:  # fmt: skip
    part = max(0, skipped - settling) / max(1, steps - settling)
    lost = scale <= 1
    if part < share and not lost:
        return None
    every = skipped >= steps
    grave = every or part >= 0.5 or (lost and lasting)
    skips = f"{'all' if every else count(skipped)} of {count(steps)} updates were skipped"
    return Sign(
        "optimizer",
        f"{skips}, their gradients not finite; the loss scale is down to {compact(scale)}.",
        "No scale helps: outputs or the loss overflow, or gradients do by themselves."
        if grave
        else "Each skipped step is lost, and at a low scale small gradients become 0.",
        "watch of='weight_gradient' to see where; scale inputs and targets; or mixed_bfloat16.",
        {"steps": steps, "skipped": skipped, "share": part, "scale": scale,
         "threshold_share": share, "settling": settling},
        *span,
        severity="fault" if grave else None,
    )  # fmt: skip


def _scales(run: Run) -> Series | None:
    """The loss scale over the observed steps; None where it was not recorded."""
    if SCALE not in run.user_statistics:
        return None
    for series in series_of(run, [SCALE]).values():
        known = np.isfinite(series[SCALE]) & (series[SCALE] > 0)
        if known.any():
            return Series(series.steps[known], {SCALE: series[SCALE][known]})
    return None


def _still_falling(scales: Series | None) -> bool:
    values = scales[SCALE][-3:] if scales is not None else np.zeros(0)
    return len(values) == 3 and bool((np.diff(values) < 0).all())


def _goes_past(run: Run, fit: dict[str, Any]) -> bool:
    watched = any(s.port == "weight_gradient" for s in run.sites)
    return bool(watched and fit.get("scales_loss") and fit.get("custom_step"))

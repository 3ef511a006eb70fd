"""A loss of zero that the model did not earn.

A model that has just begun is wrong on something. A loss of zero from its first steps on says that
nothing is measured: the targets are compared with themselves, every sample is masked out or has
the weight 0, or the model's own step does not report what it trains.

Formula: |loss| <= `share` of the loss of the best constant answer (exactly zero where that is not
known) in every observed step from the first on, at least `min_steps` of them. A loss that comes to
zero later is told of only where gradients go on: the median rms of a weight gradient while the loss
is exactly zero is above `gradient` of that before it. A loss at its least has no gradient, and one
that only rounds to zero has next to none.

Losses that may be zero for good reasons are left out: a `fit` that goes on from an earlier one, and
losses that come to zero as they are learned.

Source: Keras' losses, which divide a sum over samples by their number; Zhang et al. (2018), "An
Empirical Study on TensorFlow Program Bugs", for losses of the wrong tensors.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from fitscope.rules.history import Curve, batches, of_fit
from fitscope.rules.rule import Sign, rule
from fitscope.rules.series import MIN_STEPS, lasting_tail, series_of, when
from fitscope.terminal.numbers import compact, count

if TYPE_CHECKING:
    from fitscope.run.reader import Run

# Observed steps with a loss and without one that gradients are compared over.
_FEW = 3


@rule(
    "loss_zero",
    "The loss is zero, and not because the model is right.",
    severity="fault",
    explains=("loss_flat", "metric_flat", "no_better_than_constant", "unchanged_weights",
              "weights_barely_moved", "vanishing_gradients", "update_ratio", "layer_left_behind"),
    confidence=0.9,
)  # fmt: skip
def loss_zero(
    run: Run, *, share: float = 1e-6, gradient: float = 0.01, min_steps: int = 5
) -> Iterator[Sign]:
    """Find losses that measure nothing."""
    fit, curve = of_fit(run), batches(run)
    if len(curve) < min_steps or fit.get("resumed"):
        return
    limit = share * float(fit.get("constant_answer_loss") or 0.0)
    size = np.abs(curve.values)
    zero = size <= limit
    if zero.all():
        yield _from_the_start(curve, limit, own=bool(fit.get("custom_step")))
        return
    stretch = lasting_tail(size == 0)
    if stretch >= max(min_steps, MIN_STEPS):
        yield from _with_gradients(run, curve, stretch, gradient)


def _from_the_start(curve: Curve, limit: float, *, own: bool) -> Sign:
    largest = float(np.abs(curve.values).max())
    first, last = int(curve.steps[0]), int(curve.steps[-1])
    value = "exactly 0" if largest == 0 else f"at most {compact(largest)}"
    said = f"the loss was {value} in each of the {count(len(curve))} observed steps."
    evidence = {"largest": largest, "observed_steps": len(curve), "threshold": limit}
    if own:
        return Sign(
            "loss", said,
            "Its own train_step does not update Keras' tracker of the loss: rules on it are blind.",
            "self._loss_tracker.update_state(loss), or return {'loss': loss} from train_step.",
            evidence, first, last, severity="note", confidence=0.6,
        )  # fmt: skip
    return Sign(
        "loss", said,
        "A model that has just begun is not right on everything: nothing is measured.",
        "compare the loss of two arrays by hand; look for masks of 0, and targets made of outputs.",
        evidence, first, last,
    )  # fmt: skip


def _with_gradients(run: Run, curve: Curve, stretch: int, least: float) -> Iterator[Sign]:
    """Gradients that go on while the loss is zero to the last bit."""
    began = int(curve.steps[-stretch])
    names = [s.name for s in run.sites if s.port == "weight_gradient"]
    kept: dict[str, float] = {}
    for name, series in series_of(run, ["rms"], names).items():
        before = series["rms"][series.steps < began]
        after = series["rms"][series.steps >= began]
        if min(len(before), len(after)) < _FEW:
            continue
        middle = float(np.median(before))
        if np.isfinite(middle) and middle > 0:
            kept[name] = float(np.median(after)) / middle
    if not kept or max(kept.values()) <= least:
        return
    most = max(kept, key=lambda name: kept[name])
    yield Sign(
        "loss",
        f"the loss was 0 {when(stretch, len(curve))}; {most} kept {compact(kept[most])} of its "
        "rms.",
        "A loss at its least has no gradient: what is reported is not what is trained.",
        "look at what else is added to the loss, and at masks and sample weights.",
        {"gradient_kept": kept, "observed_steps": stretch, "threshold_gradient": least},
        began,
        int(curve.steps[-1]),
        severity="warning",
        confidence=0.7,
    )

"""Signals that explode or vanish along the depth of the model.

Formula: in the first observed step, the rms of the hidden outputs; the greatest over the least of
those in a chain of float outputs is above `ratio` to the power of the square root of their number,
or one is above `large`. Attention masks and embeddings of zeros are not meant: sites with an rms
of 0 are left to other rules.

Source: Glorot and Bengio (2010); SageMaker Debugger, poor initialization.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from fitscope.rules.rule import Sign, rule
from fitscope.rules.series import series_of
from fitscope.terminal.numbers import compact

if TYPE_CHECKING:
    from fitscope.run.reader import Run

_HELD = frozenset({"softmax", "sigmoid", "tanh", "hard_sigmoid", "softsign"})

_OF_A_RATIO = ("loss_diverges", "loss_oscillates", "vanishing_gradients", "exploding_gradients",
               "weights_barely_moved", "update_ratio")  # fmt: skip


@rule(
    "signal_scale",
    "Outputs grow or shrink by orders of magnitude from layer to layer.",
    severity="warning",
    explains=("loss_diverges", "loss_oscillates", "vanishing_gradients", "exploding_gradients",
              "weights_barely_moved", "update_ratio", "non_finite", "loss_non_finite"),
    confidence=0.6,
)  # fmt: skip
def signal_scale(run: Run, *, ratio: float = 50.0, large: float = 1e4) -> Iterator[Sign]:
    """Find the layer at which the scale is lost."""
    sites = {site.name: site for site in run.sites if site.port == "output"}
    sizes: list[tuple[str, float, int]] = []
    for name, series in series_of(run, ["rms"]).items():
        site = sites.get(name)
        if site is None or site.activation in _HELD or not len(series):
            continue
        value = float(series["rms"][0])
        if np.isfinite(value) and value > 0:
            sizes.append((name, value, int(series.steps[0])))
    if len(sizes) < 2:
        return
    values = np.array([value for _, value, _ in sizes])
    limit = ratio ** float(np.sqrt(len(sizes)))
    least, most = int(values.argmin()), int(values.argmax())
    times = float(values[most] / values[least])
    if times <= limit and values[most] <= large:
        return
    grows = most > least or values[most] > large
    # Depth multiplies: only a trend along the model is one, not a single small branch.
    order = np.argsort(values)
    if times > limit and abs(int(order[-1]) - int(order[0])) < len(sizes) // 2:
        return
    place = most if grows else least
    name, value, step = sizes[place]
    begin = f"outputs go from rms {compact(values[0])} at {sizes[0][0]} to {compact(value)}"
    yield Sign(
        name,
        f"outputs have rms {compact(value)} from the first layer on."
        if place == 0
        else f"{begin} at {name}.",
        "Gradients scale alike: some layers get too long steps, others none.",
        "scale the inputs, kernel_initializer='he_normal', or a normalization between the layers.",
        {"rms": {n: v for n, v, _ in sizes[:50]}, "ratio": times, "threshold": limit},
        first_step=step,
        last_step=step,
        # Only what is huge already is on its way to infinity.
        explains=None if values[most] > large else _OF_A_RATIO,
    )

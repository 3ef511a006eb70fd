"""Gradients too small for float16.

float16 is a grid with steps of 2^-24 (6e-8) near zero: below 2^-21 (4.8e-7) at most three bits of
a value are left, and below 2^-25 nothing. A layer whose gradients lie down there on their way back
learns from rounding errors, or not at all.

Formula: of float16 gradients, as they were in the step (with the loss scale in them), the share of
the nonzero values below 2^-21 over all observed steps; told above `share`. A layer where less than
`least` of the values are not zero is told of too, where its output is not zero and other gradients
of the model are not: its gradient was lost on the way.

Needs gradients: `fs.watch("**", of=["output", "gradient"])`.

Source: Micikevicius et al. (2018), "Mixed Precision Training", figure 3; IEEE 754 binary16.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from fitscope.rules.execution import SCALE
from fitscope.rules.rule import Sign, rule
from fitscope.rules.series import MIN_STEPS, Series, series_of
from fitscope.statistics.bins import BINS, ZERO_BINS, bin_edges
from fitscope.terminal.numbers import compact, count, percent

if TYPE_CHECKING:
    from fitscope.run.reader import Run

COARSE = 2.0**-21
"""Below it float16 holds at most three bits of a value."""


@rule(
    "gradient_underflow",
    "Gradients are too small for float16.",
    severity="warning",
    explains=("unchanged_weights", "weights_barely_moved", "layer_left_behind", "loss_flat",
              "vanishing_gradients", "no_better_than_constant", "metric_flat", "update_ratio"),
    confidence=0.8,
)  # fmt: skip
def gradient_underflow(
    run: Run, *, share: float = 0.5, least: float = 0.01, min_steps: int = MIN_STEPS
) -> Iterator[Sign]:
    """Find float16 gradients that have lost their bits."""
    names = [s.name for s in run.sites if s.port == "gradient" and s.dtype == "float16"]
    found = series_of(run, ["zero_fraction", "absmax"], names)
    if not found or max(map(len, found.values())) < min_steps:
        return
    scales = series_of(run, [SCALE], names) if SCALE in run.user_statistics else {}
    lost: dict[str, tuple[float, float]] = {}
    for name, series in found.items():
        part = _coarse(run, name, series, scales)
        zero = float(np.median(series["zero_fraction"]))
        lost[name] = (part, zero)
    carried = {n for n, (_, zero) in lost.items() if zero < 1 - least}
    told = [n for n, (part, _) in lost.items() if n in carried and part > share]
    gone = [n for n in lost if n not in carried and not _is_off(run, n)] if carried else []
    if not told and not gone:
        return
    first = (gone or told)[0]
    part, zero = lost[first]
    steps = found[first].steps
    others = len(told) + len(gone) - 1
    more = f"; {count(others)} more like it" if others else ""
    yield Sign(
        first,
        f"{percent(zero)} of its float16 values were 0"
        + (f", and {percent(part)} of the others below {compact(COARSE)}" if zero < 1 else "")
        + f", over {count(len(steps))} observed steps{more}.",
        "float16 loses bits down there, and everything below 6e-8: the layer learns from noise.",
        "a loss scale (the policy mixed_float16 brings one), or mixed_bfloat16.",
        {"coarse": part, "zero": zero, "layers": [*gone, *told][:20],
         "threshold_share": share, "threshold_nonzero": least},
        first_step=int(steps[0]),
        last_step=int(steps[-1]),
    )  # fmt: skip


def _coarse(run: Run, name: str, series: Series, scales: Mapping[str, Series]) -> float:
    """Share of the nonzero values of which float16 held three bits or fewer in the step."""
    counts = run.histogram(name, steps=[int(s) for s in series.steps]).counts.astype(np.float64)
    nonzero = counts.copy()
    nonzero[list(ZERO_BINS)] = 0
    if not nonzero.sum():
        return 0.0
    scale = 1.0
    if name in scales:
        known = scales[name][SCALE][np.isfinite(scales[name][SCALE])]
        # Recorded values are without the scale; its largest claims least.
        scale = float(known.max(initial=1.0))
    return float(nonzero[_FARTHEST * scale <= COARSE].sum() / nonzero.sum())


def _is_off(run: Run, name: str) -> bool:
    """Whether the layer itself put out nothing but zeros, which explains a gradient of zeros."""
    site = name.partition(":")[0]
    found = series_of(run, ["zero_fraction"], [site]) if site in run.sites.names else {}
    series = found.get(site)
    return series is None or float(np.median(series["zero_fraction"])) > 0.99


def _farthest() -> np.ndarray:
    low, high = bin_edges(np.arange(BINS))
    return np.fmax(np.abs(low), np.abs(high))


_FARTHEST = _farthest()

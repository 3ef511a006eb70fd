"""Units that stay off: a layer that has lost most of its capacity.

A unit is off in a step when it gives the activation's floor (zero for a ReLU) for every sample of
the batch. One such step says little: a small batch, or a feature that is rare. So the rule asks
for a large share in every observed step of a long stretch up to the end. The records hold the
share and not which units, so the message claims no more than that.

Formula: dead_units / units >= `share` in each observed step of a stretch of at least 10 up to the
end, and at least a quarter of all observed; only batches of 16 values a unit or more count. Of
inputs that lie on one side (pixels, what a ReLU puts out) a unit of random direction is off for all
or for none, as a coin falls: as many units off as n coins show in one of five throws are a note.

Source: Lu et al. (2019), "Dying ReLU and Initialization"; half of a layer as in SageMaker
Debugger's dead_relu rule, which holds it against one step.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from fitscope.rules.rule import Sign, rule
from fitscope.rules.series import MIN_STEPS, lasting_tail, series_of, when
from fitscope.rules.switching import can_switch_off
from fitscope.terminal.numbers import percent

if TYPE_CHECKING:
    from fitscope.run.reader import Run

ALL_BUT_DEAD = 0.99
# The stretch must also cover this share of everything observed, or a late hiccup counts.
MIN_STRETCH = 0.25
# With fewer values of a unit in a step, "off in the whole batch" happens to healthy units.
MIN_VALUES_PER_UNIT = 16
ONE_IN_FIVE = 0.8416
"""Deviations that a normal variable is above in one of five draws."""


@rule(
    "dead_units",
    "Half the units of a layer or more stay off.",
    severity="warning",
    explains=("constant_output", "loss_flat", "no_better_than_constant", "unchanged_weights",
              "metric_flat", "vanishing_gradients", "layer_left_behind", "effective_rank",
              "update_ratio"),
    confidence=0.8,
)  # fmt: skip
def dead_units(run: Run, *, share: float = 0.5, min_steps: int = MIN_STEPS) -> Iterator[Sign]:
    """Find layers of which half the units or more are off, step after step."""
    statistics = ["dead_fraction", "count", "units"]
    candidates = [site.name for site in run.sites if can_switch_off(site)]
    for site, series in series_of(run, statistics, candidates).items():
        per_unit = series["count"] / np.maximum(series["units"], 1)
        telling = (per_unit >= MIN_VALUES_PER_UNIT) & np.isfinite(series["dead_fraction"])
        shares, steps = series["dead_fraction"][telling], series.steps[telling]
        stretch = lasting_tail(shares >= share)
        if stretch < max(min_steps, MIN_STRETCH * len(shares)):
            continue
        lowest = float(shares[-stretch:].min())
        units = int(series["units"][telling][-1])
        first = int(steps[-stretch])
        all_dead = lowest >= ALL_BUT_DEAD
        by_chance = not all_dead and _as_coins_fall(float(np.median(shares[-stretch:])), units)
        whole = "all" if lowest >= 1 else f"at least {percent(lowest)} of the"
        how_long = when(stretch, len(shares))
        yield Sign(
            site,
            f"{whole} {units} units were off for the whole batch {how_long}.",
            "The layer passes nothing on, and gets no gradient."
            if all_dead
            else "A unit that is off for every sample gets no gradient and cannot come back.",
            "a lower learning rate, kernel_initializer='he_normal', or leaky_relu or elu.",
            {
                "lowest_share": lowest,
                "median_share": float(np.median(shares[-stretch:])),
                "units": units,
                "observed_steps": stretch,
                "values_per_unit": float(np.median(per_unit[telling])),
                "threshold_share": share,
                "threshold_steps": min_steps,
            },
            first_step=first,
            last_step=int(steps[-1]),
            severity="fault" if all_dead else "note" if by_chance else None,
            confidence=0.95 if all_dead else 0.5 if by_chance else None,
        )


def _as_coins_fall(share: float, units: int) -> bool:
    """Whether so large a share of heads comes in more than one of five throws of `units` coins."""
    # The normal approximation to the binomial, with its correction for whole numbers.
    distance = (share * units - 0.5 - units / 2) / (np.sqrt(units) / 2)
    return bool(distance < ONE_IN_FIVE)

"""Units that stay off: a layer that has lost most of its capacity.

A unit is off in a step when it gives the activation's floor (zero for a ReLU) for every sample
of the batch. One such step says little: a small batch, or a feature that is rare. So the rule
asks for a large share in every observed step of a long stretch up to the end. The records hold
the share and not which units, so the message claims no more than that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fitscope.rules.finding import Finding
from fitscope.rules.series import MIN_STEPS, lasting_tail, series_of, when
from fitscope.rules.switching import can_switch_off
from fitscope.terminal.numbers import percent

if TYPE_CHECKING:
    from fitscope.run.reader import Run

NAME = "dead_units"
# Half of a layer, as in SageMaker Debugger's dead_relu rule; there it is held against one step.
SHARE = 0.5
ALL_BUT_DEAD = 0.99
# The stretch must also cover this share of everything observed, or a late hiccup counts.
MIN_STRETCH = 0.25
# With fewer values of a unit in a step, "off in the whole batch" happens to healthy units.
MIN_VALUES_PER_UNIT = 16


def dead_units(run: Run) -> list[Finding]:
    """Find layers of which half the units or more are off, step after step.

    Args:
        run: The run to read.
    """
    findings: list[Finding] = []
    statistics = ["dead_fraction", "count", "units"]
    candidates = [site.name for site in run.sites if can_switch_off(site)]
    for site, series in series_of(run, statistics, candidates).items():
        per_unit = series["count"] / np.maximum(series["units"], 1)
        telling = (per_unit >= MIN_VALUES_PER_UNIT) & np.isfinite(series["dead_fraction"])
        shares, steps = series["dead_fraction"][telling], series.steps[telling]
        stretch = lasting_tail(shares >= SHARE)
        if stretch < max(MIN_STEPS, MIN_STRETCH * len(shares)):
            continue
        lowest = float(shares[-stretch:].min())
        units = int(series["units"][telling][-1])
        first = int(steps[-stretch])
        all_dead = lowest >= ALL_BUT_DEAD
        findings.append(
            Finding(
                rule=NAME,
                severity="error" if all_dead else "warning",
                site=site,
                first_step=first,
                last_step=int(steps[-1]),
                message=_message(site, lowest, units, when(stretch, len(shares), first)),
                evidence={
                    "lowest_share": lowest,
                    "median_share": float(np.median(shares[-stretch:])),
                    "units": units,
                    "observed_steps": stretch,
                    "values_per_unit": float(np.median(per_unit[telling])),
                    "threshold_share": SHARE,
                    "threshold_steps": MIN_STEPS,
                },
                remedy=(
                    "A ReLU unit that is off for every sample gets no gradient and cannot come "
                    "back by itself. Look at the bias initializer, lower the learning rate, add "
                    "normalization before the activation, or use leaky_relu, elu or gelu."
                ),
            )
        )
    return findings


def _message(site: str, lowest: float, units: int, in_steps: str) -> str:
    if lowest >= 1:
        return (
            f"All {units} units of {site} were off for the whole batch {in_steps}. The layer "
            "passes nothing on."
        )
    return (
        f"At least {percent(lowest)} of the {units} units of {site} were off for the whole batch "
        f"{in_steps}."
    )

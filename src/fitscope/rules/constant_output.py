"""A layer that says the same whatever comes in.

The rule looks at one deviation over all values of the output. A layer that is constant in each
unit, with another value from unit to unit, is not seen by it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fitscope.rules.finding import Finding
from fitscope.rules.series import MIN_STEPS, Series, lasting_tail, series_of, when
from fitscope.rules.switching import can_switch_off
from fitscope.terminal.numbers import compact, count

if TYPE_CHECKING:
    from fitscope.run.reader import Run
    from fitscope.select.site import Site

NAME = "constant_output"
# Two orders above the rounding of a float32 mean, so only bit-near equality counts.
RELATIVE_DEVIATION = 1e-5
MIN_STRETCH = 0.25
# A single number per step is constant by nature.
MIN_VALUES = 16


def constant_output(run: Run) -> list[Finding]:
    """Find the first layer whose output is one constant, step after step.

    Layers after it are constant for the same reason; they are counted, not listed. A layer with
    an activation that is all off is left to the rule `dead_units`.

    Args:
        run: The run to read.
    """
    sites = {site.name: site for site in run.sites if site.port == "output"}
    constant: list[tuple[str, Series, int]] = []
    for name, series in series_of(run, ["mean", "std", "count"]).items():
        site = sites.get(name)
        if site is None or series["count"].max(initial=0) < MIN_VALUES:
            continue
        stretch = lasting_tail(series["std"] <= RELATIVE_DEVIATION * np.abs(series["mean"]))
        if stretch >= max(MIN_STEPS, MIN_STRETCH * len(series)):
            constant.append((name, series, stretch))
    if not constant or _is_dead(sites[constant[0][0]], constant[0][1]):
        return []
    name, series, stretch = constant[0]
    first, last = int(series.steps[-stretch]), int(series.steps[-1])
    value = float(series["mean"][-1])
    others = len(constant) - 1
    message = (
        f"Every value of {name} was {compact(value)} in the last observed step, and the values "
        f"within a step were all equal {when(stretch, len(series), first)}: whatever comes in "
        "makes no difference."
    )
    if others:
        message += f" {count(others)} more {'layer is' if others == 1 else 'layers are'} constant."
    return [
        Finding(
            rule=NAME,
            severity="warning",
            site=name,
            first_step=first,
            last_step=last,
            message=message,
            evidence={
                "value": value,
                "std": float(series["std"][-1]),
                "observed_steps": stretch,
                "other_sites": [other for other, _, _ in constant[1:]][:20],
                "threshold_relative_deviation": RELATIVE_DEVIATION,
                "threshold_steps": MIN_STEPS,
            },
            remedy=(
                f"Check the weights and the input of {name}: kernels of zeros, inputs that are "
                "all equal, or a layer before it that gives nothing."
            ),
        )
    ]


def _is_dead(site: Site, series: Series) -> bool:
    return can_switch_off(site) and float(series["mean"][-1]) == 0.0

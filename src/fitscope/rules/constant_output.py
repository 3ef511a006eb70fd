"""A layer that says the same whatever comes in.

Formula: std <= `deviation` * |mean| over all values of an output, in each observed step of a
stretch of at least 10 up to the end. A layer that is constant in each unit, with another value
from unit to unit, is not seen by it. A layer with an activation that is all off is left to
`dead_units`.

Source: the definition; 1e-5 is two orders above the rounding of a float32 mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from fitscope.rules.outputs import output_paths
from fitscope.rules.rule import Sign, rule
from fitscope.rules.series import MIN_STEPS, Series, lasting_tail, series_of, when
from fitscope.rules.switching import can_switch_off
from fitscope.terminal.numbers import compact, count

if TYPE_CHECKING:
    from fitscope.run.reader import Run
    from fitscope.select.site import Site

MIN_STRETCH = 0.25
# A single number per step is constant by nature.
MIN_VALUES = 8


@rule(
    "constant_output",
    "A layer gives one and the same value, step after step.",
    severity="warning",
    explains=("loss_flat", "no_better_than_constant", "unchanged_weights", "metric_flat",
              "effective_rank", "update_ratio"),
    confidence=0.9,
)  # fmt: skip
def constant_output(
    run: Run, *, deviation: float = 1e-5, min_steps: int = MIN_STEPS
) -> Iterator[Sign]:
    """Find the first layer whose output is one constant, step after step.

    Layers after it are constant for the same reason; they are counted, not listed.
    """
    sites = {site.name: site for site in run.sites if site.port == "output"}
    constant: list[tuple[str, Series, int]] = []
    for name, series in series_of(run, ["mean", "std", "count"]).items():
        site = sites.get(name)
        if site is None or series["count"].max(initial=0) < MIN_VALUES:
            continue
        stretch = lasting_tail(series["std"] <= deviation * np.abs(series["mean"]))
        if stretch >= max(min_steps, MIN_STRETCH * len(series)):
            constant.append((name, series, stretch))
    if not constant or _is_dead(sites[constant[0][0]], constant[0][1]):
        return
    name, series, stretch = constant[0]
    first, last = int(series.steps[-stretch]), int(series.steps[-1])
    value = float(series["mean"][-1])
    others = len(constant) - 1
    is_output = any(sites[n].path in output_paths(run) for n, _, _ in constant)
    more = f"; {count(others)} more {'layer is' if others == 1 else 'layers are'} constant"
    yield Sign(
        name,
        f"every value was {compact(value)} {when(stretch, len(series))}{more if others else ''}.",
        "Whatever comes in makes no difference"
        + (" to the prediction." if is_output else " behind this layer."),
        f"look at the weights and input of {name}: zeros, equal inputs, or a saturated activation.",
        {
            "value": value,
            "std": float(series["std"][-1]),
            "observed_steps": stretch,
            "other_sites": [other for other, _, _ in constant[1:]][:20],
            "threshold_relative_deviation": deviation,
            "threshold_steps": min_steps,
        },
        first_step=first,
        last_step=last,
        severity="fault" if is_output else None,
    )


def _is_dead(site: Site, series: Series) -> bool:
    return can_switch_off(site) and float(series["mean"][-1]) == 0.0

"""Steps that are far too long or short for the weights they move.

Formula: the median over the observed steps of |update| / |weight| of each kernel; about 1e-3 is
common. Told where the median over all kernels is above `high` or, in every observed step, below
`low`.

Source: Karpathy, CS231n notes, "Ratio of weights:updates"; You et al. (2017), LARS.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from fitscope.rules.rule import Sign, rule
from fitscope.rules.series import MIN_STEPS, series_of
from fitscope.terminal.numbers import compact

if TYPE_CHECKING:
    from fitscope.run.reader import Run

STATISTIC = "update_ratio"


@rule(
    "update_ratio",
    "Each step changes the weights by far too much, or by next to nothing.",
    severity="warning",
    explains=("weights_moved_far", "weights_barely_moved", "loss_oscillates", "loss_flat"),
    confidence=0.7,
)
def update_ratio(run: Run, *, high: float = 0.3, low: float = 1e-7) -> Iterator[Sign]:
    """Find steps of the wrong length."""
    names = [s.name for s in run.sites if s.port == "update"]
    # A run without updates knows no such statistic, and asking for it is an error.
    if not names or STATISTIC not in (*run.user_statistics, *_KNOWN):
        return
    ratios: dict[str, float] = {}
    steps: list[int] = []
    for name, series in series_of(run, [STATISTIC], names).items():
        values = series[STATISTIC][np.isfinite(series[STATISTIC])]
        if len(values) >= MIN_STEPS:
            ratios[name] = float(np.median(values))
            steps = [int(series.steps[0]), int(series.steps[-1])]
    if not ratios:
        return
    middle = float(np.median(list(ratios.values())))
    if low <= middle <= high:
        return
    most = max(ratios, key=lambda name: abs(np.log(max(ratios[name], 1e-30))))
    yield Sign(
        most,
        f"a step changes weights by {compact(middle)} of their size (median over {len(ratios)}).",
        "What one step learns the next one undoes."
        if middle > high
        else "The weights hardly move; 0.001 a step is common.",
        f"a learning rate {'ten times lower' if middle > high else 'a hundred times higher'}.",
        {"ratios": ratios, "threshold_high": high, "threshold_low": low},
        first_step=steps[0],
        last_step=steps[1],
    )


def _known() -> tuple[str, ...]:
    from fitscope.statistics.descriptions import ALL

    return tuple(ALL)


_KNOWN = _known()

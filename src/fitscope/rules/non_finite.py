"""NaN and infinities: where they were first, not everywhere they went.

One NaN reaches every layer after it within a step, so one finding per run names the first step
and, in it, the first site in the order of execution (weights, forward pass, backward pass, update),
and counts the rest. Two things are left
alone or lowered: minus infinity on its own in every step, which attention masks do on purpose, and
single overflows of half-precision gradients, which is how loss scaling finds its scale.

Formula: nan + posinf + neginf > 0 at a site in an observed step. Gradients in float16 and bfloat16
may overflow in up to `scaling_share` of the steps, and not in the last.

Source: Micikevicius et al. (2018), "Mixed Precision Training", for loss scaling.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from fitscope.rules.execution import direction, rank
from fitscope.rules.rule import Sign, rule
from fitscope.rules.series import Series, series_of
from fitscope.terminal.numbers import count, percent

if TYPE_CHECKING:
    from fitscope.run.reader import Run
    from fitscope.select.site import Site

_STATISTICS = ["nan", "posinf", "neginf", "count"]
_GRADIENTS = frozenset({"gradient", "weight_gradient"})


@rule(
    "non_finite",
    "A tensor holds NaN or an infinity.",
    severity="fault",
    explains=("loss_non_finite", "constant_output", "loss_flat", "no_better_than_constant",
              "metric_flat", "loss_diverges", "unchanged_weights", "exploding_gradients"),
)  # fmt: skip
def non_finite(run: Run, *, scaling_share: float = 0.05) -> Iterator[Sign]:
    """Find the first site that held NaN or an infinity."""
    sites = {site.name: site for site in run.sites}
    bad: list[tuple[int, str, Series]] = []
    for name, series in series_of(run, _STATISTICS).items():
        wrong = _wrong(series)
        if name not in sites or not wrong.any() or _masks(series):
            continue
        # Dynamic loss scaling doubles its scale every 2,000 steps and skips what overflows.
        if not _scales(sites[name], wrong, scaling_share):
            bad.append((int(np.flatnonzero(wrong)[0]), name, series))
    if not bad:
        return
    first = min(int(found.steps[place]) for place, _, found in bad)
    at_first = {name: found for place, name, found in bad if int(found.steps[place]) == first}
    places = {site.name: i for i, site in enumerate(run.sites)}
    name = min(at_first, key=lambda site: rank(sites[site], places[site]))
    series = at_first[name]
    place = int(np.flatnonzero(_wrong(series))[0])
    step, others = first, len(bad) - 1
    wrong = _wrong(series)
    amounts = {kind: int(series[kind][place]) for kind in ("nan", "posinf", "neginf")}
    yield Sign(
        name,
        _message(sites[name], step, place, series, amounts, others),
        "NaN spreads to every layer behind it, and with the update into every weight.",
        f"look at what goes into {name} at step {step}: log, sqrt or division of 0; a lower "
        "learning rate.",
        {
            **amounts,
            "direction": direction(sites[name]),
            "count": int(series["count"][place]),
            "previous_observed_step": int(series.steps[place - 1]) if place else None,
            "observed_steps_with_it": int(wrong.sum()),
            "observed_steps": len(series),
            "other_sites": [other for _, other, _ in bad if other != name][:20],
            "other_site_count": others,
        },
        first_step=step,
        last_step=int(series.steps[np.flatnonzero(wrong)[-1]]),
        severity=None if wrong[-1] else "warning",
    )


def _wrong(series: Series) -> np.ndarray:
    return (series["nan"] + series["posinf"] + series["neginf"]) > 0


def _masks(series: Series) -> bool:
    """Minus infinity alone, in every observed step, is a mask."""
    return bool(
        (series["neginf"] > 0).all() and not series["nan"].any() and not series["posinf"].any()
    )


def _scales(site: Site, wrong: np.ndarray, share: float) -> bool:
    half = site.dtype in ("float16", "bfloat16")
    return half and site.port in _GRADIENTS and not bool(wrong[-1]) and float(wrong.mean()) <= share


def _message(
    site: Site, step: int, place: int, series: Series, amounts: dict[str, int], others: int
) -> str:
    words = {"nan": "NaN", "posinf": "+infinity", "neginf": "-infinity"}
    held = " and ".join(f"{count(n)} {words[kind]}" for kind, n in amounts.items() if n)
    share = percent(sum(amounts.values()) / max(float(series["count"][place]), 1.0))
    text = f"held {held} ({share} of its values) {direction(site)} of step {step}"
    if place:
        text += f", none in step {int(series.steps[place - 1])} before it"
    if others:
        text += f"; first of {count(others + 1)} sites"
    return text + "."

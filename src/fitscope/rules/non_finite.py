"""NaN and infinities: where they were first, not everywhere they went.

One NaN reaches every layer after it within a step, so one finding per run names the first step
and, in it, the first site in the order of the model, and counts the rest. Two things are left
alone or lowered: minus infinity on its own in every step, which attention masks do on purpose,
and single overflows of half-precision gradients, which is how loss scaling finds its scale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fitscope.rules.finding import Finding, Severity
from fitscope.rules.series import Series, series_of
from fitscope.terminal.numbers import count, percent

if TYPE_CHECKING:
    from fitscope.run.reader import Run
    from fitscope.select.site import Site

NAME = "non_finite"
_STATISTICS = ["nan", "posinf", "neginf", "count"]
_GRADIENTS = frozenset({"gradient", "weight_gradient"})
# Dynamic loss scaling doubles its scale every 2,000 steps and skips the step that overflows.
SCALING_SHARE = 0.05


def non_finite(run: Run) -> list[Finding]:
    """Find the first site that held NaN or an infinity.

    Args:
        run: The run to read.
    """
    sites = {site.name: site for site in run.sites}
    bad: list[tuple[int, str, Series]] = []
    for name, series in series_of(run, _STATISTICS).items():
        wrong = _wrong(series)
        if name in sites and wrong.any() and not _masks(series) and not _scales(sites[name], wrong):
            bad.append((int(np.flatnonzero(wrong)[0]), name, series))
    if not bad:
        return []
    # Sites come in the order of the model, and min() takes the first of equals.
    place, name, series = min(bad, key=lambda item: int(item[2].steps[item[0]]))
    step = int(series.steps[place])
    others = len(bad) - 1
    wrong = _wrong(series)
    amounts = {kind: int(series[kind][place]) for kind in ("nan", "posinf", "neginf")}
    severity: Severity = "error" if wrong[-1] else "warning"
    return [
        Finding(
            rule=NAME,
            severity=severity,
            site=name,
            first_step=step,
            last_step=int(series.steps[np.flatnonzero(wrong)[-1]]),
            message=_message(name, step, place, series, amounts, others),
            evidence={
                **amounts,
                "count": int(series["count"][place]),
                "previous_observed_step": int(series.steps[place - 1]) if place else None,
                "observed_steps_with_it": int(wrong.sum()),
                "observed_steps": len(series),
                "other_sites": [other for _, other, _ in bad if other != name][:20],
                "other_site_count": others,
            },
            remedy=(
                f"Look at what goes into {name} in and before step {step}: a division, log, sqrt "
                "or exp of an unusual value, a too high learning rate, or bad input data. Watch "
                "every step (every=1) to see the step in which it began."
            ),
        )
    ]


def _wrong(series: Series) -> np.ndarray:
    return (series["nan"] + series["posinf"] + series["neginf"]) > 0


def _masks(series: Series) -> bool:
    """Minus infinity alone, in every observed step, is a mask."""
    return bool(
        (series["neginf"] > 0).all() and not series["nan"].any() and not series["posinf"].any()
    )


def _scales(site: Site, wrong: np.ndarray) -> bool:
    half = site.dtype in ("float16", "bfloat16")
    return (
        half
        and site.port in _GRADIENTS
        and not bool(wrong[-1])
        and float(wrong.mean()) <= SCALING_SHARE
    )


def _message(
    name: str, step: int, place: int, series: Series, amounts: dict[str, int], others: int
) -> str:
    words = {"nan": "NaN", "posinf": "+infinity", "neginf": "-infinity"}
    held = " and ".join(f"{count(n)} {words[kind]}" for kind, n in amounts.items() if n)
    share = percent(sum(amounts.values()) / max(float(series["count"][place]), 1.0))
    text = f"In step {step} {name} held {held} ({share} of its values)"
    if place:
        text += f"; in step {int(series.steps[place - 1])}, observed before it, there was none"
    text += "."
    if others:
        noun = "site" if others == 1 else "sites"
        text += f" It is the first of the model; {count(others)} more {noun} held some later."
    return text

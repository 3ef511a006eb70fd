"""NaN and infinities: where they were first, not everywhere they went.

One NaN reaches every layer after it within a step, so one finding per run names the first step
and, in it, the first site in the order of execution (weights, forward pass, backward pass, update),
and counts the rest. Training steps are looked at before validation, and validation before tests and
predictions. Two things are left alone or lowered: minus infinity on its own in every step, which
attention masks do on purpose, and overflows of gradients under a loss scale, which is how loss
scaling finds its scale: where the scale was recorded they are told as a note, and single ones of
half-precision gradients without it not at all.

A finding says how many elements were not finite, which share that is and at which place the first
lies; the range of what the layer was given and of the batch; and the largest magnitude in the last
five observed steps before. In a backward pass look for log, sqrt and division of 0 also where
ops.where leaves the value out, since its gradient is computed; clipping comes too late for NaN.

Formula: nan + posinf + neginf > 0 at a site in an observed step. Gradients in float16 and bfloat16
may overflow in up to `scaling_share` of the steps, and not in the last. Gradients under a recorded
loss scale may as long as the scale explains it: they overflow in less than half of the steps after
the first `settling` ones, and at no scale that is less than an eighth of one at which the same
gradient was finite.

Source: Micikevicius et al. (2018), "Mixed Precision Training", for loss scaling.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fitscope.rules.execution import BEFORE, FIRST, LOSS, NEEDED, SCALE, Edges, Origin, Part, origin
from fitscope.rules.rule import Sign, rule
from fitscope.rules.series import Series, series_of
from fitscope.run.record import PHASES
from fitscope.terminal.numbers import compact, count

if TYPE_CHECKING:
    from fitscope.run.reader import Run
    from fitscope.select.site import Site

_STATISTICS = ["nan", "posinf", "neginf", "count"]
_GRADIENTS = frozenset({"gradient", "weight_gradient"})
VARIES = 8.0
"""By how much the same gradient may be larger in one step than in another."""
RECENT = 5
"""Observed steps before the bad one that are told with it."""
_ROOM = 196
"""Characters of a site, its message, reason and remedy that three lines of 100 columns hold."""


@rule(
    "non_finite",
    "A tensor holds NaN or an infinity.",
    severity="fault",
    explains=("loss_non_finite", "constant_output", "loss_flat", "no_better_than_constant",
              "metric_flat", "loss_diverges", "unchanged_weights", "exploding_gradients",
              "loss_scale", "update_ratio"),
)  # fmt: skip
def non_finite(run: Run, *, scaling_share: float = 0.05, settling: int = 20) -> Iterator[Sign]:
    """Find the first site that held NaN or an infinity."""
    for phase in PHASES:
        seen = _Seen.of(run, phase, scaling_share, settling)
        if seen.absorbed:
            yield _absorbed(seen)
        if seen.bad:
            yield _sign(run, seen)
            return


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """What was not finite in one phase."""

    phase: str
    sites: Mapping[str, Site]
    bad: Mapping[str, Series]
    absorbed: Mapping[str, Series]
    """Gradients that overflow under a loss scale, as they may."""
    scales: Mapping[str, Series]

    @classmethod
    def of(cls, run: Run, phase: str, share: float, settling: int) -> _Seen:
        sites = {site.name: site for site in run.sites}
        wrong = {
            name: series
            for name, series in series_of(run, _STATISTICS, phase=phase).items()
            if name in sites and _wrong(series).any() and not _masks(series)
        }
        scales: dict[str, Series] = {}
        if wrong and SCALE in run.user_statistics:
            scales = series_of(run, [SCALE], phase=phase)
        bad, absorbed = {}, {}
        for name, series in wrong.items():
            if name in scales and sites[name].port in _GRADIENTS:
                may = _may_overflow(_wrong(series), _at(scales[name], series.steps), settling)
                (absorbed if may else bad)[name] = series
            elif not _scales(sites[name], _wrong(series), share):
                bad[name] = series
        return cls(phase, sites, bad, absorbed, scales)


def _sign(run: Run, seen: _Seen) -> Sign:
    firsts = {name: int(s.steps[np.flatnonzero(_wrong(s))[0]]) for name, s in seen.bad.items()}
    step = min(firsts.values())
    at_first = [name for name, first in firsts.items() if first == step]
    found = _origin(run, seen, step)
    # An overflow that is none by itself may be part of the same step.
    name = found.site if found is not None and found.site in at_first else at_first[0]
    series = seen.bad[name]
    wrong = _wrong(series)
    place = int(np.flatnonzero(wrong)[0])
    others = [other for other in seen.bad if other != name]
    recent = recent_statistics(run, name, step, seen.phase)
    unseen = _unseen_before(run, seen.sites[name])
    why, remedy = _why(seen.phase), _remedy(found, name, step)
    room = _ROOM - len(name) - len(why) - len(remedy)
    return Sign(
        name,
        _message(found, seen.phase, step, place, series, recent, unseen, room),
        why,
        remedy,
        {
            **({} if found is None else found.evidence()),
            "phase": seen.phase,
            "recent": recent,
            "unseen_before": unseen,
            "previous_observed_step": int(series.steps[place - 1]) if place else None,
            "observed_steps_with_it": int(wrong.sum()),
            "observed_steps": len(series),
            "other_sites": others[:20],
            "other_site_count": len(others),
        },
        first_step=step,
        last_step=int(series.steps[np.flatnonzero(wrong)[-1]]),
        severity=None if wrong[-1] else "warning",
    )


def _origin(run: Run, seen: _Seen, step: int) -> Origin | None:
    """Where in one step of the run it was first."""
    values: dict[str, dict[str, float]] = {}
    for name, series in series_of(run, NEEDED, phase=seen.phase, steps=[step]).items():
        values[name] = {n: float(series[n][0]) for n in NEEDED}
    if FIRST in run.user_statistics:
        for name, series in series_of(run, [FIRST], phase=seen.phase, steps=[step]).items():
            values.setdefault(name, {})[FIRST] = float(series[FIRST][0])
    ignore = [name for name in values if name not in seen.bad]
    edges = Edges(run.graph.get("edges", ()))
    found = origin(list(run.sites), values, ignore=ignore, edges=edges)
    if found is None or found.layer != LOSS:
        return found
    return dataclasses.replace(found, targets=_targets(run, seen.phase, step))


def _targets(run: Run, phase: str, step: int) -> tuple[Part, ...]:
    """What fs.stop_on or fs.capsule saw in the targets and weights of the batch of a step."""
    for event in run.history:
        if (event.get("phase"), event.get("step")) == (phase, step) and event.get("targets"):
            return tuple(Part.of(part) for part in event["targets"])
    return ()


def _unseen_before(run: Run, site: Site) -> list[str]:
    """Outputs that a layer reads and that could not be looked at, as where they are fused away."""
    if site.port not in ("output", "preactivation"):
        return []
    sources = set(Edges(run.graph.get("edges", ())).sources(site.path))
    outputs = [u.site for u in run.unseen if ":" not in u.site]
    return [s for s in outputs if s.partition("#")[0].partition("[")[0] in sources]


def recent_statistics(
    run: Run, site: str, step: int, phase: str = "train", steps: int = RECENT
) -> dict[str, list[Any]]:
    """The last statistics of a site before a step.

    Returns:
        `{"steps": [...], "absmax": [...], "rms": [...]}`, oldest first.
    """
    found = series_of(run, ["absmax", "rms"], [site], phase).get(site)
    if found is None:
        return {"steps": [], "absmax": [], "rms": []}
    before = np.flatnonzero(found.steps < step)[-steps:]
    return {
        "steps": [int(n) for n in found.steps[before]],
        "absmax": [float(v) for v in found["absmax"][before]],
        "rms": [float(v) for v in found["rms"][before]],
    }


def recent_text(recent: Mapping[str, list[Any]], room: int) -> str:
    """The newest of those in words, as many as there is room for; empty where there is none."""
    known = [v for v in recent["absmax"] if _finite(v)]
    texts = [f"absmax before: {', '.join(map(compact, known[n:]))}" for n in range(len(known))]
    return next((text for text in texts if len(text) <= room), "")


def _finite(value: float) -> bool:
    return math.isfinite(value)


def _absorbed(seen: _Seen) -> Sign:
    steps = sorted({int(s.steps[i]) for s in seen.absorbed.values() for i in _places(s)})
    name = next(iter(seen.absorbed))
    scales = seen.scales[name]
    at = scales.values[SCALE][np.searchsorted(scales.steps, steps[0])]
    held = f"{count(len(steps))} step{'s' if len(steps) > 1 else ''}"
    return Sign(
        name,
        f"overflowed under the loss scale ({compact(float(at))}) in {held}, with "
        f"{count(len(seen.absorbed) - 1)} more gradients; the optimizer skipped the update and "
        "lowered the scale.",
        "Nothing is wrong: this is how dynamic loss scaling finds its scale.",
        "nothing, as long as it stays rare.",
        {
            "steps": steps[:20],
            "step_count": len(steps),
            "loss_scale": float(at),
            "sites": list(seen.absorbed)[:20],
        },
        first_step=steps[0],
        last_step=steps[-1],
        severity="note",
    )


def _places(series: Series) -> Any:
    return np.flatnonzero(_wrong(series))


def _wrong(series: Series) -> np.ndarray:
    return (series["nan"] + series["posinf"] + series["neginf"]) > 0


def _masks(series: Series) -> bool:
    """Minus infinity alone, in every observed step, is a mask."""
    return bool(
        (series["neginf"] > 0).all() and not series["nan"].any() and not series["posinf"].any()
    )


def _at(scales: Series, steps: np.ndarray) -> np.ndarray:
    """The loss scale in each of some steps; NaN where it is not known."""
    places = np.searchsorted(scales.steps, steps)
    known = (places < len(scales)) & (scales.steps[np.minimum(places, len(scales) - 1)] == steps)
    return np.where(known, scales.values[SCALE][np.minimum(places, len(scales) - 1)], np.nan)


def _may_overflow(wrong: np.ndarray, scales: np.ndarray, settling: int) -> bool:
    """Whether a loss scale explains that a gradient was not finite in some of the steps."""
    finite = scales[~wrong & np.isfinite(scales)]
    if not len(finite):
        return False
    # What is not finite by itself is so at any scale, however low the scale has gone for it.
    if (scales[wrong] * VARIES < finite.max()).any():
        return False
    later = wrong[settling:]
    return not len(later) or float(later.mean()) < 0.5


def _scales(site: Site, wrong: np.ndarray, share: float) -> bool:
    half = site.dtype in ("float16", "bfloat16")
    return half and site.port in _GRADIENTS and not bool(wrong[-1]) and float(wrong.mean()) <= share


def _message(
    found: Origin | None,
    phase: str,
    step: int,
    place: int,
    series: Series,
    recent: Mapping[str, list[Any]],
    unseen: list[str],
    room: int,
) -> str:
    """What is said of it, with as many of the last values as there is room for."""
    text = "was not finite"
    if found is not None:
        text = found.held if found.is_batch else f"{found.held} {found.where}"
    if phase != "train":  # the finding itself tells the step
        text += f" of {phase} step {step}"
    last = int(series.steps[place - 1]) if place else step - 1
    if last < step - 1:  # it may have begun between the two
        text += f", none in step {last}"
    if found is not None:
        text += found.surroundings
    if unseen:
        text += f"; not seen before it, and maybe first: {', '.join(unseen)}"
    told = recent_text(recent, room - len(text))
    return f"{text}; {told}." if told else f"{text}."


def _why(phase: str) -> str:
    return "NaN reaches all weights." if phase == "train" else "its metrics are worth nothing."


def _remedy(found: Origin | None, name: str, step: int) -> str:
    if found is None:
        return "log, sqrt or 1/0 in it; a lower learning rate."
    if found.is_batch or found.targets:
        index = found.index if found.is_batch else found.targets[0].index
        row = "" if not index else f", row {index[0]} first"
        return f"clean or leave out such samples: the batch of step {step}{row}."
    if found.direction == BEFORE:
        return "what set it last: its initializer, loaded weights, a callback."
    if found.direction.endswith("the update"):
        return "a lower learning rate; the optimizer's state; its constraint."
    if found.layer == LOSS:
        return "log, sqrt or 1/0 in the loss; a lower learning rate."
    if "backward" in found.direction:
        own = name.partition(":")[2].startswith("weight_gradient")
        return f"log, sqrt, 1/0 or ops.where in it{'; its regularizer' if own else ''}."
    return "log, sqrt or 1/0 in it; a lower learning rate."

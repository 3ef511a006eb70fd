"""Attention that says nothing, or says one thing.

A row of attention over N keys sums to 1, so the mean of all its probabilities is 1 / N, whatever
they are, and the mean of their squares lies between 1 / N^2 (all equal) and 1 / N (all on one
key). mean / mean(p^2) is therefore the number of keys a query looks at: the exponential of the
collision (Renyi) entropy, as a harmonic mean over queries.

Formula: looked at are the outputs of `Softmax` layers inside a layer and tensors tapped as
`attention`, of rank 3 or more, that are probabilities. *One place*: a key that gets more than 99%
from every query of the batch, in all heads. *Sharp*: keys looked at < `sharp`, where masks leave
two or more. *Uniform*: std <= `spread` * mean over at least `keys` keys, from the first observed
step on; only where nothing is masked, since rows of different lengths differ. Each in every
observed step of a stretch of at least 10 up to the end, and at least a quarter of all observed.
A warning where the loss is above half of that of the best constant answer, or where that is not
known and the loss fell by less than a tenth; else a note, for a task may want a mean, or one key.

Not seen: attention through the fused kernel. Keras takes it where `dropout=0` and no scores are
asked for, and then there are no probabilities to look at. `return_attention_scores=True` in the
call, or a dropout above 0, takes the way through the layer `<attention>/softmax*`; in a layer of
your own write `fs.tap(probabilities, "attention")`.

Source: Zhai et al. (2023), "Stabilizing Transformer Training by Preventing Attention Entropy
Collapse"; Renyi (1961) for the entropy.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from fitscope.rules.history import batches, of_fit
from fitscope.rules.outputs import output_paths
from fitscope.rules.rule import Sign, rule
from fitscope.rules.series import MIN_STEPS, Series, lasting_tail, series_of, when
from fitscope.terminal.numbers import compact, count

if TYPE_CHECKING:
    from fitscope.run.reader import Run
    from fitscope.select.site import Site

MIN_STRETCH = 0.25
_STATISTICS = ("mean", "std", "rms", "min", "max", "zero_fraction", "saturated_units", "units",
               "count")  # fmt: skip
_WORDS = {
    "one place": (
        "every query of the batch looked at one and the same key",
        "The layer hands on one position, whatever is asked.",
        "a lower learning rate or warm-up, normalization of queries and keys, and a look at masks.",
    ),
    "sharp": (
        "queries looked at {keys} of {of} keys",
        "Next to no gradient comes back through a softmax that is this sure.",
        "a lower learning rate or warm-up, and normalization of queries and keys.",
    ),
    "uniform": (
        "queries looked at all {of} keys alike",
        "The layer is a mean over positions: it has not learned where to look.",
        "a larger learning rate or initializer for queries and keys; check the scale and the mask.",
    ),
}


@rule(
    "attention",
    "Attention stayed uniform, or collapsed to one place.",
    severity="warning",
    explains=("loss_flat", "no_better_than_constant", "metric_flat"),
    confidence=0.6,
)
def attention(
    run: Run,
    *,
    sharp: float = 1.05,
    spread: float = 0.03,
    keys: int = 4,
    min_steps: int = MIN_STEPS,
) -> Iterator[Sign]:
    """Find attention that does not attend."""
    candidates = _candidates(run)
    learned = _learned(run)
    for name, series in series_of(run, _STATISTICS, candidates).items():
        mean, least = series["mean"], series["min"]
        known = np.isfinite(mean) & (mean > 0) & (least >= 0) & (series["max"] <= 1.0 + 1e-3)
        if not known.all() or len(series) < min_steps:
            continue
        of = 1.0 / mean
        looked_at = mean / series["rms"] ** 2
        unmasked = of * (1 - series["zero_fraction"])
        states = {
            "one place": (series["saturated_units"] >= 1) & (unmasked >= 2),
            "sharp": (looked_at < sharp) & (unmasked >= 2),
            "uniform": (series["std"] <= spread * mean)
            & (series["zero_fraction"] == 0)
            & (of >= keys),
        }
        for state, holds in states.items():
            stretch = lasting_tail(holds)
            least_long = len(series) if state == "uniform" else MIN_STRETCH * len(series)
            if stretch >= max(min_steps, least_long):
                yield _sign(name, series, state, stretch, looked_at, of, learned=learned)
                break


def _sign(
    name: str, series: Series, state: str, stretch: int, looked_at: np.ndarray, of: np.ndarray,
    *, learned: bool | None,
) -> Sign:  # fmt: skip
    first, last = int(series.steps[-stretch]), int(series.steps[-1])
    said, why, remedy = _WORDS[state]
    seen, total = float(np.median(looked_at[-stretch:])), float(np.median(of[-stretch:]))
    said = said.format(keys=compact(seen), of=count(round(total)))
    return Sign(
        name,
        f"{said} {when(stretch, len(series))}.",
        why if learned is False else f"{why} It may not hurt.",
        remedy,
        {"state": state, "keys_looked_at": seen, "keys": total, "observed_steps": stretch,
         "relative_deviation": float(np.median((series["std"] / series["mean"])[-stretch:]))},
        first,
        last,
        severity=None if learned is False else "note",
    )  # fmt: skip


def _candidates(run: Run) -> list[str]:
    outputs = output_paths(run)
    return [s.name for s in run.sites if _is_attention(s) and s.path not in outputs]


def _is_attention(site: Site) -> bool:
    if site.port != "output" or len(site.shape) < 3:
        return False
    tapped = site.layer_name.startswith("attention") and site.layer_class == "TapPoint"
    return tapped or (site.layer_class == "Softmax" and "/" in site.path)


def _learned(run: Run) -> bool | None:
    """Whether the loss shows that something was learned; None where it does not say."""
    baseline, curve = of_fit(run).get("constant_answer_loss"), batches(run)
    if not len(curve):
        return None
    first, last = (float(np.median(part)) for part in curve.thirds())
    if baseline:
        return last < 0.5 * float(baseline)
    return False if last > 0.9 * first > 0 else None

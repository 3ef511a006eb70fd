"""Representations that have collapsed: all rows of a batch on one line, or in one point.

Formula: `effective_rank.rank` (docs/statistics.md), the participation ratio tr(C)^2 / tr(C^2) of
the centred rows of a batch, below `rank` where at least `possible` is possible; or
`effective_rank.spread`, the share of the rows' squares that is around their mean, below `spread`,
which is rows within 1% of each other. In every observed step of a stretch of at least 10 up to
the end and at least half of all observed. Collapse is no fault by itself: the last hidden layer of
a classifier of K classes comes down to K - 1 directions when it has learned them all, and to one
for a single output. So it is told only

- of a hidden layer while the loss stays above `loss` of that of the best constant answer; of one
  line only where the outputs have three units or more together, for one number needs no more;
- of an output of 8 units or more whose loss has no such baseline (an embedding, for example), and
  of the layer that feeds it; a warning where loss or step are the model's own, a note where not.

Left out are data of fewer than `possible` features, which have no other rank to lose, and data
that lie on a line themselves, where the model's input was measured, too.

Needs the statistic: `fitscope doctor train.py` records it, and
`fs.watch("**", statistics=[fs.statistics.EffectiveRank()])` does.

Source: Papyan, Han and Donoho (2020), "Prevalence of Neural Collapse", for what is no fault; Jing
et al. (2022), "Understanding Dimensional Collapse", for what is; Dong et al. (2021), "Attention is
not all you need", rank collapse in depth.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from fitscope.rules.execution import Edges
from fitscope.rules.history import batches, of_fit
from fitscope.rules.outputs import output_paths
from fitscope.rules.rule import Sign, rule
from fitscope.rules.series import MIN_STEPS, Series, lasting_tail, series_of, when
from fitscope.terminal.numbers import compact, count, percent

if TYPE_CHECKING:
    from fitscope.run.reader import Run

RANK, POSSIBLE = "effective_rank.rank", "effective_rank.possible"
SPREAD = "effective_rank.spread"
MIN_STRETCH = 0.5


@rule(
    "effective_rank",
    "The rows of a batch have collapsed onto one line, or into one point.",
    severity="warning",
    explains=("no_better_than_constant", "loss_flat", "metric_flat"),
    confidence=0.6,
)
def effective_rank(
    run: Run,
    *,
    rank: float = 1.2,
    possible: float = 8.0,
    spread: float = 1e-4,
    loss: float = 0.9,
    min_steps: int = MIN_STEPS,
) -> Iterator[Sign]:
    """Find the first layer that does not tell samples apart, while nothing is learned."""
    if RANK not in run.user_statistics:
        return
    fit, curve = of_fit(run), batches(run)
    baseline = fit.get("constant_answer_loss")
    if baseline is not None and baseline <= 0:
        return  # one answer fits all, and needs no samples told apart
    if baseline and (not len(curve) or np.median(curve.thirds()[1]) < loss * float(baseline)):
        return
    if (fit.get("features") or possible) < possible:
        return
    found = series_of(run, [RANK, POSSIBLE, SPREAD])
    units = fit.get("output_units") or []
    line = not baseline or not units or sum(n or 3 for n in units) >= 3
    collapsed: list[tuple[str, Series, int]] = []
    for name in _looked_at(run, found, possible, has_baseline=bool(baseline)):
        series = found[name]
        stretch = lasting_tail((line & (series[RANK] < rank)) | (series[SPREAD] < spread))
        if stretch >= max(min_steps, MIN_STRETCH * len(series)):
            collapsed.append((name, series, stretch))
    if not collapsed:
        return
    name, series, stretch = collapsed[0]
    first, last = int(series.steps[-stretch]), int(series.steps[-1])
    others = len(collapsed) - 1
    more = f", and {count(others)} more layer{'s' if others > 1 else ''}" if others else ""
    own = bool(fit.get("own_loss") or fit.get("custom_step"))
    seen, most = _rank(series), _possible(series)
    apart = float(np.sqrt(np.nanmedian(series[SPREAD][-stretch:])))
    where = (
        f"were within {percent(apart)} of each other"
        if apart**2 < spread
        else f"lay on one line (rank {compact(seen)} of {compact(most)})"
    )
    yield Sign(
        name,
        f"all samples {where} "
        f"{when(stretch, len(series))}{more}.",
        "The layer hardly tells samples apart"
        + (", and the loss is no better than a constant's." if baseline else "."),
        "a normalization before the layer, skip connections, or a loss that holds samples apart.",
        {"rank": seen, "possible": most, "deviation": apart, "observed_steps": stretch,
         "other_sites": [n for n, _, _ in collapsed[1:]][:20], "threshold_rank": rank,
         "threshold_spread": spread},
        first,
        last,
        severity=None if baseline or own else "note",
    )  # fmt: skip


def _looked_at(
    run: Run, found: Mapping[str, Series], possible: float, *, has_baseline: bool
) -> list[str]:
    """The sites whose collapse would be a sign; none where the data lie on a line."""
    sites = {site.name: site for site in run.sites if site.name in found}
    if any(site.port == "input" and _rank(found[name]) < 2 for name, site in sites.items()):
        return []
    outputs = output_paths(run)
    wide = [n for n, s in sites.items() if s.port == "output" and _possible(found[n]) >= possible]
    if has_baseline:
        return [name for name in wide if sites[name].path not in outputs]
    if any(s.path in outputs and s.port == "output" and n not in wide for n, s in sites.items()):
        return []  # not what tells samples apart, but a number or a class of each
    edges = Edges(run.graph.get("edges", ()))
    ends = outputs.union(source for path in outputs for source in edges.sources(path))
    return [name for name in wide if sites[name].path in ends]


def _rank(series: Series) -> float:
    return float(np.nanmedian(series[RANK]))


def _possible(series: Series) -> float:
    return float(np.nanmedian(series[POSSIBLE]))

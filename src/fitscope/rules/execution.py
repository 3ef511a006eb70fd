"""In which order a training step comes by its sites, and where in it something went wrong first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fitscope.terminal.numbers import compact, count, percent

if TYPE_CHECKING:
    from fitscope.select.site import Site

_STAGES = ("weight", "forward", "gradient", "weight_gradient", "update")
_WORDS = {
    "weight": "before the forward pass",
    "input": "in what the layer was given in the forward pass",
    "preactivation": "in the forward pass",
    "output": "in the forward pass",
    "gradient": "in the backward pass",
    "weight_gradient": "in the backward pass",
    "update": "in the update",
}
_KINDS = {"nan": "NaN", "posinf": "+infinity", "neginf": "-infinity"}
NEEDED = ("nan", "posinf", "neginf", "count", "min", "max")
"""The statistics that `origin` looks at."""


def rank(site: Site, place: int) -> tuple[int, int]:
    """The place of a site in a step: weights, forward pass, backward pass, update.

    Args:
        site: the site.
        place: its number among the sites, which stand in the order of the forward pass.
    """
    stage = site.port if site.port in _STAGES else "forward"
    return _STAGES.index(stage), -place if stage == "gradient" else place


def direction(site: Site) -> str:
    """In which part of a step a site is come by, in words."""
    return _WORDS.get(site.port, "in the forward pass")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where in one step a tensor was the first that is not finite.

    Attributes:
        site: its name.
        direction: in which part of the step, in words.
        amounts: how many of its elements are `nan`, `posinf` and `neginf`.
        count: how many elements it has.
        before: the site that the step came to just before, and the range of its finite elements.
        others: how many sites that the step came to later are not finite, either.
    """

    site: str
    direction: str
    amounts: Mapping[str, int]
    count: int
    before: tuple[str, float, float] | None
    others: int

    def __str__(self) -> str:
        held = " and ".join(f"{count(n)} {_KINDS[kind]}" for kind, n in self.amounts.items() if n)
        share = percent(sum(self.amounts.values()) / max(self.count, 1))
        text = f"{self.site} held {held} ({share} of its values), first {self.direction}"
        if self.before is not None:
            name, low, high = self.before
            text += f"; {name} before it was within {compact(low)} and {compact(high)}"
        if self.others:
            text += f"; {count(self.others)} more sites held some after it"
        return text + "."


def origin(
    sites: Sequence[Site], values: Mapping[str, Mapping[str, float]], *, ignore: Sequence[str] = ()
) -> Origin | None:
    """The first site of a step that held NaN or an infinity, in the order of execution.

    Args:
        sites: all sites, in the order of the forward pass.
        values: of the step, the statistics `NEEDED`, by site.
        ignore: sites that may hold some.

    Returns:
        None when all were finite, or when a loss scale takes care of what was not: an optimizer
        that finds gradients that are not finite under its scale skips the update.
    """
    ordered = [(rank(s, i), s) for i, s in enumerate(sites) if s.name in values]
    ordered.sort(key=lambda pair: pair[0])
    bad = [s for _, s in ordered if _wrong(values[s.name]) and s.name not in ignore]
    if not bad or _is_absorbed(bad, values):
        return None
    first = bad[0]
    got = values[first.name]
    earlier = [s for _, s in ordered[: [s for _, s in ordered].index(first)]]
    return Origin(
        first.name,
        direction(first),
        {kind: int(got[kind]) for kind in _KINDS},
        int(got["count"]),
        _before(first, earlier, values),
        len(bad) - 1,
    )


def _before(
    site: Site, earlier: Sequence[Site], values: Mapping[str, Mapping[str, float]]
) -> tuple[str, float, float] | None:
    own = [s for s in earlier if s.path == site.path and s.port in ("input", "preactivation")]
    of_step = [s for s in earlier if s.port != "weight"] or list(earlier)
    for each in [*reversed(own), *reversed(of_step)]:
        low, high = values[each.name]["min"], values[each.name]["max"]
        if math.isfinite(low) and math.isfinite(high):
            return each.name, low, high
    return None


def _wrong(got: Mapping[str, float]) -> bool:
    return got["nan"] + got["posinf"] + got["neginf"] > 0


def _is_absorbed(bad: Sequence[Site], values: Mapping[str, Mapping[str, float]]) -> bool:
    scaled = any(math.isfinite(v.get("loss_scale", math.nan)) for v in values.values())
    return scaled and all(site.port in ("gradient", "weight_gradient") for site in bad)

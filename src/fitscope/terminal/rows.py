"""What one line of the site table says."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fitscope.rules.switching import can_saturate, can_switch_off

if TYPE_CHECKING:
    from fitscope.select.site import Site


@dataclass(frozen=True, slots=True, eq=False)
class SiteRow:
    """The summary of one site.

    Shares run from 0 to 1. `None` stands for "has no meaning here" (dead units of a layer without
    an activation) and NaN for "not known" (the mean of a tensor without a finite value).

    Args:
        site: The site's name.
        layer_class: The class of its layer.
        shape: One observed step's shape.
        mean: Mean of the finite values.
        rms: Root mean square of the finite values.
        zeros: Share of exact zeros.
        dead: Share of units that were off for the whole step.
        saturated: Share of values where the activation is flat.
        nonfinite: Share of NaN and infinities.
        histogram: Counts of the 2048 magnitude bins.
    """

    site: str
    layer_class: str = ""
    shape: tuple[int | None, ...] = ()
    mean: float = math.nan
    rms: float = math.nan
    zeros: float = math.nan
    dead: float | None = None
    saturated: float | None = None
    nonfinite: float = math.nan
    histogram: NDArray[Any] | None = None


def site_rows(
    sites: Iterable[Site],
    values: Mapping[str, Mapping[str, Any]],
    histograms: Mapping[str, NDArray[Any]] | None = None,
) -> list[SiteRow]:
    """Summaries of the sites that have values, in the order of the model.

    Args:
        sites: The sites, in the order of the model.
        values: Statistics by site name. A `"histogram"` among them is used when `histograms` has
            none for the site.
        histograms: Counts of the 2048 bins by site name.
    """
    drawn = histograms or {}
    return [
        _row(site, values[site.name], drawn.get(site.name)) for site in sites if site.name in values
    ]


def _row(site: Site, values: Mapping[str, Any], histogram: NDArray[Any] | None) -> SiteRow:
    counts = histogram if histogram is not None else values.get("histogram")
    return SiteRow(
        site=site.name,
        layer_class=site.layer_class,
        shape=tuple(site.shape),
        mean=_number(values, "mean"),
        rms=_number(values, "rms"),
        zeros=_number(values, "zero_fraction"),
        dead=_number(values, "dead_fraction") if can_switch_off(site) else None,
        saturated=_number(values, "saturated_fraction") if can_saturate(site) else None,
        nonfinite=_number(values, "nonfinite_fraction"),
        histogram=None if counts is None else np.asarray(counts),
    )


def _number(values: Mapping[str, Any], name: str) -> float:
    value = values.get(name)
    return math.nan if value is None else float(value)

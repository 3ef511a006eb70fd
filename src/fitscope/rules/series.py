"""Statistics of a run as one series per site, which is what rules look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

if TYPE_CHECKING:
    from fitscope.run.reader import Run


MIN_STEPS = 10
"""Observed steps from which on a rule calls something lasting."""


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """Statistics of one site over the observed steps.

    Args:
        steps: int64 `[n]`, ascending in the order of recording.
        values: float64 `[n]` by statistic.
    """

    steps: NDArray[np.int64]
    values: dict[str, NDArray[np.float64]]

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, statistic: str) -> NDArray[np.float64]:
        """The values of one statistic."""
        return self.values[statistic]


def series_of(
    run: Run,
    statistics: Sequence[str],
    select: Any = "**",
    phase: str = "train",
    steps: Any = None,
) -> dict[str, Series]:
    """Read statistics of some sites of a run.

    Args:
        run: The run.
        statistics: Names of the statistics.
        select: The sites, as `Run.stats` takes them. A list holds names of sites, and selects
            these and no other: an empty one none.
        phase: The phase to read.
        steps: The steps, as `Run.stats` takes them.

    Returns:
        A series per site that has any value, in the order of the model.
    """
    if len(run.sites) == 0 or (isinstance(select, list) and not select):
        return {}
    table = run.stats(select, list(statistics), phase=phase, steps=steps).to_arrow()
    if table.num_rows == 0:
        return {}
    sites, site_of = _coded(table.column("site"))
    names, statistic_of = _coded(table.column("statistic"))
    steps_of = table.column("step").to_numpy().astype(np.int64)
    values = table.column("value").to_numpy().astype(np.float64)
    found: dict[str, Series] = {}
    # Rows come by site, then statistic, then time: a site is one stretch of them.
    starts = np.searchsorted(site_of, np.arange(len(sites) + 1))
    for place, site in enumerate(sites):
        stretch = slice(int(starts[place]), int(starts[place + 1]))
        parts = {
            name: stretch.start + np.flatnonzero(statistic_of[stretch] == code)
            for code, name in enumerate(names)
        }
        longest = max(parts.values(), key=len)
        missing = np.full(len(longest), np.nan)
        found[site] = Series(
            steps_of[longest],
            {name: values[parts[name]] if name in parts else missing for name in statistics},
        )
    if isinstance(select, list):
        # As a pattern, the name of an output selects the layer's gradients and weights, too.
        found = {name: found[name] for name in found.keys() & set(select)}
    order = {site.name: place for place, site in enumerate(run.sites)}
    return dict(sorted(found.items(), key=lambda item: order.get(item[0], len(order))))


def _coded(column: pa.ChunkedArray) -> tuple[list[str], NDArray[np.int64]]:
    """The names in a column of names, and the place of each row's among them."""
    encoded = pa.array(column.to_pylist()) if column.num_chunks > 1 else column.chunk(0)
    if not pa.types.is_dictionary(encoded.type):
        encoded = encoded.dictionary_encode()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy().astype(np.int64)


def lasting_tail(holds: NDArray[np.bool_]) -> int:
    """How many observations at the end hold without a gap.

    Example:
        >>> lasting_tail(np.array([True, False, True, True]))
        2
    """
    gaps = np.flatnonzero(~holds)
    return len(holds) if len(gaps) == 0 else len(holds) - 1 - int(gaps[-1])


def when(stretch: int, observed: int) -> str:
    """Say how long something has lasted, without claiming more than was observed.

    Args:
        stretch: Observed steps at the end in which it held.
        observed: Observed steps in all.

    Example:
        >>> when(12, 40)
        'in each of the last 12 observed steps'
    """
    if stretch == observed:
        return f"in each of the {stretch} observed steps"
    return f"in each of the last {stretch} observed steps"

"""Which statistics can be asked of a run, and what each is computed from."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable

import numpy as np
from numpy.typing import NDArray

from fitscope.errors import StatisticError
from fitscope.statistics.moments import COLUMNS, DERIVED, PLACE, derive

# The stored columns each derived statistic reads; reading only those is what makes one series
# of a long run cheap.
_NEEDS: dict[str, tuple[str, ...]] = {
    "finite": ("count", "nan", "posinf", "neginf"),
    "rms": ("mean", "std"),
    "absmax": ("min", "max"),
    "l1": ("mean_abs", "count", "nan", "posinf", "neginf"),
    "l2": ("mean", "std", "count", "nan", "posinf", "neginf"),
    "zero_fraction": ("zeros", "count"),
    "nonfinite": ("nan", "posinf", "neginf"),
    "nonfinite_fraction": ("nan", "posinf", "neginf", "count"),
    "dead_fraction": ("dead_units", "units"),
    "saturated_fraction": ("saturated", "count"),
    "saturated_unit_fraction": ("saturated_units", "units"),
    "sampled_fraction": ("hist_count", "count"),
}

COLUMN_STATISTICS: tuple[str, ...] = (*COLUMNS, *DERIVED)


def needed(statistics: Iterable[str]) -> list[str]:
    """The stored columns that some column statistics are computed from, in stored order."""
    wanted: set[str] = set()
    for name in statistics:
        # A statistic not listed above (added since) reads every column.
        wanted.update((name,) if name in PLACE else _NEEDS.get(name, COLUMNS))
    return [name for name in COLUMNS if name in wanted]


def compute(moments: NDArray[np.float64], name: str) -> NDArray[np.float64]:
    """A column statistic of each row of `[rows, len(COLUMNS)]`."""
    # What was stored is reported as it is, also where no tensor can have such moments.
    with np.errstate(all="ignore"):
        return np.ascontiguousarray(derive(moments, name))


def unknown_statistic(name: str, known: Collection[str], users: Collection[str]) -> StatisticError:
    """The error for a statistic nobody has."""
    near = difflib.get_close_matches(name, [*known, *users], n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    own = f" This run's own statistics: {', '.join(sorted(users))}." if users else ""
    return StatisticError(
        f"unknown statistic {name!r}.{hint} Known statistics: {', '.join(known)}.{own}"
    )

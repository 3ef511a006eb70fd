"""From the raw sums of an observed TensorFlow step to moments, in float64 on the host."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fitscope.engine.layout import Layout, Reading, to_host
from fitscope.engine.raw_rows import Reader, Shape, bare, read_units
from fitscope.engine.vector import BINS, stride
from fitscope.statistics.activation import Zones
from fitscope.statistics.moments import COLUMNS

_PLACE = {name: i for i, name in enumerate(COLUMNS)}


@dataclasses.dataclass(frozen=True)
class Kind:
    """What of a tensor is known when the step is traced; its size may vary."""

    n_units: int
    zones: Zones


@dataclasses.dataclass(frozen=True, eq=False)
class SumsRow:
    """The rows that `tensorflow_kernel` gives, still on the device."""

    layout: Layout
    kinds: Sequence[Kind]
    floats: Any
    integers: Any
    again: Any
    slow: Any
    histograms: Any
    extra: Any

    def arrays(self) -> Sequence[Any]:
        return ()

    def read(self) -> Reading:
        sites = len(self.kinds)
        sizes, nonzero = to_host(self.integers)
        shapes = [
            Shape(int(n), k.n_units, k.zones, stride(int(n))[1])
            for n, k in zip(sizes, self.kinds, strict=True)
        ]
        reader = Reader(to_host(self.floats).astype(np.float64))
        sums = reader.take(3 * sites).reshape(-1, 3)
        again = to_host(self.again)
        nonzero = np.where(again[:, 0] > 0, again[:, 3], nonzero)
        sums[:, 1:] = np.where(again[:, :1] > 0, again[:, 1:3], sums[:, 1:])
        moments = np.zeros((sites, len(COLUMNS)))
        slow = to_host(self.slow)
        for i, shape in enumerate(shapes):
            units = read_units(reader, shape, always=True)
            moments[i] = bare(shape, sums[i], float(nonzero[i]), units)
            if slow[i].any():
                _replace(moments[i], slow[i])
        counts = to_host(self.histograms).reshape(sites, BINS)
        return Reading(self.layout, np.ones(sites, bool), moments, counts, to_host(self.extra))


def _replace(moments: NDArray[np.float64], slow: NDArray[np.float64]) -> None:
    """Put in what the slow branch says of the finite elements, which holds whatever they are."""
    count, nan, posinf, neginf, zeros, low, high, total, l1, squares = slow
    n = count - nan - posinf - neginf
    values = dict.fromkeys(("mean", "std", "mean_abs", "min", "max"), np.nan)
    if n > 0:
        mean = total / n
        values = {
            "mean": mean,
            "std": np.sqrt(max(squares / n - mean * mean, 0.0)),
            "mean_abs": l1 / n,
            "min": low,
            "max": high,
        }
    values |= {"nan": nan, "posinf": posinf, "neginf": neginf, "zeros": zeros}
    for name, value in values.items():
        moments[_PLACE[name]] = value

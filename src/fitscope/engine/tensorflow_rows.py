"""From the raw sums of an observed TensorFlow step to moments, in float64 on the host."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fitscope.engine.layout import Kept, Layout, Reading, kept_bytes, to_host
from fitscope.engine.raw_rows import NONE, SUMS, Reader, Shape, bare, of_units
from fitscope.engine.vector import BINS, stride
from fitscope.statistics.activation import Zones
from fitscope.statistics.moments import COLUMNS

_PLACE = {name: i for i, name in enumerate(COLUMNS)}


class Known(Protocol):
    """What of a tensor is known when the step is traced; its size may vary."""

    @property
    def n_units(self) -> int: ...

    @property
    def zones(self) -> Zones: ...


@dataclasses.dataclass(frozen=True, eq=False)
class SumsRow:
    """The rows that `tensorflow_kernel` gives, still on the device."""

    layout: Layout
    kinds: Sequence[Known]
    place: int
    """The place of this step in the arrays, which hold those of one execution."""
    steps: Mapping[str, Any]
    """By name, what `tensorflow_kernel.row` gives, of all steps; empty where nothing was seen."""
    kept: Kept | None = None

    def arrays(self) -> Sequence[Any]:
        return ()

    @property
    def kept_bytes(self) -> int:
        return 0 if self.kept is None else kept_bytes(self.kept.tensors, self.kept.data)

    def without_kept(self) -> SumsRow:
        return dataclasses.replace(self, kept=None)

    def read(self) -> Reading:
        sites = len(self.kinds)
        moments = np.zeros((sites, len(COLUMNS)))
        if not sites:
            nothing = np.zeros((0, BINS)), np.zeros(0, np.float32), np.zeros(0, np.int64)
            return Reading(self.layout, moments, *nothing)
        step = {name: to_host(values)[self.place] for name, values in self.steps.items()}
        integers = step["integers"]
        slow = step["slow"]
        places = np.full(sites, -1, np.int64)
        reader = Reader(step["floats"].astype(np.float64))
        for i, kind in enumerate(self.kinds):
            size, nonzero = (int(n) for n in integers[i])
            shape = Shape(size, kind.n_units, kind.zones, stride(size)[1])
            sums = reader.take(SUMS)
            units = reader.take((3 if shape.saturates else 2) * shape.n_units)
            found = of_units(shape, *units.reshape(-1, shape.n_units)) if size else NONE
            moments[i] = bare(shape, sums, float(nonzero), found)
            if slow[i].any():
                _replace(moments[i], slow[i])
                if np.isfinite(slow[i][-1]):
                    places[i] = int(slow[i][-1])
        extra = reader.rest().astype(np.float32)
        counts = step["histograms"].reshape(sites, BINS)
        return Reading(self.layout, moments, counts, extra, places)


def _replace(moments: NDArray[np.float64], slow: NDArray[np.float64]) -> None:
    """Put in what the slow branch says of the finite elements, which holds whatever they are."""
    count, nan, posinf, neginf, zeros, low, high, total, l1, squares, _ = slow
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

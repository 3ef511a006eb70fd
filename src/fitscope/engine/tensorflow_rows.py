"""From the raw sums of an observed TensorFlow step to moments, in float64 on the host."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fitscope.engine.layout import Kept, Layout, Reading, kept_bytes, to_host
from fitscope.engine.raw_rows import NONE, SUMS, Shape, bare, of_units
from fitscope.engine.vector import BINS, stride
from fitscope.engine.whole_rows import read_whole
from fitscope.statistics.activation import Zones
from fitscope.statistics.moments import COLUMNS

_PLACE = {name: i for i, name in enumerate(COLUMNS)}

_PLANS = 64
"""Kept for each traced step: batches that all differ in length have no end of them."""


class Known(Protocol):
    """What of a tensor is known when the step is traced; its size may vary."""

    @property
    def n_units(self) -> int: ...

    @property
    def travels(self) -> bool: ...

    def length(self, size: int) -> int: ...

    @property
    def zones(self) -> Zones: ...


@dataclasses.dataclass(frozen=True, eq=False)
class _Alike:
    """Tensors of one kind and size; a network has many tensors of few kinds."""

    shape: Shape
    travels: bool
    tensors: list[int]
    parts: list[slice]
    """Where their numbers stand among those of the row."""

    def table(self, floats: NDArray[np.float32]) -> NDArray[np.float32]:
        """Their numbers, `[tensors, numbers]`."""
        first, last = self.parts[0].start, self.parts[-1].stop
        length = self.parts[0].stop - first
        if last - first == length * len(self.parts):  # one after the other
            return floats[first:last].reshape(len(self.parts), length)
        return np.stack([floats[part] for part in self.parts])


@dataclasses.dataclass(frozen=True, eq=False)
class _Plan:
    """How the rows of one traced step are taken apart, for tensors of known sizes."""

    alike: list[_Alike]
    reduced: list[int]
    """The tensors that did not leave the step whole."""
    end: int
    """Where the states of user statistics begin."""

    @classmethod
    def of(cls, kinds: Sequence[Known], sizes: Sequence[int]) -> _Plan:
        groups: dict[tuple[Known, int], list[int]] = {}
        parts: list[slice] = []
        end = 0
        for i, (kind, size) in enumerate(zip(kinds, sizes, strict=True)):
            start, end = end, end + kind.length(size)
            parts.append(slice(start, end))
            groups.setdefault((kind, size), []).append(i)
        alike = [
            _Alike(
                Shape(size, kind.n_units, kind.zones, stride(size)[1]),
                kind.travels,
                tensors,
                [parts[i] for i in tensors],
            )
            for (kind, size), tensors in groups.items()
        ]
        return cls(alike, [i for i, kind in enumerate(kinds) if not kind.travels], end)


class Plans:
    """How the rows of one traced step are taken apart, by the sizes of its tensors."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, ...], _Plan] = {}

    def of(self, kinds: Sequence[Known], sizes: tuple[int, ...]) -> _Plan:
        """Made once for most steps, whose tensors have the sizes of those of the step before."""
        if sizes not in self._known:
            if len(self._known) >= _PLANS:
                self._known.clear()
            self._known[sizes] = _Plan.of(kinds, sizes)
        return self._known[sizes]


@dataclasses.dataclass(frozen=True, eq=False)
class SumsRow:
    """The rows that `tensorflow_kernel` gives, still on the device."""

    layout: Layout
    kinds: Sequence[Known]
    found: Mapping[str, Any]
    """By name, what `tensorflow_kernel.row` gives."""
    kept: Kept | None = None
    plans: Plans = dataclasses.field(default_factory=Plans)
    """Of the step that was traced."""

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
        step = {name: to_host(values) for name, values in self.found.items()}
        floats, integers = step["floats"], step["integers"]
        slow, histograms = step["slow"], step["histograms"].reshape(-1, BINS)
        plan = self.plans.of(self.kinds, tuple(integers[:, 0].tolist()))
        counts = np.zeros((sites, BINS), np.float32)
        places = np.full(sites, -1, np.int64)
        for alike in plan.alike:
            table, tensors = alike.table(floats), alike.tensors
            if alike.travels:
                found = read_whole(table, alike.shape)
                moments[tensors], counts[tensors], places[tensors] = found
            else:
                nonzero = integers[tensors, 1].astype(np.float64)
                moments[tensors] = _read(table, alike.shape, nonzero)
        counts[plan.reduced] = histograms
        if slow.any():
            for i, exact in zip(plan.reduced, slow, strict=True):
                if exact.any():
                    _replace(moments[i], exact)
                    if np.isfinite(exact[-1]):
                        places[i] = int(exact[-1])
        return Reading(self.layout, moments, counts, floats[plan.end :], places)


def _read(
    table: NDArray[np.float32], shape: Shape, nonzero: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The moments of tensors of one shape, `[tensors, len(COLUMNS)]`."""
    found = NONE
    if shape.size:
        units = table[:, SUMS:].reshape(len(table), -1, shape.n_units)
        found = of_units(shape, *units.swapaxes(0, 1))
    return bare(shape, table[:, :SUMS].T.astype(np.float64), nonzero, found)


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

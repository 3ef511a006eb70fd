"""What an observed JAX step hands over, and how the host makes moments of it."""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from fitscope.engine import jax_kernel, raw_rows
from fitscope.engine.layout import Kept, Layout, Reading, kept_bytes
from fitscope.engine.vector import BINS
from fitscope.select.site import Site


@dataclasses.dataclass(frozen=True)
class Kind:
    """How a tensor is reduced, and whether that is done behind the step."""

    shape: raw_rows.Shape
    unit_axis: int
    later: bool


@dataclasses.dataclass(frozen=True, eq=False)
class TracedStep:
    """What the rows of one compiled signature hold."""

    layout: Layout
    kinds: tuple[Kind, ...]
    states: int
    """Length of the user statistics' states together."""
    kept: tuple[tuple[Site, slice], ...]
    reducers: jax_kernel.Reducers | None
    """Of the tensors, if any are reduced behind the step."""
    known_bytes: list[int] = dataclasses.field(default_factory=list)
    """What one step keeps, once that is known: JAX takes long to say how large its arrays are."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
    """What a step hands over; which trace it is from is known without waiting for it."""

    step: TracedStep = dataclasses.field(metadata={"static": True})
    tensors: Sequence[Any]
    parts: Sequence[jax_kernel.Parts]
    states: Sequence[Any]
    values: Sequence[Any]
    memory: dict[str, Any]
    """What edits carry to the next step."""

    def row(self, data: Any) -> SumsRow:
        """Have the tensors reduced, and let them go."""
        looks = jax_kernel.host_looks()
        kinds = self.step.kinds
        later = [(kind.shape.zones, kind.unit_axis) for kind in kinds if kind.later]
        tensors = [(x, *kind) for x, kind in zip(self.tensors, later, strict=True)]
        reduced = iter(self.step.reducers.reduce(tensors) if self.step.reducers else ())
        parts = iter(self.parts)
        found = [next(reduced if kind.later else parts) for kind in kinds]
        if looks and found:
            looked = functools.partial(self._looked_at, found)
            hold = _Hold.take()
            if hold is None:  # the reader is a step behind
                found, looked = looked(), None
            return SumsRow(self.step, found, self.states, self.values, data, looked, hold)
        if found:
            found = [jax_kernel.joined(found)]
        return SumsRow(self.step, found, self.states, self.values, data)

    def _looked_at(self, found: Sequence[jax_kernel.Parts]) -> Sequence[jax_kernel.Parts]:
        """What was found, with what the host has decided on after a look at it."""
        tensors = iter(self.tensors)
        return [
            jax_kernel.looked_at(own, next(tensors), kind.shape, kind.unit_axis)
            if kind.later
            else own
            for own, kind in zip(found, self.step.kinds, strict=True)
        ]


class _Hold:
    """Taken by the one row whose tensors are still in memory, for whoever reads it to look at.

    The training need not wait for their sums, then.
    """

    _one = threading.Semaphore()

    def __init__(self) -> None:
        self._taken = True

    @classmethod
    def take(cls) -> _Hold | None:
        """None where another row has it."""
        return cls() if cls._one.acquire(blocking=False) else None

    def release(self) -> None:
        """The tensors were looked at."""
        if self._taken:
            self._taken = False
            self._one.release()

    __del__ = release  # a row that nobody reads


@dataclasses.dataclass(frozen=True, eq=False)
class SumsRow:
    """What was computed of each tensor, still on the device, where there is one in one row."""

    step: TracedStep
    found: Sequence[jax_kernel.Parts]
    states: Sequence[Any]
    values: Sequence[Any]
    data: Any
    looked: Callable[[], Sequence[jax_kernel.Parts]] | None = None
    """Gives `found` with the last parts, where the host has yet to look."""
    hold: _Hold | None = None

    @property
    def layout(self) -> Layout:
        return self.step.layout

    def arrays(self) -> Sequence[Any]:
        if jax.default_backend() == "cpu":
            return ()  # already there
        parts = [part for own in self.found for part in own if part is not None]
        return *parts, *self.states, *self.values

    @property
    def kept(self) -> Kept | None:
        if self.data is None:
            return None
        kept = self.step.kept
        lengths = [site.shape[0] if site.shape else None for site, _ in kept]
        sites, rows = tuple(site for site, _ in kept), [rows for _, rows in kept]
        return Kept(sites, self.values, self.data, rows, lengths)

    @property
    def kept_bytes(self) -> int:
        if self.data is None:
            return 0
        known = self.step.known_bytes
        if not known:  # the shapes of a compiled signature do not change
            known.append(kept_bytes(self.values, self.data))
        return known[0]

    def without_kept(self) -> SumsRow:
        return dataclasses.replace(self, values=(), data=None)

    def read(self) -> Reading:
        shapes = [kind.shape for kind in self.step.kinds]
        found = self.found if self.looked is None else self.looked()
        if self.hold is not None:
            self.hold.release()
        if jax_kernel.host_looks():
            vectors = [np.asarray(vector) for vector, _, _ in found]
            blocks = [None if part is None else np.asarray(part) for _, part, _ in found]
        else:
            joined = np.concatenate([np.zeros(0, np.float32), *(row for row, _, _ in found)])
            vectors, blocks = raw_rows.split_row(joined, shapes)
        moments, places = raw_rows.read_tensors(vectors, blocks, shapes)
        histograms = _flat([counts for _, _, counts in found], np.uint16).reshape(-1, BINS)
        states = _flat(self.states, np.float32)
        return Reading(self.step.layout, moments, histograms, states, places)


def _flat(arrays: Sequence[Any], dtype: Any) -> Any:
    return np.concatenate([np.zeros(0, dtype), *(np.asarray(array).ravel() for array in arrays)])

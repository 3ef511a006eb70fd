"""Recorded tensors as a run hands them out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, overload

import numpy as np

from fitscope.errors import RunError
from fitscope.select.site import Site

Array = np.ndarray[Any, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Piece:
    """What was recorded of one site in one step; its array is loaded when it is asked for.

    Attributes:
        step: the step's number in its phase.
        epoch: the epoch's number.
        phase: `"train"`, `"validation"`, `"test"` or `"predict"`.
        start: place in the batch of the first recorded row.
        stride: from one recorded row to the next.
        rows: how many rows were recorded.
        length: how many rows the whole tensor had; None where that is not known.
        tail: shape of one row.
        seq: the number of the step among all that were recorded.
        load: reads the array, `[rows, *tail]`.
        has_rows: whether the tensor has a first axis; one without is recorded as a single row.
    """

    step: int
    epoch: int
    phase: str
    start: int
    stride: int
    rows: int
    length: int | None
    tail: tuple[int, ...]
    seq: int
    load: Callable[[], Array]
    has_rows: bool = True

    @property
    def positions(self) -> Array:
        """The places of the recorded rows in their batch, `[rows]` of int64."""
        return self.start + self.stride * np.arange(self.rows)

    @property
    def array(self) -> Array:
        """The recorded tensor, in the dtype it was recorded in."""
        found = self.load()
        return found if self.has_rows else found.reshape(self.tail)


class Rows(NamedTuple):
    """All recorded rows of a site, one after the other, and where each comes from."""

    values: Array
    """`[n, ...]`"""
    steps: Array
    """`[n]` of int64"""
    epochs: Array
    """`[n]` of int64"""
    phases: Array
    """`[n]` of str"""
    positions: Array
    """`[n]` of int64: the row's place in its batch."""


class Values(Sequence[Piece]):
    """The recorded tensors of one site, in the order of the steps that recorded them.

    Each has its own shape, so a short last batch and sequences of varying length are as they were.

    Example:
        ```python
        found = scope.run.values("head")
        found.steps                     # array([0, 100, 200])
        found[-1].array                 # the tensor of step 200
        found.rows().values.mean(0)     # over all recorded samples
        ```
    """

    def __init__(self, site: Site, pieces: Sequence[Piece]) -> None:
        self.site = site
        self._pieces = tuple(pieces)

    @property
    def steps(self) -> Array:
        """The step of each, `[n]` of int64."""
        return np.array([p.step for p in self._pieces], np.int64)

    @property
    def epochs(self) -> Array:
        """The epoch of each, `[n]` of int64."""
        return np.array([p.epoch for p in self._pieces], np.int64)

    @property
    def phases(self) -> list[str]:
        """The phase of each."""
        return [p.phase for p in self._pieces]

    @property
    def arrays(self) -> list[Array]:
        """All tensors, read into memory."""
        return [p.array for p in self._pieces]

    @overload
    def __getitem__(self, index: int) -> Piece: ...
    @overload
    def __getitem__(self, index: slice) -> Values: ...
    def __getitem__(self, index: int | slice) -> Piece | Values:
        if isinstance(index, slice):
            return Values(self.site, self._pieces[index])
        return self._pieces[index]

    def __len__(self) -> int:
        return len(self._pieces)

    def __iter__(self) -> Iterator[Piece]:
        return iter(self._pieces)

    def at(self, step: int, phase: str | None = None) -> Piece:
        """What was recorded in one step.

        Args:
            step: the step's number.
            phase: its phase; may be left out where only one recorded this step.

        Raises:
            RunError: nothing was recorded in that step, or in several phases.
        """
        found = [p for p in self._pieces if p.step == step and phase in (None, p.phase)]
        if len({p.phase for p in found}) > 1:
            raise RunError(
                f"step {step} of {self.site.name!r} was recorded in several phases: "
                f"{', '.join(sorted({p.phase for p in found}))}. Give phase=..."
            )
        if not found:
            steps = self.steps
            where = f"steps {steps.min()} to {steps.max()}" if len(steps) else "no step"
            raise RunError(
                f"{self.site.name!r} was not recorded at step {step}; it has {len(self)} "
                f"recordings ({where}). `.steps` lists them."
            )
        return found[-1]

    def rows(self) -> Rows:
        """All recorded rows under one another, for tensors whose rows are of one shape.

        Raises:
            RunError: the rows differ in shape, as those of sequences of varying length do.
        """
        tails = sorted({p.tail for p in self._pieces})
        if len(tails) > 1:
            raise RunError(
                f"the rows of {self.site.name!r} differ in shape ({tails[0]}, {tails[1]}, ...), so "
                "they do not go into one array. Go over the recordings: "
                "`for piece in run.values(...): piece.array`."
            )
        counts = [p.rows for p in self._pieces]
        loaded = [p.load() for p in self._pieces]
        return Rows(
            np.concatenate(loaded) if loaded else np.zeros((0,)),
            np.repeat(self.steps, counts),
            np.repeat(self.epochs, counts),
            np.repeat(np.array(self.phases, dtype=str), counts),
            np.concatenate([p.positions for p in self._pieces])
            if loaded
            else np.zeros(0, np.int64),
        )

    def __repr__(self) -> str:
        shapes = {(p.rows, *p.tail) if p.has_rows else p.tail for p in self._pieces}
        shown = ", ".join(map(str, sorted(shapes)[:3])) + (", ..." if len(shapes) > 3 else "")
        return f"<Values of {self.site.name!r}: {len(self)} steps, {self.site.dtype}, {shown}>"


def join(tables: dict[str, Values]) -> dict[str, Array]:
    """The rows that belong together, of several sites; see `Run.join`."""
    by_step = {
        name: {(p.phase, p.step): p for p in values if p.rows} for name, values in tables.items()
    }
    keys = [
        k for k in next(iter(by_step.values())) if all(k in found for found in by_step.values())
    ]
    parts: dict[str, list[Any]] = {name: [] for name in ("step", "epoch", "phase", "position")}
    parts.update({name: [] for name in tables})
    for key in keys:
        pieces = {name: found[key] for name, found in by_step.items()}
        _check_lengths(pieces)
        common = next(iter(pieces.values())).positions
        for piece in pieces.values():
            common = np.intersect1d(common, piece.positions)
        some = next(iter(pieces.values()))
        parts["step"].append(np.full(len(common), some.step))
        parts["epoch"].append(np.full(len(common), some.epoch))
        parts["phase"].append(np.full(len(common), some.phase))
        parts["position"].append(common)
        for name, piece in pieces.items():
            parts[name].append(piece.load()[(common - piece.start) // piece.stride])
    return {name: _joined(name, found) for name, found in parts.items()}


def _check_lengths(pieces: dict[str, Piece]) -> None:
    lengths = {name: p.length if p.has_rows else 1 for name, p in pieces.items()}
    known = {n for n in lengths.values() if n is not None}
    if len(known) > 1:
        step = next(iter(pieces.values())).step
        said = ", ".join(f"{name!r} has {n}" for name, n in lengths.items())
        raise RunError(
            f"these sites do not have one row for each sample, so their rows do not belong "
            f"together: in step {step} {said}. Join those with one row for each sample only."
        )


def _joined(name: str, found: list[Array]) -> Array:
    if len({a.shape[1:] for a in found}) > 1:
        raise RunError(
            f"the rows of {name!r} differ in shape from step to step, so they do not go into one "
            "array. Join fewer steps (steps=...), or go over `run.values(...)` by step."
        )
    return np.concatenate(found) if found else np.zeros((0,))

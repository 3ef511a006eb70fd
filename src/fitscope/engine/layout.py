"""What the rows that an observed step hands over hold."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from fitscope.engine.leaves import leaves
from fitscope.engine.trace import Slot
from fitscope.engine.vector import decode, first_bad
from fitscope.select.site import Site
from fitscope.select.unseen import Unseen


@dataclasses.dataclass(frozen=True)
class Extra:
    """Where the state of one user statistic lies in a row's extra vector."""

    slot: int
    statistic: Any
    offset: int
    length: int


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
    """The sites of one traced step, in the order of its rows.

    A function that is compiled for several batch shapes has one layout for each.
    """

    sites: tuple[Site, ...]
    extras: tuple[Extra, ...]
    unseen: tuple[Unseen, ...]

    @classmethod
    def of(
        cls,
        slots: Sequence[Slot],
        extra_lengths: Sequence[Sequence[int]],
        unseen: Sequence[Unseen],
    ) -> Layout:
        """Lay out `slots`; `extra_lengths` has the state length of each slot's statistics."""
        extras: list[Extra] = []
        offset = 0
        for index, (slot, lengths) in enumerate(zip(slots, extra_lengths, strict=True)):
            for statistic, length in zip(slot.wanted.statistics, lengths, strict=True):
                extras.append(Extra(index, statistic, offset, length))
                offset += length
        return cls(tuple(s.site for s in slots), tuple(extras), tuple(unseen))


class Row(Protocol):
    """One observed step on its way from the device to the run; its arrays may still be there."""

    @property
    def layout(self) -> Layout:
        """What it measures, without waiting for the arrays."""
        ...

    def arrays(self) -> Sequence[Any]:
        """The device arrays, for starting their transfer."""
        ...

    def read(self) -> Reading:
        """Wait for the arrays and read them, on the host."""
        ...

    @property
    def kept(self) -> Kept | None:
        """The tensors that left the step, where any was wanted."""
        ...

    @property
    def kept_bytes(self) -> int:
        """How large those are, without waiting for them."""
        ...

    def without_kept(self) -> Row:
        """The same row, which lets those go."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Kept:
    """Tensors that left a step as they are, still on the device.

    Attributes:
        sites: whose they are.
        tensors: one for each site, or the rows of it that were wanted.
        data: what the step was given, as Keras' data adapters make it.
        rows: for each site, which rows were taken.
        lengths: for each site, how many rows the whole tensor has; None where it is not known.
    """

    sites: tuple[Site, ...]
    tensors: Sequence[Any]
    data: Any
    rows: Sequence[slice]
    lengths: Sequence[Any]


def kept_bytes(tensors: Sequence[Any], data: Any) -> int:
    """Bytes of tensors of any backend, and of what the step was given."""
    return sum(_nbytes(t) for t in tensors) + sum(_nbytes(t) for _, t in leaves(data))


def _nbytes(tensor: Any) -> int:
    known = getattr(tensor, "nbytes", None)
    if known is not None:
        return int(known)
    try:
        size = math.prod(int(n) for n in tensor.shape)
        return size * int(getattr(tensor.dtype, "size", 8))
    except (TypeError, ValueError, AttributeError):
        return 0


@dataclasses.dataclass(frozen=True, eq=False)
class Reading:
    """One observed step on the host.

    Attributes:
        layout: what was measured.
        moments: `[sites, len(COLUMNS)]` float64.
        histograms: `[sites, BINS]` counts.
        extra: the states of user statistics, one after the other.
        first_bad: `[sites]`, where in the flat tensor the first element is that is not finite; -1
            where all are.
    """

    layout: Layout
    moments: Any
    histograms: Any
    extra: Any
    first_bad: Any


@dataclasses.dataclass(frozen=True, eq=False)
class VectorRow:
    """A row whose moments were finished on the device, as the vectors of `vector.py`.

    Attributes:
        layouts: every layout of the function that ran.
        key: which of them holds for these arrays.
        moments: `[sites, vector.LENGTH]` float32.
        histograms: `[sites, vector.BINS]` counts.
        extra: the states of user statistics.
    """

    layouts: Sequence[Layout]
    key: Any
    moments: Any
    histograms: Any
    extra: Any
    kept: Kept | None = None

    @property
    def layout(self) -> Layout:
        return self.layouts[int(self.key)]

    def arrays(self) -> Sequence[Any]:
        return self.moments, self.histograms, self.extra

    @property
    def kept_bytes(self) -> int:
        return 0 if self.kept is None else kept_bytes(self.kept.tensors, self.kept.data)

    def without_kept(self) -> VectorRow:
        return dataclasses.replace(self, kept=None)

    def read(self) -> Reading:
        vectors = to_host(self.moments)
        return Reading(
            self.layout,
            decode(vectors),
            to_host(self.histograms),
            to_host(self.extra),
            first_bad(vectors),
        )


def to_host(array: Any) -> np.ndarray[Any, Any]:
    """A NumPy array of a tensor of any backend."""
    if not hasattr(array, "detach"):
        return np.asarray(array)
    array = array.detach().cpu()
    if str(array.dtype) != "torch.bfloat16":
        return np.asarray(array)
    try:
        import ml_dtypes
    except ImportError:  # NumPy has no such type of its own
        return np.asarray(array.float())
    import torch

    return np.asarray(array.view(torch.int16)).view(ml_dtypes.bfloat16)


def look_at(array: Any) -> np.ndarray[Any, Any]:
    """As `to_host`, for a moment: without a copy, where the memory is the host's own.

    It has to be let go before the next step, which may write there, or could not.
    """
    if hasattr(array, "detach"):
        return to_host(array)
    if hasattr(array, "read_value"):  # a variable of TensorFlow's own
        array = array.read_value()
    try:
        return np.from_dlpack(array)
    except Exception:  # on an accelerator, over several devices, bfloat16
        return np.array(array)

"""What the rows that an observed step hands over hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from fitscope.engine.trace import Slot
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
            for statistic, length in zip(slot.statistics, lengths, strict=True):
                extras.append(Extra(index, statistic, offset, length))
                offset += length
        return cls(tuple(s.site for s in slots), tuple(extras), tuple(unseen))


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """One observed step on its way from the device to the run.

    Attributes:
        layouts: every layout of the function that ran.
        key: which of them holds for these arrays; may still be on the device.
        moments: `[sites, vector.LENGTH]` float32, still on the device.
        histograms: `[sites, vector.BINS]` counts, still on the device.
        extra: the states of user statistics, one after the other.
    """

    layouts: Sequence[Layout]
    key: Any
    moments: Any
    histograms: Any
    extra: Any

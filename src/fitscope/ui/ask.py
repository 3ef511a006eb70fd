"""The parameters of a question of the page, checked."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request

from fitscope.errors import RunError
from fitscope.run.record import PHASES
from fitscope.ui.describe import extents
from fitscope.ui.opened import Opened

MOST_COLUMNS = 2000


class Ask:
    """What is asked of an open run.

    Args:
        request: The request.
        opened: The run.
    """

    def __init__(self, request: Request, opened: Opened) -> None:
        self._given = request.query_params
        self._opened = opened
        self.statistic = self._given.get("statistic", "rms")
        self.phase = self._given.get("phase", "train")
        if self.phase not in PHASES:
            raise RunError(f"phase={self.phase!r} is not one of {', '.join(PHASES)}.")

    def statistics(self) -> list[str]:
        return self.statistic.split(",")[:16]

    def site(self) -> int:
        return self._opened.source.run.sites.index_of(self._given.get("site", ""))

    def sites(self) -> NDArray[np.int64]:
        """The sites of the picture, in their order; all by default."""
        count = len(self._opened.source.run.sites)
        given = self._given.get("sites")
        if given is None:
            return np.arange(count)
        try:
            chosen = [_span(part) for part in given.split(",") if part]
            places = np.concatenate([np.empty(0, np.int64), *chosen])
        except ValueError:
            raise RunError(f"sites={given[:80]!r}: expected numbers such as 0-9,12.") from None
        return places[(places >= 0) & (places < count)]

    def steps(self) -> tuple[int, int]:
        first, last = self._number("first"), self._number("last")
        if first is None or last is None:
            held = extents(self._opened.source).get(self.phase, {"first": 0, "last": 0})
            first = held["first"] if first is None else first
            last = held["last"] if last is None else last
        return first, max(first, last)

    def step(self) -> int:
        return self._number("step") or 0

    def reach(self) -> int:
        """Steps around a picture in which a neighbouring observation is looked for."""
        phase = extents(self._opened.source).get(self.phase)
        if phase is None:
            return 0
        return 4 * ((phase["last"] - phase["first"]) // max(phase["observed"], 1) + 1)

    def columns(self, most: int) -> int:
        return max(1, min(self._number("columns") or 800, most, MOST_COLUMNS))

    def _number(self, name: str) -> int | None:
        text = self._given.get(name)
        if text is None:
            return None
        try:
            return min(max(int(text), 0), 2**53)
        except ValueError:
            raise RunError(f"{name}={text[:40]!r}: expected a whole number.") from None


def _span(text: str) -> NDArray[np.int64]:
    first, dash, last = text.partition("-")
    stop = int(last) if dash else int(first)
    if stop - int(first) > 1_000_000:
        raise ValueError(text)
    return np.arange(int(first), stop + 1)

"""Which executions of a compiled function are observed."""

from __future__ import annotations

import math
from collections import deque
from statistics import median
from typing import Protocol


class Schedule(Protocol):
    """Decides before each execution, and learns how long each took."""

    def due(self, step: int, length: int) -> bool:
        """Whether the execution of `length` steps that starts at `step` is observed."""
        ...

    def calibrates(self) -> bool:
        """Whether the execution that was just decided on should be timed to its end."""
        ...

    def took(self, seconds: float, *, observed: bool) -> bool:
        """Note how long an execution took; whether it was more than the first of its kind."""
        ...

    def cost(self) -> float | None:
        """Seconds by which an observed execution is longer than a plain one, when known."""
        ...


class Every:
    """Every n-th step, from the first."""

    def __init__(self, n: int) -> None:
        self.n = n
        self._timing = _Timing()

    def due(self, step: int, length: int) -> bool:
        return -step % self.n < length

    def calibrates(self) -> bool:
        return False

    def took(self, seconds: float, *, observed: bool) -> bool:
        return self._timing.add(seconds, observed=observed)

    def cost(self) -> float | None:
        return self._timing.cost()


class Budget:
    """As many steps as a share of the training time pays for.

    The first execution is observed. The next ones alternate between plain and observed to
    learn what both take; from then on the interval follows from the difference.

    Args:
        share: of the time of plain training, for example 0.02.
    """

    CALIBRATION = 14
    SAFETY = 0.6
    """Of the budget that is planned for: the rest is for noise and for the host's own work."""

    def __init__(self, share: float) -> None:
        self.share = share
        self._timing = _Timing()
        self._count = 0
        self._wait = 0

    def due(self, step: int, length: int) -> bool:
        del step, length
        self._count += 1
        if self._count == 1:
            return True
        if self._count <= self.CALIBRATION:
            # The second execution compiles the plain function; pairs follow it.
            return self._count % 3 == 1
        self._wait -= 1
        if self._wait > 0:
            return False
        self._wait = self.interval()
        return True

    def calibrates(self) -> bool:
        return 2 < self._count <= self.CALIBRATION or self._wait == self.interval()

    def interval(self) -> int:
        """Executions from one observed to the next."""
        cost, plain = self._timing.cost(), self._timing.plain()
        if cost is None or plain is None or plain <= 0:
            return 20
        return max(1, math.ceil(cost / (self.SAFETY * self.share * plain)))

    def took(self, seconds: float, *, observed: bool) -> bool:
        return self._timing.add(seconds, observed=observed)

    def cost(self) -> float | None:
        return self._timing.cost()


class _Timing:
    """Times of recent executions; the first of each kind compiles and is left out."""

    LEAST = 0.002
    """Share of a plain execution below which a difference is not told from noise."""

    def __init__(self) -> None:
        self._times: dict[bool, deque[float]] = {True: deque(maxlen=9), False: deque(maxlen=31)}
        self._compiled: set[bool] = set()

    def add(self, seconds: float, *, observed: bool) -> bool:
        compiled = observed in self._compiled
        if compiled:
            self._times[observed].append(seconds)
        self._compiled.add(observed)
        return compiled

    def plain(self) -> float | None:
        times = self._times[False]
        return median(times) if times else None

    def cost(self) -> float | None:
        plain, observed = self.plain(), self._times[True]
        if plain is None or not observed:
            return None
        return max(median(observed) - plain, self.LEAST * plain)

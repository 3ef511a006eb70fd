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

    def spent(self, seconds: float) -> None:
        """Note what watching took beside the executions, before and after a training."""
        ...

    def cost(self) -> float | None:
        """Seconds by which an observed execution is longer than a plain one, when known."""
        ...


class Every:
    """Every n-th step, from the first."""

    def __init__(self, n: int) -> None:
        self.n = n
        self._costs = _Costs()
        self._waits = False
        self._before: float | None = None
        """What the plain execution before this one took, timed to its end."""
        self._settled = False

    def due(self, step: int, length: int) -> bool:
        due, *soon = (self._is_due(step + i * length, length) for i in range(3))
        # Timed to their end: an observed execution, the plain one before it, and one to settle.
        self._waits = (due or any(soon)) and not self._costs.are_many()
        return due

    def _is_due(self, step: int, length: int) -> bool:
        return -step % self.n < length

    def calibrates(self) -> bool:
        return self._waits

    def took(self, seconds: float, *, observed: bool) -> bool:
        more = self._costs.is_more_than_first(observed=observed)
        timed = self._waits and self._settled and more
        if timed and observed and self._before is not None:
            self._costs.add(seconds - self._before, self._before)
        self._before = seconds if timed and not observed else None
        self._settled = self._waits
        return more

    def spent(self, seconds: float) -> None:
        del seconds  # it observes whatever that costs

    def cost(self) -> float | None:
        return self._costs.typical()


class Budget:
    """As many steps as a share of the training time pays for.

    The first execution is observed; from the second on, the cost is probed. A probe is four plain
    executions around an observed one, each timed to its end: one to settle, two before, one
    behind it, which shares the processor with what the host makes of the observed one. What the
    last two took beyond the two before is the cost. Neighbours are compared, for a machine is
    not equally fast all day.

    From then on the interval follows from the probes, taken again every now and then. As long as
    they are few or differ, the cost is taken to be higher than they say. What is spent beside the
    executions is paid for by observing fewer: intervals are up to twice as long meanwhile.

    Args:
        share: of the time of plain training, for example 0.02.
    """

    PROBES = 6
    """Before the interval follows from them."""
    PROBE_AGAIN = 100
    """Executions from one probe to the next, once the interval is known."""
    SAFETY = 0.75
    """Of the budget that is planned for: the rest is for the host's own work."""
    LEAST = 0.002
    """Share of a plain execution below which a cost is not told from noise."""

    _PROBE = range(5)
    """Its executions by number; 0 is to settle, 3 is observed."""

    def __init__(self, share: float) -> None:
        self.share = share
        self._costs = _Costs()
        self._ahead: deque[tuple[bool, int | None]] = deque()
        """Of the executions to come: whether each is observed, and its number in a probe."""
        self._place: int | None = None
        self._probe: list[float] = []
        self._since_probe = 0
        self._begun = False
        self._owed = 0.0
        """Seconds spent beside the executions that are not yet paid for."""

    def due(self, step: int, length: int) -> bool:
        del step, length
        if not self._ahead:
            self._ahead.extend(self._next())
        observed, self._place = self._ahead.popleft()
        self._since_probe += 1
        return observed

    def _next(self) -> list[tuple[bool, int | None]]:
        probe: list[tuple[bool, int | None]] = [(i == 3, i) for i in self._PROBE]
        if not self._begun:
            self._begun = True
            return [(True, None), *probe]  # the first two compile; the second also settles
        if len(self._costs) < self.PROBES:
            return probe
        interval = self.interval()
        interval += self._pause(interval)
        # It is at least as far from one probe to the next as probes are long.
        if self._since_probe >= max(self.PROBE_AGAIN, len(probe)):
            return [*[(False, None)] * (interval - len(probe)), *probe]
        return [*[(False, None)] * (interval - 1), (True, None)]

    def _pause(self, interval: int) -> int:
        """Executions that go by besides, to pay for what was spent beside them."""
        plain = self._costs.plain()
        if not self._owed or not plain:
            return 0
        pays = self.SAFETY * self.share * plain
        # However much that was, a long pause would hide more than it saves.
        pause = min(interval, math.ceil(self._owed / pays))
        self._owed = max(0.0, self._owed - pause * pays)
        return pause

    def calibrates(self) -> bool:
        return self._place is not None

    def interval(self) -> int:
        """Executions from one observed to the next."""
        cost, plain = self._costs.at_most(), self._costs.plain()
        if cost is None or plain is None or plain <= 0:
            return 20
        return max(1, math.ceil(max(cost / plain, self.LEAST) / (self.SAFETY * self.share)))

    def took(self, seconds: float, *, observed: bool) -> bool:
        more = self._costs.is_more_than_first(observed=observed)
        if self._place == 0:
            self._probe = []
        elif self._place is not None and more:
            self._probe.append(seconds)
            if self._place == 4 and len(self._probe) == 4:
                first, second, seen, behind = self._probe
                self._costs.add(seen + behind - first - second, (first + second) / 2)
                self._since_probe = 0
        self._place = None
        return more

    def spent(self, seconds: float) -> None:
        self._owed += seconds

    def cost(self) -> float | None:
        return self._costs.typical()


class _Costs:
    """By how much recent observed executions took longer than plain ones beside them."""

    KEPT = 60
    MANY = 16

    def __init__(self) -> None:
        self._costs: deque[float] = deque(maxlen=self.KEPT)
        self._plain: deque[float] = deque(maxlen=self.KEPT)
        self._compiled: set[bool] = set()

    def __len__(self) -> int:
        return len(self._costs)

    def are_many(self) -> bool:
        return len(self) >= self.MANY

    def is_more_than_first(self, *, observed: bool) -> bool:
        """Whether this kind of execution ran before; the first one compiles."""
        more = observed in self._compiled
        self._compiled.add(observed)
        return more

    def add(self, cost: float, plain: float) -> None:
        """Note a difference, and what the plain execution beside it took."""
        self._costs.append(cost)
        self._plain.append(plain)

    def plain(self) -> float | None:
        return median(self._plain) if self._plain else None

    def typical(self) -> float | None:
        """The middle of the differences; noise can make it less than nothing, which it is not."""
        return max(median(self._costs), 0.0) if self._costs else None

    def at_most(self) -> float | None:
        """The middle and its standard error (of a median, from the median deviation)."""
        if not self._costs:
            return None
        middle = median(self._costs)
        deviation = 1.4826 * median(abs(cost - middle) for cost in self._costs)
        return middle + 1.2533 * deviation / math.sqrt(len(self._costs))

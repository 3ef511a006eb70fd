"""Several ways of doing the same work, measured in turn."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable, Mapping, Sequence
from statistics import median, quantiles


@dataclasses.dataclass(frozen=True)
class Timings:
    """Seconds of each way, one list a round."""

    rounds: Mapping[str, Sequence[Sequence[float]]]

    def seconds(self, way: str) -> float:
        """The median over all rounds."""
        return median(s for seconds in self.rounds[way] for s in seconds)

    def ratio(self, way: str, to: str = "plain") -> float:
        """Of the two medians."""
        return self.seconds(way) / self.seconds(to)

    def spread(self, way: str, to: str = "plain") -> tuple[float, float]:
        """The quartiles of the ratio taken in each round alone: how far to trust `ratio`."""
        pairs = zip(self.rounds[way], self.rounds[to], strict=True)
        ratios = [median(a) / median(b) for a, b in pairs]
        if len(ratios) < 2:
            return ratios[0], ratios[0]
        low, _, high = quantiles(ratios, n=4, method="inclusive")
        return low, high


def interleave(ways: Mapping[str, Callable[[], Sequence[float]]], rounds: int) -> Timings:
    """Measure every way once a round, beginning with another one each time.

    Args:
        ways: each does its work and returns the seconds it took, one number a repetition.
        rounds: how often every way gets its turn.
    """
    names = list(ways)
    found: dict[str, list[Sequence[float]]] = {name: [] for name in names}
    gc.collect()
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(ways[name]())
    return Timings(found)

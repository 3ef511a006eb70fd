"""In which steps the values of a step are wanted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fitscope.errors import FitscopeError, SelectionError

PHASES = ("train", "validation", "test", "predict")


def check_every(what: str, every: Any) -> int:
    """`every`, if it is a number of steps.

    Raises:
        FitscopeError: it is not.
    """
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise FitscopeError(
            f"{what}(every={every!r}): expected a whole number of steps, 1 or more."
        )
    return every


def check_phases(what: str, phases: str | Iterable[str]) -> tuple[str, ...]:
    """The phases, if they are phases.

    Raises:
        SelectionError: they are not.
    """
    chosen = (phases,) if isinstance(phases, str) else tuple(phases)
    unknown = [phase for phase in chosen if phase not in PHASES]
    if unknown or not chosen:
        raise SelectionError(
            f"{what}(phases={phases!r}): expected {', '.join(map(repr, PHASES))}, or several of "
            "them."
        )
    return chosen

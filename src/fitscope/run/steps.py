"""Which steps a query is about."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fitscope.errors import RunError

StepMask = Callable[[NDArray[np.int64]], NDArray[np.bool_]]


def step_mask(steps: Any, last: Callable[[], int]) -> StepMask | None:
    """A test of step numbers.

    Args:
        steps: `None` for all, one step, a `range`, a `slice` of step numbers (negative numbers
            count back from the last step, as in a list), or a collection of steps.
        last: Gives the last step; asked only for a negative number in a slice.

    Raises:
        RunError: `steps` is something else.

    Example:
        >>> step_mask(range(2, 4), lambda: 9)(np.arange(6)).tolist()
        [False, False, True, True, False, False]
    """
    if steps is None:
        return None
    if isinstance(steps, slice):
        steps = _range(steps, last)
        if steps is None:
            return None
    if isinstance(steps, range):
        return _in_range(steps)
    if isinstance(steps, (int, np.integer)) and not isinstance(steps, bool):
        return _in_range(range(int(steps), int(steps) + 1))
    wanted = np.asarray(list(steps) if isinstance(steps, Iterable) else "none")
    if wanted.size and (wanted.dtype.kind not in "iu" or wanted.ndim != 1):
        raise RunError(
            f"steps={steps!r} names no steps. Accepted are a step number, range(first, stop), "
            "slice(first, stop), a list of step numbers, or None for all."
        )
    return lambda step: np.isin(step, wanted)


def _range(steps: slice, last: Callable[[], int]) -> range | None:
    if steps == slice(None):
        return None
    start, stop = steps.start or 0, steps.stop
    if start < 0 or (stop is not None and stop < 0):
        end = last() + 1
        start = max(start + end, 0) if start < 0 else start
        stop = stop + end if stop is not None and stop < 0 else stop
    return range(start, np.iinfo(np.int64).max if stop is None else stop, steps.step or 1)


def _in_range(steps: range) -> StepMask:
    ordered = steps if steps.step > 0 else steps[::-1]

    def mask(step: NDArray[np.int64]) -> NDArray[np.bool_]:
        within = (step >= ordered.start) & (step < ordered.stop)
        return within & ((step - ordered.start) % ordered.step == 0)

    return mask

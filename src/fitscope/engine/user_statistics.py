"""How a statistic of the user's own is called on a tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fitscope.engine.failures import StatisticFailedError
from fitscope.engine.paired import Paired
from fitscope.errors import StatisticError


def user_state(
    statistic: Any, x: Any, beside: Any, convert: Callable[[Any], Any], float32: Any
) -> Any:
    """Run a user statistic's `update`, and hold it to its contract.

    Args:
        statistic: what the user wrote.
        x: what it measures, as float32.
        beside: what a paired statistic is given, too.
        convert: makes the backend's tensor of what it returned.
        float32: the backend's name for the type that it has to return.

    Raises:
        StatisticError: It returned something else than a vector of fixed length of that type.
        StatisticFailedError: It raised an error.
    """
    try:
        given = (x, beside) if isinstance(statistic, Paired) else (x,)
        state = convert(statistic.update(*given))
    except Exception as error:
        raise StatisticFailedError(
            f"its statistic {statistic.name!r} failed: {type(error).__name__}: {error}"
        ) from error
    shape = tuple(state.shape)
    if len(shape) != 1 or shape[0] is None or state.dtype != float32:
        raise StatisticError(
            f"Statistic {statistic.name!r}: update returned a tensor of shape {shape} and dtype "
            f"{getattr(state.dtype, 'name', state.dtype)}; it must return a 1-D float32 tensor of "
            "fixed length. Use keras.ops.stack or reshape, and cast to float32."
        )
    return state

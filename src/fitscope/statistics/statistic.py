"""Statistics that users add."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fitscope.errors import StatisticError
from fitscope.statistics.descriptions import ALL

State = NDArray[np.float32] | NDArray[np.float64]

RESERVED: frozenset[str] = frozenset(ALL) | {
    "histogram",
    "step",
    "epoch",
    "phase",
    "site",
    "statistic",
    "value",
}


class Statistic(ABC):
    """A reduction of a tensor, computed on the device in the step that trains.

    `update` runs on the device, inside the compiled step. `merge` and `result` run on the host, on
    NumPy arrays: `merge` joins the states of replicas, of several calls and of several steps, so
    it must not depend on order or grouping. A state that is a vector of sums merges by addition; a
    maximum does not, which is why there is no default.

    Attributes:
        name: A Python identifier under which the results are stored; not a built-in statistic.

    Raises:
        StatisticError: At definition, if the class sets a name that cannot be used.

    Example:
        The share of outliers. Not the share itself is the state, which could not be merged, but
        the two counts that it is the quotient of:

        >>> class Outliers(Statistic):
        ...     name = "outliers"
        ...
        ...     def __init__(self, limit=3.0):
        ...         self.limit = limit
        ...
        ...     def update(self, x):
        ...         from keras import ops
        ...
        ...         outside = ops.cast(ops.abs(x) > self.limit, "float32")
        ...         return ops.stack([ops.sum(outside), ops.sum(ops.ones_like(x))])
        ...
        ...     def merge(self, a, b):
        ...         return a + b
        ...
        ...     def result(self, state):
        ...         return float(state[0] / state[1])
    """

    name: str

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        name = cls.__dict__.get("name")
        # A property or an attribute set in __init__ is checked when the statistic is used.
        if isinstance(name, str):
            check_name(name)

    @abstractmethod
    def update(self, x: Any) -> Any:
        """Reduce one tensor, with `keras.ops` alone.

        Args:
            x: The tensor of the site as float32, batch first.

        Returns:
            The state: a float32 tensor `[length]`, the same length at every step of a site.
        """

    def merge(self, a: State, b: State) -> State:
        """Join the states of two disjoint pieces of data.

        Args:
            a: NumPy array `[length]`.
            b: The same.

        Returns:
            The state of both pieces together, `[length]`.

        Raises:
            StatisticError: Always, unless a subclass defines how to merge.
        """
        raise StatisticError(
            f"the statistic {self.name!r} cannot be merged: {type(self).__name__} does not define "
            "merge(self, a, b), which is needed with several replicas or calls. For a state of "
            "sums and counts return a + b; for a maximum return np.maximum(a, b)."
        )

    def result(self, state: State) -> float | dict[str, float]:
        """The statistic's value; by default the one number of a state of length 1.

        Args:
            state: NumPy array `[length]`.

        Returns:
            A number, or several by name (identifiers).

        Raises:
            StatisticError: The state is longer and a subclass does not define its result.
        """
        if np.size(state) == 1:
            return float(np.reshape(state, ())[()])
        raise StatisticError(
            f"the statistic {self.name!r} has a state of {np.size(state)} numbers, and "
            f"{type(self).__name__} does not define result(self, state). Return a float, or a "
            "dict of names and floats."
        )


def check_name(name: object) -> str:
    """Check the name of a user's statistic.

    Raises:
        StatisticError: The name is not an identifier, or is taken by a built-in statistic.
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise StatisticError(
            f"{name!r} cannot name a statistic. Accepted are Python identifiers, such as "
            "'outliers'; set the attribute `name` of the class."
        )
    if name in RESERVED:
        raise StatisticError(
            f"{name!r} cannot name a statistic of yours: fitscope uses it. Accepted is any other "
            f"identifier, such as 'my_{name}'."
        )
    return name


def check_statistic(statistic: object) -> Statistic:
    """Check that an object is a statistic with a usable name.

    Raises:
        StatisticError: It is not an instance of `Statistic`, or its name cannot be used.
    """
    if not isinstance(statistic, Statistic):
        what = "a class; call it" if isinstance(statistic, type) else type(statistic).__name__
        raise StatisticError(
            f"{statistic!r} is not a statistic, it is {what}. Accepted are the names of built-in "
            "statistics and instances of subclasses of Statistic."
        )
    check_name(getattr(statistic, "name", None))
    return statistic


def named_results(statistic: Statistic, state: State) -> dict[str, float]:
    """The values of a statistic under the names they are stored by.

    Args:
        statistic: The statistic.
        state: Its state, NumPy array `[length]`.

    Returns:
        `{name: value}`, or `{"name.key": value}` for each entry of a dict result.

    Raises:
        StatisticError: The result is neither a number nor a dict of identifiers and numbers.
    """
    result: object = statistic.result(state)
    entries = (
        {f"{statistic.name}.{key}": value for key, value in result.items()}
        if isinstance(result, dict) and all(str(key).isidentifier() for key in result)
        else {statistic.name: result}
    )
    try:
        return {
            name: float(value)  # pyright: ignore[reportArgumentType]
            for name, value in entries.items()
        }
    except (TypeError, ValueError) as error:
        raise StatisticError(
            f"the statistic {statistic.name!r} gave the result {result!r}. Accepted is a float, or "
            "a dict of identifiers and floats."
        ) from error

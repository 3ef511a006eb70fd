"""Edits that act on each number of a tensor for itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from fitscope.edits.edit import At, Edit, blend, constant, fitting, listed, number
from fitscope.errors import EditError

_register = keras.saving.register_keras_serializable(package="fitscope")


@_register
class Scale(Edit):
    """The tensor times a factor: `x * factor` at strength 1, `x` at strength 0.

    Args:
        factor: any finite number.

    Example:
        `fs.edit("residual_3", fs.Scale(0.5))`
    """

    is_scale_free = True

    def __init__(self, factor: float) -> None:
        self.factor = number(factor, "Scale(factor)")

    def apply(self, x: Any, at: At) -> Any:
        by = ops.where(at.strength == 1, self.factor, 1 + at.strength * (self.factor - 1))
        return x * ops.cast(by, x.dtype)

    def get_config(self) -> dict[str, Any]:
        return {"factor": self.factor}


@_register
class Clip(Edit):
    """The tensor with its values kept between two bounds; the gradient is 0 beyond them.

    Args:
        minimum: the lower bound, or None.
        maximum: the upper bound, or None.

    Example:
        `fs.edit("logits", fs.Clip(-30, 30))`
    """

    def __init__(self, minimum: float | None = None, maximum: float | None = None) -> None:
        if minimum is None and maximum is None:
            raise EditError("Clip(): expected a minimum, a maximum, or both.")
        self.minimum = None if minimum is None else number(minimum, "Clip(minimum)")
        self.maximum = None if maximum is None else number(maximum, "Clip(maximum)")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise EditError(
                f"Clip({minimum!r}, {maximum!r}): the minimum is above the maximum; give the "
                "smaller one first."
            )

    def apply(self, x: Any, at: At) -> Any:
        changed = x
        if self.minimum is not None:
            changed = ops.maximum(changed, ops.cast(self.minimum, x.dtype))
        if self.maximum is not None:
            changed = ops.minimum(changed, ops.cast(self.maximum, x.dtype))
        return blend(x, changed, at.strength)

    def get_config(self) -> dict[str, Any]:
        return {"minimum": self.minimum, "maximum": self.maximum}


@_register
class Zero(Edit):
    """Zeros: everywhere, for some units, or where a mask says so; exact, over NaN too.

    Args:
        units: numbers of units (features, channels), from 0; negative ones count from the end.
        mask: an array that can be spread over the tensor; zeros go where it is true.

    Example:
        `fs.edit("dense_1", fs.Zero(units=[3, 17]))`
    """

    is_scale_free = True

    def __init__(self, units: int | Iterable[int] | None = None, mask: Any = None) -> None:
        if units is not None and mask is not None:
            raise EditError("Zero(units=..., mask=...): give one of them.")
        self.units = None if units is None else _units(units)
        self.mask = None if mask is None else constant(mask, "Zero(mask=...)").astype(bool)

    def apply(self, x: Any, at: At) -> Any:
        strength = at.like(x)
        # Not a product: a unit that is NaN is to be zero, too.
        gone = ops.where(strength == 1, ops.zeros_like(x), x * (1 - strength))
        if self.mask is None and self.units is None:
            return gone
        where = self.mask if self.units is None else self._mask(x, at)
        chosen = ops.cast(fitting(np.asarray(where), x, at, repr(self)), "bool")
        return ops.where(chosen, gone, x)

    def _mask(self, x: Any, at: At) -> Any:
        rank, axis = len(x.shape), at.unit_axis
        count = x.shape[axis] if rank else 0
        beyond = [unit for unit in self.units or () if count is None or not -count <= unit < count]
        if beyond or count is None:
            raise EditError(
                f"The edit {self!r} of {at.site.name or at.site.path} names the unit "
                f"{beyond[0] if beyond else '?'}; the tensor has {count} units, along axis "
                f"{axis}."
            )
        mask = np.zeros(count, bool)
        mask[list(self.units or ())] = True
        shape = [1] * rank
        shape[axis] = count
        return mask.reshape(shape)

    def get_config(self) -> dict[str, Any]:
        return {
            "units": self.units,
            "mask": None if self.mask is None else listed(self.mask),
        }


def _units(units: Any) -> list[int]:
    several = list(units) if isinstance(units, Iterable) else [units]
    if not several or any(
        isinstance(unit, bool) or not isinstance(unit, (int, np.integer)) for unit in several
    ):
        raise EditError(
            f"Zero(units={units!r}): expected the number of a unit, or a list of them, such as "
            "[3, 17]."
        )
    return [int(unit) for unit in several]

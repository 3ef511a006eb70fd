"""Edits that put something else in the place of a tensor, or add something to it."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from fitscope.edits.edit import At, Edit, blend, constant, fitting, listed, number
from fitscope.errors import EditError

_register = keras.saving.register_keras_serializable(package="fitscope")


@_register
class Replace(Edit):
    """What says nothing of the sample in its place; no gradient flows back through it.

    Args:
        value: a number, or an array that can be spread over the tensor: for one sample, the mean
            of recorded ones for example, or for the whole batch.
        running_mean: in place of a value, the decay, from 0 to below 1, of a moving average of each
            unit's mean: that of the training steps so far in which the edit acted, this one
            included. Steps in which a mean is not finite are left out of it. It goes on from epoch
            to epoch; other phases than training take it as it is.

    Example:
        `fs.edit("attn", fs.Replace(run.values("attn").at(200).array.mean(0)))`,
        `fs.edit("attn", fs.Replace(running_mean=0.99))`
    """

    def __init__(self, value: Any = None, running_mean: float | None = None) -> None:
        if (value is None) == (running_mean is None):
            raise EditError("Replace(value=..., running_mean=...): give one of them.")
        self.value = None if value is None else constant(value, "Replace(value)")
        self.running_mean = None
        if running_mean is not None:
            self.running_mean = number(running_mean, "Replace(running_mean)", least=0)
            if self.running_mean >= 1:
                raise EditError(f"Replace(running_mean={running_mean!r}): expected less than 1.")

    def memory_length(self, x: Any, at: At) -> int:
        # The means of the units, and how much the steps so far weigh together in each.
        return 0 if self.running_mean is None else 2 * self._units(x, at)

    def remember(self, memory: Any, x: Any, at: At) -> Any:
        means = self._means(x, at)
        found: Any = ops.concatenate([means, ops.ones_like(means)])
        finite = ops.isfinite(ops.concatenate([means, means]))
        decay = self.running_mean or 0.0
        mixed = memory * decay + found * (1 - decay)
        return ops.where(finite, mixed, memory)

    def apply(self, x: Any, at: At) -> Any:
        if self.value is not None:
            value = fitting(self.value, x, at, repr(self))
        else:
            units = self._units(x, at)
            means, weights = at.memory[:units], at.memory[units:]
            learned = means / ops.maximum(weights, 1e-30)
            known = ops.where(weights > 0, learned, self._means(x, at))
            shape = [1] * len(x.shape)
            shape[at.unit_axis] = units
            value = ops.stop_gradient(ops.cast(ops.reshape(known, shape), x.dtype))
        return blend(x, ops.broadcast_to(value, ops.shape(x)), at.strength)

    def _means(self, x: Any, at: At) -> Any:
        axis = at.unit_axis % len(x.shape)
        rest = [i for i in range(len(x.shape)) if i != axis]
        return ops.stop_gradient(ops.mean(ops.cast(x, "float32"), rest))

    def _units(self, x: Any, at: At) -> int:
        units = x.shape[at.unit_axis] if len(x.shape) > 1 else None
        if units is None:
            raise EditError(
                f"The edit {self!r} of {at.site.name or at.site.path} needs a tensor whose number "
                f"of units is known; it has the shape {tuple(x.shape)}."
            )
        return units

    def get_config(self) -> dict[str, Any]:
        value = None if self.value is None else listed(self.value)
        return {"value": value, "running_mean": self.running_mean}


@_register
class Steer(Edit):
    """The tensor plus a direction, the same for all samples: `x + strength * scale * direction`.

    Args:
        direction: an array that can be spread over the tensor; one number for each unit, mostly.
        scale: what it is multiplied by.

    Example:
        `fs.edit("block_3", fs.Steer(happy.mean(0) - sad.mean(0), scale=2.0))`
    """

    def __init__(self, direction: Any, scale: float = 1.0) -> None:
        self.direction = constant(direction, "Steer(direction)")
        self.scale = number(scale, "Steer(scale)")

    def apply(self, x: Any, at: At) -> Any:
        direction = fitting(self.direction, x, at, repr(self))
        return x + ops.cast(at.strength * self.scale, x.dtype) * direction

    def get_config(self) -> dict[str, Any]:
        return {"direction": listed(self.direction), "scale": self.scale}


@_register
class Patch(Edit):
    """For each sample, the tensor of another one in its place: of a run, or of the same batch.

    Patching asks what a site decides: everything behind it goes on with the activation of another
    input. `Patch(values=...)` takes it from recorded values, row by row, so the steps must have
    batches of as many rows; `Patch(rows=...)` takes it from the same batch.

    Args:
        values: an array of the tensor's own shape, `run.values(site).at(step).array` for example.
        rows: for each row of the batch the number of the row to take, or one number for all.
        units: numbers of units to patch; None for all.

    Example:
        `fs.edit("block_2", fs.Patch(rows=0))`
    """

    def __init__(self, values: Any = None, rows: Any = None, units: Any = None) -> None:
        if (values is None) == (rows is None):
            raise EditError("Patch(values=..., rows=...): give one of them.")
        self.values = None if values is None else constant(values, "Patch(values=...)")
        self.rows = None if rows is None else constant(rows, "Patch(rows=...)")
        self.units = None if units is None else constant(units, "Patch(units=...)").ravel()
        for what, chosen in (("rows", self.rows), ("units", self.units)):
            if chosen is not None and (chosen.dtype.kind not in "iu" or chosen.min() < 0):
                raise EditError(f"Patch({what}=...): expected numbers of {what}, from 0.")

    def apply(self, x: Any, at: At) -> Any:
        other = self._recorded(x, at) if self.rows is None else self._of_batch(x, at)
        if self.units is not None:
            count = x.shape[at.unit_axis]
            if count is None or self.units.max() >= count:
                raise EditError(
                    f"The edit {self!r} of {at.site.name or at.site.path} names the unit "
                    f"{self.units.max()}; the tensor has {count} units, along axis {at.unit_axis}."
                )
            chosen = np.zeros(count, bool)
            chosen[self.units] = True
            shape = [1] * len(x.shape)
            shape[at.unit_axis] = count
            other = ops.where(ops.convert_to_tensor(chosen.reshape(shape)), other, x)
        return blend(x, other, at.strength)

    def _recorded(self, x: Any, at: At) -> Any:
        values: Any = self.values
        # On shapes alone, the size of a batch is not that of the training.
        whole = tuple(values.shape[1:]) == tuple(x.shape[1:]) and values.ndim == len(x.shape)
        rows = x.shape[0] if x.shape else None
        symbolic = isinstance(x, keras.KerasTensor) or at.tries_shapes
        if not whole or (rows not in (None, len(values)) and not symbolic):
            raise EditError(
                f"The edit {self!r} of {at.site.name or at.site.path} has values of shape "
                f"{values.shape}; expected {tuple(x.shape)}. Take them from a step with as many "
                "rows, of a run with that layer."
            )
        if symbolic:
            return x
        return ops.convert_to_tensor(values, dtype=keras.backend.standardize_dtype(x.dtype))

    def _of_batch(self, x: Any, at: At) -> Any:
        rows: Any = self.rows
        known = x.shape[0] if x.shape else None
        beyond = known is not None and rows.max() >= known and not at.tries_shapes
        fits = rows.ndim == 0 or (
            rows.ndim == 1 and (known in (None, len(rows)) or at.tries_shapes)
        )
        if not x.shape or beyond or not fits:
            raise EditError(
                f"The edit {self!r} of {at.site.name or at.site.path} takes the rows "
                f"{rows.tolist()}; the batch has {known}. Give one number below that, or one for "
                "each row; train on batches of one size (drop the last, shorter one)."
            )
        if at.tries_shapes:
            return x
        index = ops.convert_to_tensor(np.atleast_1d(rows).astype("int32"))
        taken = ops.take(x, index, axis=0)
        return ops.broadcast_to(taken, ops.shape(x)) if rows.ndim == 0 else taken

    def get_config(self) -> dict[str, Any]:
        parts = {"values": self.values, "rows": self.rows, "units": self.units}
        return {key: None if x is None else listed(x) for key, x in parts.items()}


@_register
class Quantize(Edit):
    """The tensor rounded to what another dtype can hold; the gradient passes as if it were not.

    Simulates low precision: the values are those of the dtype, the tensor keeps its own. The
    gradient goes straight through (Bengio et al., 2013, arXiv:1308.3432).

    Args:
        dtype: `"float16"`, `"bfloat16"`, `"float8_e4m3fn"`, `"float8_e5m2"`, or `"int8"`: 255 even
            levels, over the largest magnitude of each tensor.

    Example:
        `fs.edit("dense_*", fs.Quantize("float8_e4m3fn"))`
    """

    def __init__(self, dtype: str) -> None:
        accepted = ("float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int8")
        if dtype not in accepted:
            raise EditError(f"Quantize({dtype!r}): expected one of {', '.join(accepted)}.")
        self.dtype = dtype

    def apply(self, x: Any, at: At) -> Any:
        rounded = ops.stop_gradient(blend(x, self._rounded(ops.stop_gradient(x)), at.strength))
        # The value is the rounded one to the bit, where x is finite; the gradient is that of x.
        return rounded + (x - ops.stop_gradient(x))

    def _rounded(self, x: Any) -> Any:
        if self.dtype != "int8":
            return ops.cast(ops.cast(x, self.dtype), x.dtype)
        exact = ops.cast(x, "float32")
        largest = ops.maximum(ops.max(ops.abs(exact)), keras.backend.epsilon())
        step = ops.divide(largest, 127)
        return ops.cast(ops.multiply(ops.round(ops.divide(exact, step)), step), x.dtype)

    def get_config(self) -> dict[str, Any]:
        return {"dtype": self.dtype}

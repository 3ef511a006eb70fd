"""What an edit is, and what it is told where it acts."""

from __future__ import annotations

import dataclasses
import inspect
import json
import zlib
from collections.abc import Callable
from typing import Any, ClassVar, Self

import keras
import numpy as np
from keras import ops

from fitscope.errors import EditError
from fitscope.select.site import Site


@dataclasses.dataclass(frozen=True, eq=False)
class At:
    """Where and when an edit acts; what it reads here may change from step to step.

    Attributes:
        site: the tensor's site, with its shape and dtype.
        unit_axis: the axis along which the units (features, channels) lie.
        strength: a float32 scalar on the device, 1 unless a schedule or the user says otherwise.
        words: two numbers of the step, int32 `[2]` on the device, that no other step has.
        port: `"output"` or `"gradient"`.
        through_gradient: on `"output"`, makes a tensor whose gradient goes through a function:
            `through_gradient(x, function)`.
    """

    site: Site
    unit_axis: int
    strength: Any
    words: Any
    port: str
    through_gradient: Callable[[Any, Callable[[Any], Any]], Any]
    tries_shapes: bool = False
    """Whether nothing is run, and the size of the batch is not that of the training."""
    memory: Any = None
    """What `Edit.remember` gave in this step, or in the last one of the training."""

    @property
    def place(self) -> str:
        """The tensor's name, the same in every step."""
        return f"{self.site.path}#{self.site.call or 0}:{self.port}{self.site.leaf}"

    def like(self, x: Any) -> Any:
        """The strength in the dtype of a tensor."""
        return ops.cast(self.strength, x.dtype)

    def seed(self, own: int) -> Any:
        """A seed for `keras.random` that differs from step to step and from site to site.

        Args:
            own: the seed of the edit.
        """
        place = self.place
        mixed = zlib.crc32(f"{own}/{place}".encode()), zlib.crc32(f"{place}/{own}".encode())
        return _StepSeed(self.words, [word & 0x3FFFFFFF for word in mixed])


class _StepSeed(keras.random.SeedGenerator):
    """A seed that is computed from the step, and keeps no state of its own."""

    def __init__(self, words: Any, mixed: list[int]) -> None:
        # The base class would make a variable.
        self._words = words
        self._mixed = mixed

    def next(self, ordered: bool = True) -> Any:
        del ordered
        words = ops.bitwise_xor(ops.cast(self._words, "int32"), ops.array(self._mixed, "int32"))
        # Raw keys of JAX are unsigned; torch adds the two words, TensorFlow casts to int32 itself.
        return ops.cast(words, "uint32") if keras.backend.backend() == "jax" else words


class Edit:
    """What becomes of a tensor. Subclass it for edits of your own that have settings.

    `apply` is written with `keras.ops` and gives back a tensor of the same shape and dtype.

    Example:
        ```python
        class Shift(fs.Edit):
            def __init__(self, by):
                self.by = by

            def apply(self, x, at):
                return x + at.like(x) * self.by

            def get_config(self):
                return {"by": self.by}
        ```
    """

    is_gradient_edit: ClassVar[bool] = False
    """Whether it leaves the output as it is and acts on the gradient that flows back."""

    is_off_at_zero: ClassVar[bool] = True
    """Whether the tensor is as it was where the strength is 0."""

    is_scale_free: ClassVar[bool] = False
    """Whether `apply(c * x) == c * apply(x)`: a loss scale then does not matter to it."""

    def apply(self, x: Any, at: At) -> Any:
        """The edited tensor.

        Args:
            x: the tensor.
            at: where and when; `at.strength` says how much.
        """
        raise NotImplementedError

    def memory_length(self, x: Any, at: At) -> int:
        """How many float32 numbers the edit carries from step to step; they begin as zeros."""
        del x, at
        return 0

    def remember(self, memory: Any, x: Any, at: At) -> Any:
        """What it carries on from a training step in which it acts; `apply` finds it in `at`."""
        del x, at
        return memory

    def get_config(self) -> dict[str, Any]:
        """The arguments that make an equal edit, in plain types."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """An edit of what `get_config` gave."""
        return cls(**config)

    def __repr__(self) -> str:
        settings = ", ".join(f"{key}={_short(x)}" for key, x in self.get_config().items())
        return f"{type(self).__name__}({settings})"

    def describe(self) -> dict[str, Any]:
        """For the run: the class and its settings; of large arrays shape and checksum."""
        return {"class": type(self).__name__, "config": _small(self.get_config())}


class Function(Edit):
    """A function of `keras.ops` as an edit; its strength blends between before and after."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def apply(self, x: Any, at: At) -> Any:
        changed = self.function(x)
        checked(changed, x, at, repr(self))
        return blend(x, changed, at.strength)

    def __repr__(self) -> str:
        return getattr(self.function, "__qualname__", None) or repr(self.function)

    def describe(self) -> dict[str, Any]:
        return {"class": "function", "config": {"name": repr(self)}}


def as_edit(edit: Any) -> Edit:
    """An edit of what the user gave.

    Raises:
        EditError: it is none.
    """
    if isinstance(edit, Edit):
        return edit
    if inspect.isclass(edit) or not callable(edit) or isinstance(edit, keras.layers.Layer):
        hint = f"; give an object, {edit.__name__}(...)" if inspect.isclass(edit) else ""
        raise EditError(
            f"edit(..., {edit!r}): expected an edit such as fs.Scale(0.5), or a function of "
            f"keras.ops that takes a tensor and gives one of the same shape and dtype{hint}."
        )
    return Function(edit)


def blend(x: Any, changed: Any, strength: Any) -> Any:
    """`changed` at strength 1, to the bit; between the two below it, and beyond it above."""
    strength = ops.cast(strength, x.dtype)
    return ops.where(strength == 1, changed, x + strength * (changed - x))


def checked(changed: Any, x: Any, at: At, edit: str) -> Any:
    """The edited tensor, if it may stand in the place of the one before.

    Raises:
        EditError: it may not.
    """
    name = at.site.name or at.site.path
    if not ops.is_tensor(changed):
        raise EditError(
            f"The edit {edit} of {name} gave a {type(changed).__name__}: expected a tensor like "
            "the one it was given; write it with keras.ops, and return the result."
        )
    if not _same_shape(changed.shape, x.shape):
        raise EditError(
            f"The edit {edit} of {name} gave a tensor of shape {shape_text(changed)}; expected "
            f"{shape_text(x)}, the shape it was given."
        )
    before = keras.backend.standardize_dtype(x.dtype)
    after = keras.backend.standardize_dtype(changed.dtype)
    if before != after:
        raise EditError(
            f"The edit {edit} of {name} gave {after}; expected {before}, the dtype it was given. "
            "Cast what comes into it: keras.ops.cast(value, x.dtype)."
        )
    return changed


def constant(values: Any, what: str) -> np.ndarray[Any, Any]:
    """An array of numbers of the user's.

    Raises:
        EditError: it holds something else.
    """
    found = np.asarray(values)
    if found.dtype.kind not in "fiub" or found.size == 0:
        raise EditError(
            f"{what}: expected numbers, received {type(values).__name__} of {found.dtype} and "
            f"shape {found.shape}."
        )
    return found


def number(value: Any, what: str, *, least: float | None = None) -> float:
    """A finite number of the user's.

    Raises:
        EditError: it is none, or below `least`.
    """
    if isinstance(value, (bool, str)) or not isinstance(value, (int, float, np.number)):
        raise EditError(f"{what}={value!r}: expected a number.")
    found = float(value)
    if not np.isfinite(found) or (least is not None and found < least):
        bound = "" if least is None else f", {least:g} or more"
        raise EditError(f"{what}={value!r}: expected a finite number{bound}.")
    return found


def fitting(values: np.ndarray[Any, Any], x: Any, at: At, edit: str) -> Any:
    """A constant in the dtype of a tensor, which it can be spread over.

    Raises:
        EditError: it cannot.
    """
    shape = tuple(x.shape)
    padded = (1,) * (len(shape) - values.ndim) + values.shape
    fits = len(padded) == len(shape) and all(
        a in (1, b) for a, b in zip(padded[1:], shape[1:], strict=True)
    )
    # The batch that a model is tried on has a size of its own, and on TensorFlow none.
    any_batch = at.tries_shapes or not shape or shape[0] is None
    if not fits or not (any_batch or padded[0] in (1, shape[0])):
        raise EditError(
            f"The edit {edit} of {at.site.name or at.site.path} has an array of shape "
            f"{values.shape}; expected one that can be spread over {shape_text(x)}."
        )
    if at.tries_shapes and shape and values.ndim == len(shape):
        values = values[:1]
    return ops.convert_to_tensor(values, dtype=keras.backend.standardize_dtype(x.dtype))


def listed(values: np.ndarray[Any, Any]) -> Any:
    """An array in plain types."""
    return values.tolist()


def _same_shape(one: Any, other: Any) -> bool:
    """Whether two shapes agree, as far as they are known."""
    return len(one) == len(other) and all(
        a is None or b is None or a == b for a, b in zip(one, other, strict=True)
    )


def shape_text(tensor: Any, *, any_batch: bool = False) -> str:
    """A tensor's shape, for messages.

    Args:
        tensor: the tensor.
        any_batch: whether its first axis has another length in the training.
    """
    shape = [*tensor.shape]
    if any_batch and shape:
        shape[0] = None
    return "(" + ", ".join("?" if n is None else str(n) for n in shape) + ")"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _small(config: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in config.items():
        text = json.dumps(value, default=repr)
        if len(text) <= 500:
            found[key] = json.loads(text)
        else:
            shape = list(np.shape(value))
            found[key] = {"shape": shape, "crc32": f"{zlib.crc32(text.encode()):08x}"}
    return found

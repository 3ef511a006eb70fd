"""Edits that leave an output as it is, and act on the gradient that flows back through it."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from fitscope.edits.edit import At, Edit, blend, number

_register = keras.saving.register_keras_serializable(package="fitscope")


@_register
class StopGradient(Edit):
    """No gradient flows back through the tensor; below strength 1, a part of it does.

    Example:
        `fs.edit("encoder/out", fs.StopGradient(), when=fs.epochs(0, 3))`
    """

    is_gradient_edit = True
    is_scale_free = True

    def apply(self, x: Any, at: At) -> Any:
        strength = at.strength

        def part(gradient: Any) -> Any:
            kept = gradient * ops.cast(1 - strength, gradient.dtype)
            return ops.where(strength == 1, ops.zeros_like(gradient), kept)

        return at.through_gradient(x, part)


@_register
class ReverseGradient(Edit):
    """The gradient that flows back is multiplied by `-scale * strength`; the output stays.

    Gradient reversal, as in domain-adversarial training (Ganin et al., 2016, arXiv:1505.07818):
    what lies before the tensor learns to make worse what lies behind it learns to make better. At
    strength 0 no gradient flows back.

    Args:
        scale: the factor, called lambda in the paper; a schedule of it is a ramp of the strength.

    Example:
        `fs.edit("domain_in", fs.ReverseGradient(), when=fs.ramp(0, 1, epochs=(0, 10)))`
    """

    is_gradient_edit = True
    is_off_at_zero = False
    is_scale_free = True

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = number(scale, "ReverseGradient(scale)")

    def apply(self, x: Any, at: At) -> Any:
        factor = -self.scale * at.strength
        return at.through_gradient(x, lambda gradient: gradient * ops.cast(factor, gradient.dtype))

    def get_config(self) -> dict[str, Any]:
        return {"scale": self.scale}


@_register
class ClipGradient(Edit):
    """The gradient that flows back is kept within `[-limit, limit]`, number by number.

    Under a loss scale the limit is for the gradient without it.

    Args:
        limit: 0 or more.

    Example:
        `fs.edit("lstm_*", fs.ClipGradient(1e-2))`
    """

    is_gradient_edit = True

    def __init__(self, limit: float) -> None:
        self.limit = number(limit, "ClipGradient(limit)", least=0)

    def apply(self, x: Any, at: At) -> Any:
        strength = at.strength

        def clipped(gradient: Any) -> Any:
            limit: Any = ops.cast(self.limit, gradient.dtype)
            return blend(gradient, ops.clip(gradient, -limit, limit), strength)

        return at.through_gradient(x, clipped)

    def get_config(self) -> dict[str, Any]:
        return {"limit": self.limit}

"""Noise that can be told again from a seed and the number of the step."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from fitscope.edits.edit import At, Edit, number
from fitscope.errors import EditError


@keras.saving.register_keras_serializable(package="fitscope")
class Noise(Edit):
    """The tensor plus Gaussian noise, drawn anew in every step.

    The noise depends on the seed, the site and the number of the step, and on nothing else: the
    model's own random numbers, of its dropout for example, are those of a training without it.

    Args:
        stddev: its standard deviation, in the units of the tensor; strength multiplies it.
        seed: a whole number.

    Example:
        `fs.edit("conv_2", fs.Noise(0.1), when=fs.epochs(2, 4))`
    """

    def __init__(self, stddev: float, seed: int = 0) -> None:
        self.stddev = number(stddev, "Noise(stddev)", least=0)
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise EditError(f"Noise(seed={seed!r}): expected a whole number.")
        self.seed = seed

    def apply(self, x: Any, at: At) -> Any:
        drawn = keras.random.normal(ops.shape(x), dtype="float32", seed=at.seed(self.seed))
        return x + ops.cast(at.strength * self.stddev * drawn, x.dtype)

    def get_config(self) -> dict[str, Any]:
        return {"stddev": self.stddev, "seed": self.seed}

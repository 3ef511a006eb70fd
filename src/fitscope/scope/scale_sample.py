"""What a dynamic loss scale did from the beginning of a `fit` to its end."""

from __future__ import annotations

from typing import Any

from fitscope.engine import keras_internals


class ScaleSample:
    """The updates an optimizer has made so far, and its loss scale.

    Args:
        model: The model; between steps, when the optimizer's variables are with it.
        steps: Training steps it was observed in so far.
    """

    def __init__(self, model: Any, steps: int) -> None:
        self._model = model
        self._steps = steps
        # An optimizer that is not built has made none.
        self._before = keras_internals.loss_scale(model.optimizer) or (0, None)

    def changed(self, steps: int) -> dict[str, float] | None:
        """What became of it; None where no dynamic loss scale is in use.

        Args:
            steps: Training steps so far.

        Returns:
            `scale` at the end, and of how many `steps` the updates were `skipped`.
        """
        after = keras_internals.loss_scale(self._model.optimizer)
        if after is None:
            return None
        made, taken = after[0] - self._before[0], steps - self._steps
        return {"scale": after[1], "steps": taken, "skipped": max(0, taken - made)}

"""How far each weight moved from the beginning of a `fit` to its end."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from fitscope.engine import keras_internals
from fitscope.engine.entry import entries
from fitscope.scope.facts import values_of

MOST = 4096
"""Values looked at of each weight, at an even stride."""


class WeightSample:
    """A sample of every trainable weight as it is now.

    Args:
        model: The model; between steps, when the weights are with the model.
    """

    def __init__(self, model: Any) -> None:
        self._before: list[tuple[str, str, Any, NDArray[np.float64]]] = [
            (entry.path, variable.name, variable, _sample(variable))
            for entry in entries(model)
            if isinstance(entry.target, keras.layers.Layer)
            for variable in keras_internals.own_variables(entry.target)
            if variable.trainable
        ]

    def moved(self) -> list[dict[str, Any]]:
        """What became of the weights.

        Returns:
            For each: `layer`, `name`, `rank`, `fan_in` (inputs of a unit), `rms` at the beginning,
            `change` (rms of the difference), `equal` (not a bit differs) and `finite`.
        """
        found = []
        for layer, name, variable, before in self._before:
            after = _sample(variable)
            finite = bool(np.isfinite(after).all())
            difference = after - before if finite else np.full(1, np.nan)
            found.append(
                {
                    "layer": layer,
                    "name": name,
                    "rank": len(variable.shape),
                    "fan_in": math.prod(int(n) for n in variable.shape[:-1]),
                    "rms": float(np.sqrt(np.mean(before**2))),
                    "change": float(np.sqrt(np.mean(difference**2))),
                    "equal": bool((after == before).all()),
                    "finite": finite,
                }
            )
        return found


def _sample(variable: Any) -> NDArray[np.float64]:
    flat = values_of(variable).ravel()
    return flat[:: max(1, flat.size // MOST)].astype(np.float64)

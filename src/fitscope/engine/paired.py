"""Statistics of a tensor beside another one: an update beside its weight, for example."""

from __future__ import annotations

import math
from typing import Any

from fitscope.statistics.statistic import State, Statistic


class Paired(Statistic):
    """A statistic whose `update` is given a second tensor."""

    def update(self, x: Any, beside: Any = None) -> Any:
        """Reduce two tensors, with `keras.ops` alone.

        Args:
            x: the tensor of the site, as float32.
            beside: the other one, as float32.
        """
        raise NotImplementedError


class UpdateRatio(Paired):
    """How large an update is beside the weight that it changes: the quotient of their l2 norms."""

    def __init__(self) -> None:
        self.name = "update_ratio"

    def update(self, x: Any, beside: Any = None) -> Any:
        """The sums of squares of the update and of the weight before it."""
        from keras import ops

        return ops.stack([ops.sum(ops.square(x)), ops.sum(ops.square(beside))])

    def merge(self, a: State, b: State) -> State:
        return a + b

    def result(self, state: State) -> float:
        update, weight = (float(s) for s in state)
        return math.sqrt(update / weight) if weight else (math.inf if update else math.nan)


class LossScale(Paired):
    """By what the loss was multiplied; the gradient itself is reported without it."""

    def __init__(self) -> None:
        self.name = "loss_scale"

    def update(self, x: Any, beside: Any = None) -> Any:
        """The scale."""
        from keras import ops

        del x
        return ops.reshape(beside, (1,))

    def merge(self, a: State, b: State) -> State:
        del b
        return a


UPDATE_RATIO = UpdateRatio()
LOSS_SCALE = LossScale()

"""How many directions a batch's activations spread over, and how far."""

from __future__ import annotations

from typing import Any

from fitscope.errors import StatisticError
from fitscope.statistics.statistic import State, Statistic

# Centred in float32, rows that are equal leave rounding errors of about this share of their size.
_ROUNDING = 1e-11


class EffectiveRank(Statistic):
    """The participation ratio of the first rows of a batch: 1 when they lie on a line.

    With C the covariance of the rows, everything but the batch axis taken as features, it is
    `tr(C)^2 / tr(C^2)`, which is the number of directions if all have the same variance, and at
    most `min(rows - 1, features)`. It is computed from the `n x n` inner products of at most
    `rows` rows, so it costs `n^2` numbers a feature, whatever the width of the layer. Rows that are
    all equal have rank 0. How far they are from equal is the `spread`: the share of the rows' sum
    of squares that is around their mean, 0 to 1.

    Results are stored as `effective_rank.rank`, `.possible` and `.spread`; over several calls or
    replicas they are means.

    Args:
        rows: The rows looked at, 2 or more.

    Raises:
        StatisticError: `rows` is no such number.

    Example:
        ```python
        scope = fs.Scope(fs.watch("**", statistics=[fs.statistics.EffectiveRank()]))
        ```

    Source: Gao et al. (2017), "A theory of multineuronal dimensionality"; Roy and Vetterli (2007),
    "The effective rank", for the idea.
    """

    name = "effective_rank"

    def __init__(self, rows: int = 32) -> None:
        if rows < 2:
            raise StatisticError(
                f"EffectiveRank(rows={rows!r}): expected a whole number of rows, 2 or more."
            )
        self.rows = rows

    def update(self, x: Any) -> Any:
        """Rank, possible rank, spread, and one for the call, float32 `[4]`."""
        ops = _ops()
        x = ops.reshape(x, (1,)) if len(x.shape) == 0 else x
        x = x[: self.rows]
        n = ops.shape(x)[0]
        features = 1
        for length in ops.shape(x)[1:]:
            features = features * length
        flat = ops.reshape(x, (n, features))
        # Against overflow of the squares; a rank has no scale.
        flat = flat / ops.maximum(ops.max(ops.abs(flat)), 1e-30)
        centred = flat - ops.mean(flat, axis=0, keepdims=True)
        total = ops.sum(ops.square(centred))
        gram = ops.matmul(centred, ops.transpose(centred)) / ops.maximum(total, 1e-30)
        size = ops.sum(ops.square(flat))
        # NaN compares false, and stays NaN.
        equal = total <= _ROUNDING * size
        rank = ops.where(equal, 0.0, 1.0 / ops.maximum(ops.sum(ops.square(gram)), 1e-30))
        possible = ops.cast(ops.minimum(n - 1, features), "float32")
        spread = ops.where(equal, 0.0, total / ops.maximum(size, 1e-30))
        found = [ops.cast(rank, "float32"), possible, ops.cast(spread, "float32")]
        return ops.stack([*found, ops.ones_like(possible)])

    def merge(self, a: State, b: State) -> State:
        """Sums."""
        return a + b

    def result(self, state: State) -> dict[str, float]:
        """`rank`, `possible` and `spread`."""
        calls = max(float(state[3]), 1.0)
        names = ("rank", "possible", "spread")
        return {name: float(state[place]) / calls for place, name in enumerate(names)}


def _ops() -> Any:
    # At first use, so that `import fitscope` does not fix Keras' backend.
    import importlib

    return importlib.import_module("keras.ops")

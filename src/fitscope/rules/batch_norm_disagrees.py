"""Batch normalization that gives something else in validation than in training.

Formula: at the last validation of each of the last `epochs` epochs, the output of a
BatchNormalization layer has |mean(validation) - mean(train)| above `shift` deviations of the
training output, or a ratio of deviations above `spread`, and the validation loss is above 1.5
times the training loss. In training the layer uses the batch's own mean and variance, afterwards
moving averages; a momentum near 1, or few steps, leaves these near their initial 0 and 1.

Source: Ioffe and Szegedy (2015); Ioffe (2017), "Batch Renormalization".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from fitscope.rules.history import epochs
from fitscope.rules.rule import Sign, rule
from fitscope.rules.series import series_of
from fitscope.terminal.numbers import compact

if TYPE_CHECKING:
    from fitscope.run.reader import Run


@rule(
    "batch_norm_disagrees",
    "Batch normalization gives something else in validation than in training.",
    severity="warning",
    explains=("overfitting",),
    confidence=0.8,
)
def batch_norm_disagrees(run: Run, *, shift: float = 1.0, spread: float = 3.0) -> Iterator[Sign]:
    """Find the first such layer whose moving averages are not those of the data."""
    train_loss, held_loss = epochs(run).values, epochs(run, "val_loss").values
    if not len(held_loss) or not held_loss[-1] > 1.5 * train_loss[-1]:
        return
    outputs = [s for s in run.sites if s.port == "output"]
    norms = [s.name for s in outputs if s.layer_class == "BatchNormalization"]
    train = series_of(run, ["mean", "std"], norms)
    held = series_of(run, ["mean", "std"], norms, phase="validation")
    for name in norms:
        if name not in train or name not in held:
            continue
        ours, theirs = _last(train[name]), _last(held[name])
        deviation = max(ours[1], 1e-12)
        away = abs(theirs[0] - ours[0]) / deviation
        times = max(theirs[1], 1e-12) / deviation
        if away <= shift and 1 / spread <= times <= spread:
            continue
        yield Sign(
            name,
            f"in training its output is {compact(ours[0])} +- {compact(ours[1])}, in validation "
            f"{compact(theirs[0])} +- {compact(theirs[1])}.",
            "Validation uses moving averages, which are not those of the batches yet.",
            "momentum=0.9 in the layer, larger batches, or more steps before judging.",
            {"train": list(ours), "validation": list(theirs), "shift": away, "spread": times},
            first_step=int(held[name].steps[0]),
            last_step=int(train[name].steps[-1]),
        )
        return


def _last(series: object) -> tuple[float, float]:
    return tuple(float(np.median(series[name][-5:])) for name in ("mean", "std"))  # type: ignore[index,return-value]

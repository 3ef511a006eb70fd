"""Batch normalization over a batch of one.

Formula: over one value per unit the mean is the value and the variance 0, so the normalized output
is beta, whatever came in. With places besides the batch (images, sequences) statistics are noisy
and not constant. A last batch of one does the same once an epoch.

Source: Ioffe and Szegedy (2015), "Batch Normalization"; Wu and He (2018), "Group Normalization".
"""

from __future__ import annotations

from collections.abc import Iterator

from fitscope.rules.fit import Fit
from fitscope.rules.rule import Sign, rule


@rule(
    "batch_size_one",
    "Batch normalization is given batches of one sample.",
    severity="fault",
    stage="contract",
    explains=("constant_output", "loss_flat", "no_better_than_constant", "metric_flat",
              "batch_norm_disagrees", "loss_oscillates", "unchanged_weights", "dead_units",
              "update_ratio"),
)  # fmt: skip
def batch_size_one(fit: Fit) -> Iterator[Sign]:
    """Find batch normalization that normalizes its input away."""
    norms = [la for la in fit.layers if la.kind == "BatchNormalization" and la.trainable]
    if not norms or fit.batch_size is None:
        return
    flat = [layer for layer in norms if len(layer.output_shape) == 2]
    rows = fit.inputs[0].rows if fit.inputs and fit.inputs[0].whole else None
    if fit.batch_size == 1:
        yield Sign(
            (flat or norms)[0].path,
            "batch normalization runs on batches of one sample.",
            "The mean of one value is the value: its output is beta, whatever comes in."
            if flat
            else "Each sample is normalized by itself, and otherwise in validation.",
            "batch_size=32, or LayerNormalization.",
            {"batch_size": 1, "layers": [layer.path for layer in norms][:20]},
            severity="fault" if flat else "warning",
        )
    elif rows is not None and flat and rows % fit.batch_size == 1:
        yield Sign(
            flat[0].path,
            f"the last of the batches of {fit.batch_size} holds one sample ({rows} in all).",
            "Batch normalization makes it constant, and puts a variance of 0 into its averages.",
            "another batch_size, or drop the last batch.",
            {"batch_size": fit.batch_size, "rows": rows},
            severity="warning",
            confidence=0.6,
        )

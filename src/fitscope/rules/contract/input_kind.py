"""Inputs of the wrong kind: quantities for an embedding, indices out of its table, channels first.

Formula: an embedding reads row i of its table for the whole number i, 0 <= i < input_dim;
fractions are cut off, and what lies outside reads another row or NaN, depending on the backend. An
image whose last axis is long and whose first is 1 or 3 long is taken for one of many channels.

Source: keras.layers.Embedding documentation; Humbatova et al. (2020), wrong input format.
"""

from __future__ import annotations

from collections.abc import Iterator

from fitscope.rules.fit import ArrayFact, Fit
from fitscope.rules.rule import Sign, rule
from fitscope.terminal.numbers import compact


@rule(
    "input_kind",
    "The first layer is made for another kind of input.",
    severity="fault",
    stage="contract",
    explains=("non_finite", "loss_non_finite", "loss_flat", "no_better_than_constant",
              "metric_flat", "constant_output", "inputs_scaled", "unchanged_weights",
              "update_ratio"),
    confidence=0.95,
)  # fmt: skip
def input_kind(fit: Fit) -> Iterator[Sign]:
    """Find inputs that the first layer takes for something else."""
    if len(fit.inputs) != 1 or not fit.inputs[0].finite.size:
        return
    array = fit.inputs[0]
    for layer in fit.layers:
        if layer.kind == "Embedding" and not layer.sources:
            yield from _embedding(array, layer.path, layer.options.get("input_dim"))
        elif layer.kind == "Conv2D" and not layer.sources and len(array.shape) == 3:
            first, *_, last = array.shape
            if layer.options.get("data_format") == "channels_last" and first in (1, 3) and last > 8:
                yield Sign(
                    layer.path,
                    f"images have shape {array.shape}, which is read as {last} channels.",
                    "The convolution slides over channels and rows in place of rows and columns.",
                    "np.moveaxis(x, 1, -1), or data_format='channels_first'.",
                    {"shape": list(array.shape)},
                    confidence=0.8,
                )


def _embedding(array: ArrayFact, path: str, table: int | None) -> Iterator[Sign]:
    low, high = float(array.finite.min()), float(array.finite.max())
    evidence = {"min": low, "max": high, "input_dim": table}
    if not array.is_whole_numbers:
        yield Sign(
            path,
            f"the embedding is given fractions ({compact(low)} to {compact(high)}).",
            "It looks up whole numbers: fractions are cut off, and with them what they say.",
            "token indices for an Embedding, or a Dense layer for quantities.",
            evidence,
        )
    elif table is not None and (low < 0 or high >= table):
        yield Sign(
            path,
            f"indices go from {compact(low)} to {compact(high)}; the table has rows 0 to "
            f"{table - 1}.",
            "An index outside reads another row, or gives NaN.",
            f"Embedding(input_dim={int(high) + 1}), or indices from 0 on.",
            evidence,
        )

"""Nothing to train, or a head that is not trained.

Formula: counts of parameters that training may change. The last layer with weights, frozen while
it has not been trained, maps to random answers.

Source: Humbatova et al. (2020), model properties; keras transfer learning guide.
"""

from __future__ import annotations

from collections.abc import Iterator

from fitscope.rules.fit import Fit
from fitscope.rules.rule import Sign, rule


@rule(
    "frozen_layers",
    "No layer, or not the last one, may be trained.",
    severity="fault",
    stage="contract",
    explains=("loss_flat", "no_better_than_constant", "unchanged_weights", "metric_flat",
              "weights_barely_moved", "update_ratio"),
)  # fmt: skip
def frozen_layers(fit: Fit) -> Iterator[Sign]:
    """Find models that cannot learn."""
    weighted = [layer for layer in fit.layers if layer.kernel is not None]
    if not weighted or fit.custom_step:
        return
    free = [la for la in weighted if any(w.trainable for w in la.weights)]
    if not free:
        yield Sign(
            "fit",
            f"all {len(weighted)} layers with weights are frozen (trainable=False).",
            "No step changes anything.",
            "layer.trainable = True for the layers to train, then compile again.",
            {"layers": [layer.path for layer in weighted][:20]},
        )
    elif free[-1] is not weighted[-1] and fit.sequential and not fit.resumed:
        yield Sign(
            weighted[-1].path,
            "the last layer with weights is frozen.",
            "The layers before it must learn towards its random weights.",
            f"get_layer({weighted[-1].path!r}).trainable = True, then compile again.",
            {"trained": [layer.path for layer in free][:20]},
            severity="warning",
            confidence=0.7,
        )

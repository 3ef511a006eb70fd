"""An output that is squashed twice.

Formula: softmax of probabilities lies between 1/(1 + (k-1)e) and e/(e + k - 1); with ten classes
between 0.04 and 0.23. A sigmoid of a sigmoid lies between 0.5 and 0.73, of a ReLU above 0.5: it
can never say "no". A dropout behind the output sets predictions to zero while training.

Fires on: softmax or sigmoid directly behind another activation; a dropout behind the output's
activation.

Source: the definitions; Humbatova et al. (2020), redundant layers.
"""

from __future__ import annotations

from collections.abc import Iterator

from fitscope.rules.fit import Fit
from fitscope.rules.rule import Sign, rule

_SQUASHING = frozenset({"softmax", "sigmoid"})


@rule(
    "double_activation",
    "The output goes through two activations, or through a dropout.",
    severity="fault",
    stage="contract",
    explains=("loss_flat", "no_better_than_constant", "constant_output", "vanishing_gradients",
              "metric_flat", "loss_oscillates", "dead_units", "update_ratio"),
    confidence=0.95,
)  # fmt: skip
def double_activation(fit: Fit) -> Iterator[Sign]:
    """Find outputs that are bent twice."""
    for output in fit.outputs:
        if len(output.activations) > 1 and output.activations[0] in _SQUASHING:
            last, before = output.activations[:2]
            yield Sign(
                output.path,
                f"the output goes through {before} and then {last}.",
                f"{last} of {before} values covers a part of its range only, and hardly learns.",
                f"remove {before}.",
                {"activations": list(reversed(output.activations))},
            )
        elif "Dropout" in output.ends_in:
            yield Sign(
                output.path,
                "a dropout stands behind the output.",
                "While training it sets predictions to zero at random; the loss cannot fall.",
                "move the dropout before the last Dense layer.",
                {"layer": output.ends_in},
            )

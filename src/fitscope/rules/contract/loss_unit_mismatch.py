"""Predictions and targets of different shapes that broadcasting silently joins.

Formula: squared error of `[n, k]` predictions and `[n, 1]` targets is taken of every unit against
the one target; of `[n, t, 1]` and `[n, 1]`, of every time step. A single unit for a one-hot target
of k columns averages the columns.

Source: the broadcasting rules; Humbatova et al. (2020), wrong shape of output.
"""

from __future__ import annotations

from collections.abc import Iterator

from fitscope.rules.contract.loss_activation import REGRESSION
from fitscope.rules.fit import Fit
from fitscope.rules.rule import Sign, rule


@rule(
    "loss_unit_mismatch",
    "The output has another shape than the targets, and broadcasting hides it.",
    severity="fault",
    stage="contract",
    explains=("loss_flat", "no_better_than_constant", "metric_flat"),
    confidence=0.9,
)
def loss_unit_mismatch(fit: Fit) -> Iterator[Sign]:
    """Find outputs and targets that are joined by broadcasting."""
    for output, loss, target in fit.pairs():
        if loss.name not in REGRESSION and loss.name not in ("hinge", "squared_hinge", "poisson"):
            continue
        given, wanted = output.shape[1:], target.shape
        if not target.rows or None in given or not given or given == wanted:
            continue
        if not output.rank_known and len(wanted) > 1:
            continue
        squeezed = wanted[:-1] if wanted and wanted[-1] == 1 else wanted
        if squeezed == (given[:-1] if given[-1] == 1 else given):
            continue
        classes = target.classes
        labels = classes is not None and wanted in ((), (1,)) and len(given) == 1
        yield Sign(
            output.path,
            f"a sample's output is {_words(given)}, its target {_words(wanted)}; {loss.name} "
            "stretches one over the other.",
            "Every unit or time step is pulled towards the same number.",
            "sparse_categorical_crossentropy for class labels."
            if labels
            else "return_sequences=False in the last recurrent layer, or as many units as targets.",
            {"output_shape": list(given), "target_shape": list(wanted), "loss": loss.name},
        )


def _words(shape: tuple[int | None, ...]) -> str:
    return str(tuple(shape)).replace(" ", "") if shape else "()"

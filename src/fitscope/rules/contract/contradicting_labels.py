"""Equal rows with different labels.

Formula: rows of x (of all its arrays together) that are equal byte for byte are a group; whoever
answers each group with its most frequent class is wrong on the share 1 - sum(max) / rows, and no
model is right on more. Told above `share`, of classes with a loss for classes. Where rows are of
few kinds (less than half of them differ) equal ones with different labels are in the nature of the
data, and it is a note.

Of data that come in batches, and of more than 4,096 rows, only twins among those looked at are
seen.

Source: Northcutt et al. (2021), "Pervasive Label Errors in Test Sets"; Cover and Thomas, the Bayes
error.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from fitscope.rules.contract.from_logits import CROSS_ENTROPIES
from fitscope.rules.fit import Fit
from fitscope.rules.rule import Sign, rule
from fitscope.terminal.numbers import count, percent

_OF_CLASSES = CROSS_ENTROPIES | {"hinge", "squared_hinge", "categorical_hinge"}


@rule(
    "contradicting_labels",
    "Equal rows have different labels.",
    severity="warning",
    stage="contract",
    explains=("metric_flat", "loss_flat", "no_better_than_constant", "overfitting"),
    confidence=0.8,
)
def contradicting_labels(fit: Fit, *, share: float = 0.02, min_rows: int = 50) -> Iterator[Sign]:
    """Find labels that no model can be right on."""
    if fit.custom_step or len(fit.targets) != 1 or not fit.inputs:
        return
    # Whole numbers may be quantities, and equal rows have different ones.
    if any(o.loss is not None and o.loss.name not in _OF_CLASSES for o in fit.outputs):
        return
    classes = fit.targets[0].classes
    if classes is None or len(classes) < min_rows:
        return
    if any(not x.is_number or len(x.sample) != len(classes) for x in fit.inputs):
        return
    kinds: defaultdict[tuple[bytes, ...], Counter[int]] = defaultdict(Counter)
    for place, name in enumerate(classes):
        kinds[tuple(x.sample[place].tobytes() for x in fit.inputs)][int(name)] += 1
    rows = len(classes)
    wrong = 1 - sum(max(each.values()) for each in kinds.values()) / rows
    held = sum(sum(each.values()) for each in kinds.values() if len(each) > 1)
    if wrong < share:
        return
    rare = len(kinds) < rows / 2
    yield Sign(
        fit.targets[0].name,
        f"{count(held)} of {count(rows)} rows looked at have an equal row with another label.",
        f"No model is right on more than {percent(1 - wrong)} of them.",
        "look at how rows and labels were joined; merge duplicates, or add what tells them apart.",
        {"rows": rows, "distinct_rows": len(kinds), "contradicted_rows": held,
         "least_error": wrong, "threshold": share},
        severity="note" if rare else None,
        confidence=0.5 if rare else None,
    )  # fmt: skip

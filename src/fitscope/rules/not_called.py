"""A layer with weights that the training never called.

Formula: what was selected and did not run in the observed steps, among the layers with trainable
weights.

Source: Humbatova et al. (2020), missing or unconnected layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fitscope.rules.history import of_fit
from fitscope.rules.rule import Sign, rule

if TYPE_CHECKING:
    from fitscope.run.reader import Run


@rule(
    "not_called",
    "A layer with weights was never called.",
    severity="warning",
    explains=("unchanged_weights",),
    confidence=0.8,
)
def not_called(run: Run) -> Iterator[Sign]:
    """Find layers that are made and not used."""
    trainable: set[str] = set(of_fit(run).get("trainable") or ())
    missing = [g.site for g in run.unseen if "not called" in g.reason and g.site in trainable]
    if missing:
        more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
        yield Sign(
            missing[0],
            f"the layer has weights, and no training step called it{more}.",
            "Its weights get no gradient; the model is another one than it seems.",
            "call it in the model's call(), or leave it out.",
            {"layers": missing[:20]},
        )

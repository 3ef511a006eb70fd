"""A dropout that leaves next to nothing.

Formula: of n units n(1 - rate) remain on average; the noise it adds has a variance of rate/(1 -
rate) times the squared signal, 9 times at a rate of 0.9. Several dropouts in a row multiply what
they keep.

Source: Srivastava et al. (2014), "Dropout".
"""

from __future__ import annotations

from collections.abc import Iterator

from fitscope.rules.fit import Fit
from fitscope.rules.rule import Sign, rule
from fitscope.terminal.numbers import compact


@rule(
    "dropout_rate",
    "A dropout drops nearly everything.",
    severity="warning",
    stage="contract",
    explains=("loss_flat", "no_better_than_constant", "loss_oscillates", "metric_flat",
              ),
    confidence=0.8,
)  # fmt: skip
def dropout_rate(fit: Fit, *, rate: float = 0.8) -> Iterator[Sign]:
    """Find rates that were meant as the share to keep."""
    rates = {
        layer.path: given
        for layer in fit.layers
        if "Dropout" in layer.kind
        and isinstance(given := layer.options.get("rate"), (int, float))
        and given >= rate
    }
    if not rates:
        return
    most = max(rates, key=lambda path: rates[path])
    given, others = rates[most], len(rates) - 1
    yield Sign(
        most,
        f"the dropout sets {compact(given * 100)}% of its inputs to zero"
        f"{f', and {others} more drop as much or nearly' if others else ''}.",
        f"Its noise is {compact(given / max(1 - given, 1e-9))} times the signal.",
        f"rate={compact(max(1 - given, 0.1))}: Keras' rate is the share to drop, not to keep.",
        {"rate": given, "rates": rates, "threshold": rate},
    )

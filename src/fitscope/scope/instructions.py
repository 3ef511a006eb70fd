"""What a scope is told to do."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable
from typing import Any, Union

from fitscope.errors import SelectionError, StatisticError
from fitscope.scope.stopping import StopOn
from fitscope.select.naming import PORTS
from fitscope.select.selector import Selector
from fitscope.select.selector import select as as_selector
from fitscope.statistics.statistic import Statistic, check_statistic
from fitscope.values.batch import split
from fitscope.values.record import Record
from fitscope.values.stream import Stream

Instruction = Union["Watch", Record, StopOn, Stream]
"""What a scope observes; what it changes is in `editing`."""


@dataclasses.dataclass(frozen=True)
class Watch:
    """Statistics of the selected tensors, computed on the device. Made by `watch`."""

    selector: Selector
    ports: tuple[str, ...]
    statistics: tuple[Statistic, ...] = ()

    rows = None
    """The tensors themselves stay in the step."""
    measures = True
    batch = False

    def describe(self) -> dict[str, Any]:
        """For the run's `run.json`."""
        return {
            "kind": "watch",
            "select": repr(self.selector),
            "of": list(self.ports),
            "statistics": [s.name for s in self.statistics],
        }


def watch(
    select: Any = "**",
    of: str | Iterable[str] = "output",
    statistics: Statistic | Iterable[Statistic] = (),
) -> Watch:
    """Watch the statistics of the selected tensors.

    Args:
        select: a glob over layer paths (`"conv*"`, `"encoder/*/attn"`, `"**"`), a layer class, a
            layer, a predicate over sites, a list of these, or a combination with `& | ~`.
        of: which tensor of a layer, or several of them: `"output"`; `"input"`; `"preactivation"`
            (what goes into a fused activation); `"gradient"` (of the loss with respect to the
            output); and for each of its variables `"weight"` (as the step found it),
            `"weight_gradient"` (as the optimizer was given it) and `"update"` (the weight after
            the step minus the weight before). Gradients are reported without a loss scale. The
            last four exist in training steps only.
        statistics: your own `fs.Statistic`s, computed beside the built-in ones.

    Returns:
        An instruction for `fs.Scope`.

    Raises:
        SelectionError: the selection or a port cannot be read.
        StatisticError: a statistic breaks its contract.

    Example:
        ```python
        scope = fs.Scope(fs.watch("conv*", of=["output", "preactivation"]))
        ```
    """
    ports = (of,) if isinstance(of, str) else tuple(of)
    for port in ports:
        if port not in PORTS:
            near = difflib.get_close_matches(str(port), PORTS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise SelectionError(
                f"watch(of=...): the port {port!r} is not known.{hint} It accepts "
                f"{', '.join(map(repr, PORTS))}, one or a list of them."
            )
    if not ports:
        raise SelectionError(f"watch(of=...) is empty; give one or more of {PORTS}.")
    if split(select)[1]:
        raise SelectionError(
            "the batch (fs.BATCH) can be recorded and streamed: fs.record(fs.BATCH), "
            "fs.stream(fs.BATCH, function). It has no statistics to watch."
        )
    chosen = (statistics,) if isinstance(statistics, Statistic) else statistics
    if isinstance(chosen, str) or not isinstance(chosen, Iterable):
        raise StatisticError(
            f"watch(statistics={statistics!r}): expected fs.Statistic objects of your own. The "
            "built-in statistics are always computed and need not be named."
        )
    own = tuple(chosen)
    for statistic in own:
        check_statistic(statistic)
    return Watch(as_selector(select), ports, own)

"""Ending a training when a condition on its statistics holds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fitscope.errors import FitscopeError, StatisticError
from fitscope.rules.execution import LOSS, NEEDED, Edges, Origin, origin
from fitscope.scope.targets import bad_targets
from fitscope.select.naming import PORTS
from fitscope.select.selector import Selector
from fitscope.select.selector import select as as_selector
from fitscope.select.site import Site
from fitscope.statistics.descriptions import ALL
from fitscope.statistics.moments import derive
from fitscope.terminal.numbers import compact
from fitscope.values.when import check_phases

if TYPE_CHECKING:
    from numpy.typing import NDArray

_OF_A_STEP = ("input", "output", "gradient", "weight", "weight_gradient", "update")


@dataclasses.dataclass(frozen=True, eq=False)
class StepStatistics:
    """The statistics of one observed step, as conditions see them.

    Attributes:
        step: the step's number in its phase, from 0, counted on over epochs.
        epoch: the epoch's number, from 0.
        phase: `"train"`, `"validation"`, `"test"` or `"predict"`.
        sites: what was seen in it, in the order of the forward pass.
        data: what the step was given, where the condition asks for it; still on the device.
    """

    step: int
    epoch: int
    phase: str
    sites: Sequence[Site]
    moments: NDArray[np.float64]
    extra: Mapping[str, Mapping[str, float]]
    edges: Edges = dataclasses.field(default_factory=Edges, repr=False)
    data: Any = dataclasses.field(default=None, repr=False)

    def values(self, select: Any, statistic: str) -> dict[str, float]:
        """One statistic of the selected sites, by site name.

        Args:
            select: which sites, as in `fs.watch`.
            statistic: a built-in statistic or the name of one of your own.

        Raises:
            SelectionError: the selection cannot be read.
            StatisticError: no site has such a statistic.
        """
        matches = as_selector(select).matches
        chosen = [(i, site) for i, site in enumerate(self.sites) if matches(site)]
        if statistic in ALL:
            column = derive(self.moments, statistic)
            return {site.name: float(column[i]) for i, site in chosen}
        own = {s: v[statistic] for s, v in self.extra.items() if statistic in v}
        if not own:
            raise StatisticError(
                f"no site of this step has a statistic {statistic!r}. Accepted are the built-in "
                f"ones ({', '.join(sorted(ALL))}) and your own by name."
            )
        return {site.name: own[site.name] for _, site in chosen if site.name in own}


Condition = Callable[[StepStatistics], "str | bool | None"]


class _Reached:
    """Whether a selector reaches a site: of inputs, only those of models."""

    def __init__(self, selector: Selector) -> None:
        self._selector = selector

    def __repr__(self) -> str:
        return repr(self._selector)

    def matches(self, site: Site) -> bool:
        """As a selector's."""
        return self._is_meant(site) and self._selector.matches(site)

    def may_match(self, site: Site) -> bool:
        """As a selector's."""
        return self._is_meant(site) and self._selector.may_match(site)

    @staticmethod
    def _is_meant(site: Site) -> bool:
        return site.port != "input" or "Model" in site.layer_classes


@dataclasses.dataclass(frozen=True, eq=False)
class StopOn:
    """Ends the training when a condition holds. Made by `stop_on`."""

    selector: Any
    ports: tuple[str, ...]
    condition: Condition
    phases: tuple[str, ...]

    statistics: tuple[Any, ...] = ()
    rows: slice | None = None
    measures: bool = True
    batch: bool = False
    data: bool = False
    """Whether what the step was given is wanted."""

    def is_due(self, phase: str, step: int, place: int, length: int | None) -> bool:
        """Whether a step is looked at: each one of the phases."""
        del step, place, length
        return phase in self.phases

    def describe(self) -> dict[str, Any]:
        """For the run's `run.json`."""
        name = getattr(self.condition, "__name__", type(self.condition).__name__)
        return {
            "kind": "stop_on",
            "select": repr(self.selector),
            "of": list(self.ports),
            "condition": str(name),
            "phases": list(self.phases),
        }

    def reason(self, step: StepStatistics) -> str | None:
        """Why the training ends with this step, or None."""
        found = self.condition(step)
        if not found:
            return None
        name = getattr(self.condition, "__name__", type(self.condition).__name__)
        return found if isinstance(found, str) else f"the condition {name} held."


@dataclasses.dataclass(frozen=True)
class NonFinite:
    """A condition: a tensor holds NaN or an infinity. Made by `non_finite`."""

    select: Any
    of: tuple[str, ...] = _OF_A_STEP
    __name__ = "non_finite"

    def __call__(self, step: StepStatistics) -> str | None:
        """Where in the step it was first."""
        found = self.origin(step)
        return None if found is None else str(found)

    def origin(self, step: StepStatistics) -> Origin | None:
        """The same as numbers."""
        table = {name: step.values(self.select, name) for name in NEEDED}
        values = {site: {n: table[n][site] for n in NEEDED} for site in table["count"]}
        for site, own in step.extra.items():
            if site in values:
                values[site].update(own)
        found = origin(step.sites, values, edges=step.edges)
        if found is None or found.layer != LOSS:
            return found
        return dataclasses.replace(found, targets=bad_targets(step.data))

    def of_loss(self, step: StepStatistics, loss: float) -> str | None:
        """The reason where the loss is not finite, and nothing else in its step; or None."""
        if self.select != "**" or any(step.values("**", "nonfinite").values()):
            return None
        parts = bad_targets(step.data)
        held = f"; the batch held {' and '.join(map(str, parts))}" if parts else ""
        what = "NaN" if math.isnan(loss) else "+infinity" if loss > 0 else "-infinity"
        return (
            f"the loss was {what}, with outputs, gradients, weights and updates that were finite"
            f"{held}."
        )


@dataclasses.dataclass(frozen=True)
class Beyond:
    """A condition: a statistic is above or below a limit. Made by `above` and `below`."""

    select: Any
    statistic: str
    limit: float
    sign: int

    @property
    def __name__(self) -> str:
        return "above" if self.sign > 0 else "below"

    @property
    def of(self) -> tuple[str, ...]:
        """The port that the selection names."""
        return _ports_of(self.select)

    def __call__(self, step: StepStatistics) -> str | None:
        """Which sites are beyond the limit."""
        found = step.values(self.select, self.statistic)
        wrong = {s: v for s, v in found.items() if self.sign * (v - self.limit) > 0}
        if not wrong:
            return None
        site, value = next(iter(wrong.items()))
        more = f", and {len(wrong) - 1} more sites" if len(wrong) > 1 else ""
        return (
            f"{self.statistic} of {site} was {compact(value)}, {self.__name__} "
            f"{compact(self.limit)}{more}."
        )


def non_finite(select: Any = "**") -> NonFinite:
    """For `stop_on`: a tensor of the step holds NaN or an infinity.

    The reason names the first one in the order of execution: weights, forward pass, backward pass,
    update. Gradients that overflow under a loss scale, whose step the optimizer skips, are none.

    Args:
        select: which sites, as in `fs.watch`; leave out masks that hold -infinity on purpose.
    """
    return NonFinite(select)


def above(select: Any, statistic: str, limit: float) -> Beyond:
    """For `stop_on`: a statistic of a selected site is above a limit.

    Args:
        select: which sites, with their port: `"**:gradient"`.
        statistic: a built-in statistic, `"max"` for example.
        limit: the limit.
    """
    return Beyond(select, _known(statistic), float(limit), 1)


def below(select: Any, statistic: str, limit: float) -> Beyond:
    """For `stop_on`: a statistic of a selected site is below a limit.

    Args:
        select: which sites, with their port.
        statistic: a built-in statistic.
        limit: the limit.
    """
    return Beyond(select, _known(statistic), float(limit), -1)


def stop_on(
    condition: Condition,
    *,
    select: Any = "**",
    of: str | Iterable[str] | None = None,
    phases: str | Iterable[str] = "train",
) -> StopOn:
    """End the training in order when a condition holds, and say why.

    The condition is looked at for every step of the phases, which are all observed. It is looked
    at beside the training, so the training ends a few steps after the one that the reason names.

    Args:
        condition: `fs.non_finite()`, `fs.above("**:gradient", "max", 1e3)`, `fs.below(...)`, or
            a function of the step's statistics (`step.values(select, statistic)`) that gives a
            reason, or True, to end the training.
        select: which sites a function of yours looks at, as in `fs.watch`.
        of: at which ports it looks; by default the outputs.
        phases: in which phases.

    Returns:
        An instruction for `fs.Scope`.

    Raises:
        FitscopeError: the condition is no function.
        SelectionError: the selection, a port or a phase cannot be read.

    Example:
        ```python
        model.fit(x, y, callbacks=[fs.Scope(fs.stop_on(fs.non_finite()))])
        ```
    """
    from fitscope.scope.instructions import watch

    if not callable(condition):
        raise FitscopeError(
            f"stop_on({condition!r}): expected a function of a step's statistics, for example "
            'fs.non_finite() or fs.above("**:gradient", "max", 1e3).'
        )
    chosen = getattr(condition, "select", select)
    ports = of if of is not None else getattr(condition, "of", "output")
    watched = watch(chosen, ports)
    reached: Any = watched.selector
    if isinstance(condition, NonFinite):
        reached = _Reached(watched.selector)
    chosen_phases = check_phases("stop_on", phases)
    is_given = isinstance(condition, NonFinite)
    return StopOn(reached, watched.ports, condition, chosen_phases, data=is_given)


def _known(statistic: str) -> str:
    if not isinstance(statistic, str) or not statistic:
        raise StatisticError(
            f"{statistic!r} is not the name of a statistic; accepted are 'max' or 'rms', for "
            "example."
        )
    return statistic


def _ports_of(select: Any) -> tuple[str, ...]:
    """The ports that patterns name; the output where they name none."""
    patterns = [select] if isinstance(select, str) else select
    if not isinstance(patterns, (list, tuple)):
        return ("output",)
    named = [p.rpartition(":")[2].partition("[")[0] for p in patterns if isinstance(p, str)]
    found = tuple(dict.fromkeys(port for port in named if port in PORTS))
    return found or ("output",)

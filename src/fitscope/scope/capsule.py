"""Keeping what is needed to run the step again in which a condition held."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from fitscope.errors import FitscopeError
from fitscope.scope.stopping import Beyond, Condition, NonFinite, StopOn, non_finite, stop_on


@dataclasses.dataclass(frozen=True, eq=False)
class Capsule(StopOn):
    """Keeps the step in which a condition holds for the first time. Made by `capsule`."""

    keep_weights: int = 1
    """A copy of the variables is taken before every so many steps."""

    def describe(self) -> dict[str, Any]:
        """For the run's `run.json`."""
        return {**super().describe(), "kind": "capsule", "keep_weights": self.keep_weights}


def capsule(
    on: Condition | None = None,
    *,
    keep_weights: int = 1,
    select: Any = "**",
    of: str | Iterable[str] | None = None,
) -> Capsule:
    """Keep what is needed to run a training step again, when a condition holds for the first time.

    Into `capsule/step-.../` in the run directory go the batch, the weights, the optimizer's state
    and the seeds before the step, and the model's configuration; no pickle. `fitscope replay RUN`
    runs the step again. The training goes on, unless `fs.stop_on` stands beside it.

    Every training step is observed, and the variables are copied on the device before every
    `keep_weights`-th: at most seven such copies live at a time, and the training waits for the
    condition when it is four steps ahead. After the condition held, nothing more is copied.

    Args:
        on: as in `fs.stop_on`; `fs.non_finite()` by default.
        keep_weights: copy the variables every n-th step and keep the batches since, from which
            the replay works its way to the failing step: cheaper, but exact only where the steps
            in between come out bit for bit the same again.
        select: which sites a function of yours looks at, as in `fs.watch`.
        of: at which ports it looks; by default the outputs.

    Returns:
        An instruction for `fs.Scope`, which takes one of them and needs `run=`.

    Raises:
        FitscopeError: an argument is not what is accepted.
        SelectionError: the selection or a port cannot be read.

    Example:
        ```python
        scope = fs.Scope(fs.capsule(), fs.stop_on(fs.non_finite()), run="runs/first")
        model.fit(x, y, callbacks=[scope])    # then: fitscope replay runs/first
        ```
    """
    if isinstance(keep_weights, bool) or not isinstance(keep_weights, int) or keep_weights < 1:
        raise FitscopeError(
            f"capsule(keep_weights={keep_weights!r}): expected a whole number of steps, 1 or more."
        )
    condition = non_finite() if on is None else on
    if not callable(condition):
        raise FitscopeError(
            f"capsule(on={on!r}): expected a function of a step's statistics, for example "
            'fs.non_finite() or fs.above("**:gradient", "max", 1e3).'
        )
    made = stop_on(condition, select=select, of=of)
    return Capsule(
        made.selector, made.ports, condition, made.phases, data=True, keep_weights=keep_weights
    )


def condition_config(condition: Condition) -> dict[str, Any]:
    """A condition as JSON; of a function only its name is kept."""
    select = getattr(condition, "select", None)
    patterns = [select] if isinstance(select, str) else select
    plain = isinstance(patterns, (list, tuple)) and all(isinstance(p, str) for p in patterns)
    if plain and isinstance(condition, NonFinite):
        return {"kind": "non_finite", "select": select}
    if plain and isinstance(condition, Beyond):
        return {"kind": "beyond", **dataclasses.asdict(condition)}
    name = getattr(condition, "__name__", type(condition).__name__)
    return {"kind": "function", "name": str(name)}


def condition_of(config: dict[str, Any]) -> Condition | None:
    """The condition of a configuration; None for a function, which is not kept."""
    kind, rest = config["kind"], {k: v for k, v in config.items() if k != "kind"}
    if kind == "function":
        return None
    return NonFinite(**rest) if kind == "non_finite" else Beyond(**rest)

"""Values that leave a step for a function of the user's, on the host."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from fitscope.engine.layout import Kept, to_host
from fitscope.errors import FitscopeError, SelectionError
from fitscope.select.selector import Selector

PHASES = ("train", "validation", "test", "predict")
AT = ("step", "epoch_end")


class Stop(Exception):  # noqa: N818 - a request, as StopIteration is
    """Raised in a stream's function to end the training in order, after the step in progress."""


class Batch(NamedTuple):
    """What a step was given: arrays, or trees of them; None where there was none."""

    x: Any
    y: Any
    sample_weight: Any


@dataclasses.dataclass(frozen=True, eq=False)
class Event:
    """The values of one step.

    Attributes:
        step: the step's number in its phase, from 0, counted on over epochs.
        epoch: the epoch's number, from 0.
        phase: `"train"`, `"validation"`, `"test"` or `"predict"`.
        values: by site name, the tensor that the layer put out in this step, `[batch, ...]`, in the
            dtype it had there (bfloat16 as float32 where `ml_dtypes` is not installed).
        batch: the batch that made them.
    """

    step: int
    epoch: int
    phase: str
    values: dict[str, np.ndarray[Any, Any]]
    batch: Batch


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """Calls of a function with the values of selected tensors. Made by `stream`."""

    selector: Selector
    ports: tuple[str, ...]
    function: Callable[[Event], object]
    every: int
    at: str
    phases: tuple[str, ...]

    statistics = ()
    keeps = True

    def describe(self) -> dict[str, Any]:
        """For the run's `run.json`."""
        return {
            "kind": "stream",
            "select": repr(self.selector),
            "of": list(self.ports),
            "every": self.every,
            "at": self.at,
            "phases": list(self.phases),
        }

    def is_due(self, phase: str, step: int, place: int, length: int | None) -> bool:
        """Whether the values of a step are wanted.

        Args:
            phase: the phase.
            step: the step's number in its phase.
            place: its number in the epoch or evaluation.
            length: how many steps that has, where it is known.
        """
        if phase not in self.phases:
            return False
        if self.at == "epoch_end":
            return length is None or place == length - 1
        return step % self.every == 0

    def event(self, kept: Kept, step: int, epoch: int, phase: str) -> Event:
        """The event of one step, its tensors on the host."""
        values = {
            site.name: to_host(tensor)
            for site, tensor in zip(kept.sites, kept.tensors, strict=True)
            if site.port in self.ports and self.selector.matches(site)
        }
        return Event(step, epoch, phase, values, _batch(kept.data))


def _batch(data: Any) -> Batch:
    parts = tuple(data) if isinstance(data, (tuple, list)) else (data,)
    x, y, sample_weight = (*map(_on_host, parts[:3]), None, None)[:3]
    return Batch(x, y, sample_weight)


def _on_host(tree: Any) -> Any:
    if tree is None:
        return None
    if isinstance(tree, dict):
        return {key: _on_host(value) for key, value in tree.items()}
    if isinstance(tree, (tuple, list)):
        return [_on_host(value) for value in tree]
    return to_host(tree)


def stream(
    select: Any,
    function: Callable[[Event], object],
    *,
    of: str | Iterable[str] = "output",
    every: int = 1,
    at: str = "step",
    phases: str | Iterable[str] = "train",
) -> Stream:
    """Call a function with the values of the selected tensors, from the very steps of `fit`.

    The function runs on the host, on a thread of its own, in the order of the steps; the steps
    themselves are not changed by it. If it is slower than the training, the training waits once
    64 events are waiting, so nothing is lost and memory stays bounded. What it raises is one
    warning, and it is called again at the next event; `fs.Stop` ends the training in order. Steps
    whose values are wanted are observed whatever the scope's budget; their statistics are recorded,
    too.

    Args:
        select: which sites, as in `fs.watch`.
        function: called with an `fs.Event`: `event.step`, `event.epoch`, `event.phase`,
            `event.values` (arrays by site name) and `event.batch` (`x`, `y`, `sample_weight`).
        of: which tensor of a layer: `"output"`, `"input"`, `"preactivation"`, or several.
        every: with `at="step"`, every n-th step of the phase, from the first.
        at: `"step"`, or `"epoch_end"` for the last step of each epoch (or evaluation) alone. Where
            Keras does not know beforehand how long an epoch is, all its steps are observed.
        phases: in which phases: `"train"`, `"validation"` (evaluation inside `fit`), `"test"`,
            `"predict"`, or several.

    Returns:
        An instruction for `fs.Scope`.

    Raises:
        SelectionError: the selection or a port cannot be read.
        FitscopeError: another argument is not what is accepted.

    Example:
        ```python
        def look(event):
            print(event.step, event.values["conv"].shape, event.batch.y[:5])

        model.fit(x, y, callbacks=[fs.Scope(fs.stream("conv", look, every=10))])
        ```
    """
    from fitscope.scope.instructions import watch

    if not callable(function):
        raise FitscopeError(
            f"stream({select!r}, {function!r}): expected a function of one fs.Event, called with "
            "the values of each step."
        )
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise FitscopeError(
            f"stream(every={every!r}): expected a whole number of steps, 1 or more."
        )
    if at not in AT:
        raise FitscopeError(f"stream(at={at!r}): expected {' or '.join(map(repr, AT))}.")
    chosen = (phases,) if isinstance(phases, str) else tuple(phases)
    unknown = [phase for phase in chosen if phase not in PHASES]
    if unknown or not chosen:
        raise SelectionError(
            f"stream(phases={phases!r}): expected {', '.join(map(repr, PHASES))}, or several of "
            "them."
        )
    watched = watch(select, of)
    return Stream(watched.selector, watched.ports, function, every, at, chosen)

"""Values that leave a step for a function of the user's, on the host."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from fitscope.engine.layout import Kept, to_host
from fitscope.engine.plan import EVERY_ROW
from fitscope.engine.points import part_of
from fitscope.errors import FitscopeError
from fitscope.values.batch import Batch, StepBatch, split
from fitscope.values.when import check_every, check_phases

if TYPE_CHECKING:
    from fitscope.select.selector import Selector

AT = ("step", "epoch_end")


class Stop(Exception):  # noqa: N818 - a request, as StopIteration is
    """Raised in a stream's function to end the training in order, after the step in progress."""


@dataclasses.dataclass(frozen=True, eq=False)
class Event:
    """The values of one step.

    Attributes:
        step: the step's number in its phase, from 0, counted on over epochs.
        epoch: the epoch's number, from 0.
        phase: `"train"`, `"validation"`, `"test"` or `"predict"`.
        values: by site name, the tensor that the layer put out in this step, `[batch, ...]`, in the
            dtype it had there (bfloat16 as float32 where `ml_dtypes` is not installed).
        batch: the batch that made them; with `fs.BATCH` selected, the prediction and the loss of
            each sample, too.
    """

    step: int
    epoch: int
    phase: str
    values: dict[str, np.ndarray[Any, Any]]
    batch: Batch


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """Calls of a function with the values of selected tensors. Made by `stream`."""

    selector: Selector | None
    """None where the batch alone is wanted."""
    ports: tuple[str, ...]
    function: Callable[[Event], object]
    every: int
    at: str
    phases: tuple[str, ...]
    batch: bool = False
    """Whether the prediction and the losses are wanted, too."""

    statistics = ()
    measures = True
    rows = EVERY_ROW

    def describe(self) -> dict[str, Any]:
        """For the run's `run.json`."""
        return {
            "kind": "stream",
            "select": None if self.selector is None else repr(self.selector),
            "of": list(self.ports),
            "every": self.every,
            "at": self.at,
            "phases": list(self.phases),
            "batch": self.batch,
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

    def event(self, kept: Kept, batch: StepBatch, step: int, epoch: int, phase: str) -> Event:
        """The event of one step, its tensors on the host."""
        values = {
            site.name: to_host(tensor)
            for site, tensor in zip(kept.sites, kept.tensors, strict=True)
            if self._wants(site)
        }
        return Event(step, epoch, phase, values, batch.on_host(whole=self.batch))

    def _wants(self, site: Any) -> bool:
        if self.selector is None or site.port not in self.ports or part_of(site) is not None:
            return False
        return self.selector.matches(site)


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
        select: which sites, as in `fs.watch`. With `fs.BATCH`, alone or in a list, `event.batch`
            has the prediction and the loss of each sample, too.
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
    if at not in AT:
        raise FitscopeError(f"stream(at={at!r}): expected {' or '.join(map(repr, AT))}.")
    rest, batch = split(select)
    watched = None if rest is None else watch(rest, of)
    return Stream(
        None if watched is None else watched.selector,
        () if watched is None else watched.ports,
        function,
        check_every("stream", every),
        at,
        check_phases("stream", phases),
        batch,
    )

"""The callback that feeds the live table while `fit` runs."""

# pyright: standard
# Keras has no types, so its base class is unknown to a strict check.

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import keras

from fitscope.terminal.live import LiveTable
from fitscope.terminal.progress import Progress

if TYPE_CHECKING:
    from fitscope.select.site import Site


class WatchedRun(Protocol):
    """The part of a run the live table reads."""

    @property
    def sites(self) -> Iterable[Site]:
        """The sites, in the order of the model."""
        ...


class Watched(Protocol):
    """The part of a scope the live table reads."""

    @property
    def run(self) -> WatchedRun:
        """What the scope records."""
        ...

    @property
    def cost(self) -> Mapping[str, Any]:
        """What watching has cost so far."""
        ...

    def latest(self) -> Mapping[str, Mapping[str, Any]]:
        """The latest statistics by site name."""
        ...


class LiveCallback(keras.callbacks.Callback):
    """Show a scope's statistics in the terminal while `fit` runs.

    In a terminal the table is redrawn in place, at most four times a second. Anywhere else (a
    pipe, a log file, CI) it prints a plain line per epoch and the table once at the end.

    Give it after the scope, and `fit(verbose=0)`, or Keras' progress bar draws over it. A failure
    to draw is one warning; it never stops training.

    Args:
        scope: The `fitscope.Scope` of the same `fit`.
        table: Where to draw; a table on the standard output by default.

    Example:
        ```python
        scope = fs.Scope()
        model.fit(x, y, verbose=0, callbacks=[scope, LiveCallback(scope)])
        ```
    """

    # Keras waits for each step's result unless every callback with a batch-end hook says this.
    # The hook below only keeps a reference, so it may run on Keras' worker thread.
    async_safe = True

    def __init__(self, scope: Watched, table: LiveTable | None = None) -> None:
        super().__init__()
        self._scope = scope
        self._table = table or LiveTable()
        self._progress = Progress()
        self._failed = False

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Start drawing."""
        params: dict[str, Any] = self.params or {}
        self._progress = Progress(epochs=params.get("epochs"), steps=params.get("steps"))
        self._guarded(self._table.start)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Note the epoch."""
        self._progress.epoch, self._progress.step = epoch, 0

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Redraw when it is time."""
        self._progress.step = max(self._progress.step, batch)
        if self._table.due:
            self._guarded(self._update)

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Keep the metrics for the next drawing."""
        # On a worker thread the hooks of neighbouring steps may come out of order.
        self._progress.step = max(self._progress.step, batch + 1)
        self._progress.logs = logs

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Redraw, or print the epoch's line."""
        self._progress.logs = logs
        if self._progress.steps is None:
            self._progress.steps = self._progress.step
        self._guarded(self._update)
        self._guarded(lambda: self._table.line(self._progress, self._scope.cost))

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Draw the last state and give the terminal back."""
        self._guarded(lambda: self._table.finish(*self._state()))

    def stop(self) -> None:
        """Give the terminal back; needed when `fit` ended with an exception."""
        self._table.stop()

    def _update(self) -> None:
        self._table.update(*self._state())

    def _state(self) -> tuple[Any, Any, Progress, Mapping[str, Any]]:
        scope = self._scope
        return scope.run.sites, scope.latest(), self._progress, scope.cost

    def _guarded(self, action: Callable[[], object]) -> None:
        """Training outlives its display: report the first failure, then stay quiet."""
        if self._failed:
            return
        try:
            action()
        except Exception:
            self._failed = True
            self.stop()
            warnings.warn(
                "The live table failed and is off for the rest of this training, which goes on:\n"
                + "".join(traceback.format_exception(*sys.exc_info())),
                RuntimeWarning,
                stacklevel=2,
            )

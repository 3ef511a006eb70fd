"""A table that follows training in the terminal."""

# pyright: standard
# Keras has no types, so its base class is unknown to a strict check.

from __future__ import annotations

import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import keras
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from fitscope.terminal.console import make_console
from fitscope.terminal.glyphs import glyphs_for
from fitscope.terminal.notable import most_notable
from fitscope.terminal.progress import Progress, cost_text
from fitscope.terminal.rows import site_rows
from fitscope.terminal.table import site_table

if TYPE_CHECKING:
    from fitscope.select.site import Site

REFRESH_SECONDS = 0.25
# Lines of the screen that the table's rows cannot have: progress, heading, remainder, prompt.
_OTHER_LINES = 5


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


class LiveTable(keras.callbacks.Callback):
    """Show a scope's statistics in the terminal while `fit` runs.

    In a terminal the table is redrawn in place, at most four times a second. Anywhere else (a
    pipe, a log file, CI) it prints a plain line per epoch and the table once at the end.

    Give it after the scope, and `fit(verbose=0)`, or Keras' progress bar draws over it. A failure
    to draw is one warning; it never stops training.

    Args:
        scope: The `fitscope.Scope` of the same `fit`.
        console: Where to draw; the standard output by default.
        clock: Seconds that only grow; for tests.

    Example:
        ```python
        scope = fs.Scope()
        model.fit(x, y, verbose=0, callbacks=[scope, LiveTable(scope)])
        ```
    """

    # Keras waits for each step's result unless every callback with a batch-end hook says this.
    # The hook below only keeps a reference, so it may run on Keras' worker thread.
    async_safe = True

    def __init__(
        self,
        scope: Watched,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._scope = scope
        self._console = console or make_console()
        self._clock = clock
        self._progress = Progress()
        self._live: Live | None = None
        self._drawn_at = -float("inf")
        self._failed = False

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Start drawing."""
        params: dict[str, Any] = self.params or {}
        self._progress = Progress(epochs=params.get("epochs"), steps=params.get("steps"))
        self._drawn_at = -float("inf")
        if self._console.is_terminal:
            # Drawn by the hooks alone: rich's own refresh would need a thread.
            self._live = Live(console=self._console, auto_refresh=False)
            self._guarded(self._live.start)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Note the epoch."""
        self._progress.epoch, self._progress.step = epoch, 0

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Redraw when it is time."""
        self._progress.step = max(self._progress.step, batch)
        if self._live is not None and self._clock() - self._drawn_at >= REFRESH_SECONDS:
            self._guarded(self._draw)

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
        if self._live is None:
            self._guarded(self._print_line)
        else:
            self._guarded(self._draw)

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Draw the last state and give the terminal back."""
        if self._live is None:
            self._guarded(lambda: self._print(self._table(None)))
        else:
            self._guarded(self._draw)
        self.stop()

    def stop(self) -> None:
        """Give the terminal back; needed when `fit` ended with an exception."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def _draw(self) -> None:
        if self._live is None:
            return
        self._drawn_at = self._clock()
        lines = max(1, self._console.size.height - _OTHER_LINES)
        self._live.update(Group(self._headline(), self._table(lines)), refresh=True)

    def _headline(self) -> Text:
        progress = self._progress
        text = Text(no_wrap=True, overflow="ellipsis")
        text.append(progress.position(), style="bold")
        text.append("  " + progress.metrics())
        text.append("\n" + cost_text(self._scope.cost), style="dim")
        return text

    def _table(self, limit: int | None) -> Text:
        rows = site_rows(self._scope.run.sites, self._scope.latest())
        if not rows:
            return Text("waiting for the first observed step; the first ones compile")
        shown, hidden = most_notable(rows, limit)
        glyphs = glyphs_for(self._console.encoding)
        return site_table(shown, width=self._console.width, hidden=hidden, glyphs=glyphs)

    def _print_line(self) -> None:
        parts = [self._progress.position(), self._progress.metrics(), cost_text(self._scope.cost)]
        self._print(Text("  ".join(part for part in parts if part)))

    def _print(self, text: Text) -> None:
        self._console.print(text, soft_wrap=True)

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

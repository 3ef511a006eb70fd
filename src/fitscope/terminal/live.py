"""A table that is redrawn in place in a terminal, and plain lines anywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

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

Latest = Mapping[str, Mapping[str, Any]]


class LiveTable:
    """Statistics of a training that goes on, in the terminal.

    In a terminal the table is redrawn in place. Anywhere else (a pipe, a log file, CI) only
    `line` and `finish` print. It starts no thread and knows nothing of Keras; see
    `fitscope.demo.live_callback` for the callback that feeds it.

    Args:
        console: Where to draw; the standard output by default.
        clock: Seconds that only grow; for tests.

    Example:
        ```python
        table = LiveTable()
        table.start()
        if table.due:
            table.update(scope.run.sites, scope.latest(), progress, scope.cost)
        table.finish(scope.run.sites, scope.latest(), progress, scope.cost)
        ```
    """

    def __init__(
        self, console: Console | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console or make_console()
        self._clock = clock
        self._live: Live | None = None
        self._drawn_at = -float("inf")

    @property
    def due(self) -> bool:
        """Whether it is time to redraw; never where nothing is drawn in place."""
        return self._live is not None and self._clock() - self._drawn_at >= REFRESH_SECONDS

    def start(self) -> None:
        """Take the terminal, where there is one."""
        self._drawn_at = -float("inf")
        if self._console.is_terminal:
            # Drawn by `update` alone: rich's own refresh would need a thread.
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()

    def update(
        self,
        sites: Iterable[Site],
        latest: Latest,
        progress: Progress,
        cost: Mapping[str, Any],
    ) -> None:
        """Redraw the table in place.

        Args:
            sites: The sites, in the order of the model.
            latest: The latest statistics by site name.
            progress: Where training is.
            cost: What watching has cost so far, as `Scope.cost`.
        """
        if self._live is None:
            return
        self._drawn_at = self._clock()
        lines = max(1, self._console.size.height - _OTHER_LINES)
        headline = Text(no_wrap=True, overflow="ellipsis")
        headline.append(progress.position(), style="bold")
        headline.append("  " + progress.metrics())
        headline.append("\n" + cost_text(cost), style="dim")
        self._live.update(Group(headline, self._table(sites, latest, lines)), refresh=True)

    def line(self, progress: Progress, cost: Mapping[str, Any]) -> None:
        """Print where training is as a plain line, unless the table is drawn in place.

        Args:
            progress: Where training is.
            cost: What watching has cost so far.
        """
        if self._live is None:
            parts = [progress.position(), progress.metrics(), cost_text(cost)]
            self._print(Text("  ".join(part for part in parts if part)))

    def finish(
        self,
        sites: Iterable[Site],
        latest: Latest,
        progress: Progress,
        cost: Mapping[str, Any],
    ) -> None:
        """Show the last state and give the terminal back; arguments as of `update`."""
        if self._live is None:
            self._print(self._table(sites, latest, None))
        else:
            self.update(sites, latest, progress, cost)
        self.stop()

    def stop(self) -> None:
        """Give the terminal back; needed when training ended with an exception."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def _table(self, sites: Iterable[Site], latest: Latest, limit: int | None) -> Text:
        rows = site_rows(sites, latest)
        if not rows:
            return Text("waiting for the first observed step; the first ones compile")
        shown, hidden = most_notable(rows, limit)
        glyphs = glyphs_for(self._console.encoding)
        return site_table(shown, width=self._console.width, hidden=hidden, glyphs=glyphs)

    def _print(self, text: Text) -> None:
        self._console.print(text, soft_wrap=True)

"""A scope that leaves the script's output as it is."""

from __future__ import annotations

import traceback
from pathlib import Path

from fitscope.scope.scope import Scope
from fitscope.scope.tell import tell


class QuietScope(Scope):
    """Keeps its findings for the end of the script instead of printing them."""

    @property
    def path(self) -> Path | None:
        """Where the first run goes."""
        return self._path

    def _conclude(self) -> None:
        session = self._session
        if session is None:
            return
        try:
            self._conclusion.new_findings(session.writer)
        except Exception:  # noqa: BLE001 - as in Scope: training outlives its observer
            tell(
                "fitscope could not sum up what it recorded; the run is kept. The cause was:\n"
                + traceback.format_exc(limit=-6)
            )

"""A scope that leaves the script's output as it is."""

from __future__ import annotations

from pathlib import Path

from fitscope.scope.scope import Scope


class QuietScope(Scope):
    """Keeps its findings for the end of the script instead of printing them."""

    is_quiet = True

    @property
    def path(self) -> Path | None:
        """Where the first run goes."""
        return self._path

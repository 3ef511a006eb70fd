"""How much the server may do beside a training."""

from __future__ import annotations

import os
import threading

FOLLOWING_SHARE = 0.002
"""Of all processors, what following a running training may take of the server. A browser on the
same machine takes two to three times as much for the same looks."""


class Work:
    """Processor time that answering takes: the page may run beside the training it follows."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds = 0.0

    def add(self, seconds: float) -> None:
        """Count the work of one answer."""
        with self._lock:
            self._seconds += seconds

    def rest(self) -> float:
        """Seconds to pass before the next look, so that following takes `FOLLOWING_SHARE`."""
        with self._lock:
            seconds, self._seconds = self._seconds, 0.0
        return seconds / (FOLLOWING_SHARE * (os.cpu_count() or 1))

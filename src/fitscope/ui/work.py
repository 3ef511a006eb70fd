"""How much the server may do beside a training."""

from __future__ import annotations

import os
import threading
import time

FOLLOWING_SHARE = 0.003
"""Of all processors, what following a running training may take of the server. A browser on the
same machine takes about twice as much for the same looks."""


class Work:
    """Processor time of this process: the page may run beside the training it follows.

    All of it counts, also what the server does around an answer: of small answers that is most.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._before = time.process_time()

    def rest(self) -> float:
        """Seconds to pass before the next look, so that following takes `FOLLOWING_SHARE`."""
        with self._lock:
            now = time.process_time()
            seconds, self._before = now - self._before, now
        return seconds / (FOLLOWING_SHARE * (os.cpu_count() or 1))

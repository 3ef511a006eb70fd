"""Ctrl-C waits while something is written: half of a step would be there twice, or not at all."""

from __future__ import annotations

import signal
import threading
from typing import Any


class UninterruptedLock:
    """A reentrant lock, under which a KeyboardInterrupt waits until it is released.

    Python raises it in the main thread, between any two instructions. For the other threads, and
    where the signal is handled by something other than Python, this is a lock like any other.

    Example:
        >>> lock = UninterruptedLock()
        >>> with lock, lock:
        ...     pass
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._depth = 0
        """How often the main thread is in here."""
        self._handler: Any = None
        self._came = False

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            # Before the lock is taken: raised just behind that, it would never be released.
            self._hold_back()
            self._depth += 1
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()
        if threading.current_thread() is threading.main_thread():
            self._depth -= 1
            if not self._depth:
                self._let_go()

    def _hold_back(self) -> None:
        if not self._depth and (handler := signal.getsignal(signal.SIGINT)) is not None:
            self._handler = handler
            signal.signal(signal.SIGINT, self._note)

    def _note(self, *_: object) -> None:
        self._came = True

    def _let_go(self) -> None:
        if self._handler is None:
            return
        came, handler = self._came, self._handler
        self._came, self._handler = False, None
        signal.signal(signal.SIGINT, handler)
        if came:
            signal.raise_signal(signal.SIGINT)

"""A cache that is bounded by the bytes of the arrays in it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

BYTES = 256 * 2**20


class ByteCache:
    """Keeps what was used last, up to a number of bytes.

    Args:
        limit: Bytes of arrays to keep at most; one larger entry is kept alone.
    """

    def __init__(self, limit: int = BYTES) -> None:
        self.limit = limit
        self.held = 0
        self._entries: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """The entry of a key, made when it is not there."""
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
                return self._entries[key][0]
        value = make()
        self.put(key, value)
        return value

    def peek(self, key: Hashable) -> Any:
        """The entry of a key, or None."""
        with self._lock:
            entry = self._entries.get(key)
            return None if entry is None else entry[0]

    def put(self, key: Hashable, value: Any) -> None:
        """Keep an entry, and let go of the oldest ones beyond the limit."""
        size = size_of(value)
        with self._lock:
            old = self._entries.pop(key, None)
            if old is not None:
                self.held -= old[1]
            self._entries[key] = (value, size)
            self.held += size
            while self.held > self.limit and len(self._entries) > 1:
                _, (_, dropped) = self._entries.popitem(last=False)
                self.held -= dropped

    def drop(self, key: Hashable) -> None:
        """Forget an entry."""
        with self._lock:
            entry = self._entries.pop(key, None)
            if entry is not None:
                self.held -= entry[1]


def size_of(value: Any) -> int:
    """Bytes of the distinct arrays of an object, about."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, (list, tuple)):
        return 64 + sum(size_of(item) for item in value)
    if isinstance(value, dict):
        return 64 + sum(size_of(item) for item in value.values())
    parts = getattr(value, "arrays", None)
    if callable(parts):
        arrays: Any = parts()
        return 64 + sum({id(array): array.nbytes for array in arrays}.values())
    return 64

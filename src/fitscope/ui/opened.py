"""The runs that are open in the page, at most a few at a time."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from pathlib import Path

from fitscope.run.layout import FINDINGS_FILE, GRAPH_FILE, HISTORY_FILE, STREAMS
from fitscope.ui.cache import ByteCache
from fitscope.ui.metrics import Metrics
from fitscope.ui.roots import Found, Roots
from fitscope.ui.source import Source, identity
from fitscope.ui.watch import FindingsWatch

OPEN_RUNS = 6


class Opened:
    """One open run.

    Args:
        found: Where it is.
        cache: Where its blocks are kept.
    """

    def __init__(self, found: Found, cache: ByteCache) -> None:
        self.found = found
        self.source = Source(found.path, cache)
        self.metrics = Metrics(self.source.store.folder / HISTORY_FILE)
        # Rules may take a while: they read for themselves, so that the picture need not wait.
        self.findings = FindingsWatch(Source(found.path, cache))

    def version(self) -> str:
        """A text that changes whenever the run does."""
        folder = self.source.store.folder
        stamps: list[str] = []
        for kind in STREAMS:
            try:
                names = sorted(os.listdir(folder / kind))
            except OSError:
                continue
            if names:
                # Hot files sort before segments; the newest of either tells of every change.
                hot = [name for name in names if name.startswith("hot-")]
                stamps += [f"{len(names)}", names[-1]]
                stamps += [_stamp(folder / kind / name) for name in hot]
        stamps += [
            _stamp(folder / FINDINGS_FILE),
            _stamp(folder / HISTORY_FILE),
            _stamp(self.found.path / GRAPH_FILE),
            self.source.run.status,
        ]
        return "/".join(stamps)


def _stamp(path: Path) -> str:
    try:
        stat = path.stat()
    except OSError:
        return "-"
    return f"{stat.st_size}.{stat.st_mtime_ns % 10**10}"


class OpenRuns:
    """Opens runs by name and keeps the last ones open.

    Args:
        roots: Where runs may lie.
    """

    def __init__(self, roots: Roots) -> None:
        self.roots = roots
        self._cache = ByteCache()
        self._open: OrderedDict[str, Opened] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: str) -> Opened:
        """The open run of that name.

        Raises:
            RunError: There is none, or it cannot be read.
        """
        with self._lock:
            known = self._open.get(name)
            if known is not None and known.source.identity == identity(known.found.path):
                self._open.move_to_end(name)
                return known
            self._open.pop(name, None)
        opened = Opened(self.roots.find(name), self._cache)
        with self._lock:
            self._open[name] = opened
            while len(self._open) > OPEN_RUNS:
                self._open.popitem(last=False)
        return opened

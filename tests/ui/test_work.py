"""How long the page waits before it looks again."""

from __future__ import annotations

from fitscope.ui import work
from fitscope.ui.work import FOLLOWING_SHARE, Work


def test_looks_take_their_share_of_the_processors(monkeypatch):
    spent = [2.0, 2.03, 2.05]
    monkeypatch.setattr(work.time, "process_time", lambda: spent.pop(0))
    monkeypatch.setattr(work.os, "cpu_count", lambda: 2)
    counted = Work()
    for seconds in (0.03, 0.02):
        rest = counted.rest()
        assert abs(seconds / rest - 2 * FOLLOWING_SHARE) < 1e-6

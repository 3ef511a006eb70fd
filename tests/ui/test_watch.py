"""How often the page looks for findings in a run that goes on."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from page_runs import write

from fitscope.run import seal
from fitscope.ui import recent, watch
from fitscope.ui.cache import ByteCache
from fitscope.ui.source import Source
from fitscope.ui.watch import EAGER, EAGER_PAUSE, PAUSE, Findings, FindingsWatch


@pytest.fixture
def clock(monkeypatch):
    found = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(watch.time, "monotonic", lambda: found.now)
    return found


def test_of_a_long_run_the_newest_steps_are_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr(seal, "SEGMENT_ROWS", 1)
    monkeypatch.setattr(watch, "RULE_ROWS", 100)
    write(tmp_path / "run", steps=60, sick="conv_1")
    write(tmp_path / "run", first=60, steps=120)
    monkeypatch.setattr(recent.RecentStore.__init__, "__defaults__", (4 * 60,))
    looking = FindingsWatch(Source(tmp_path / "run", ByteCache()))
    soon = looking.latest("now", 480)
    assert (soon.found, soon.complete, soon.fresh) == ([], False, False)
    found = looking.latest("now", 480)
    # conv_1 was sick in the first sixty steps only, conv_2 is in the last.
    assert [(f["rule"], f["site"], f["first_step"]) for f in found.found] == [
        ("dead_units", "conv_2", 60)
    ]
    assert not found.complete
    assert "from step 60 on" in found.note


def test_since_when_is_told_by_what_was_found_earlier(tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "RULE_ROWS", 100)
    writer = write(tmp_path / "run", first=60, steps=120, close=False)
    earlier = {"rule": "dead_units", "site": "conv_2", "severity": "warning", "first_step": 7}
    writer.add_finding({**earlier, "last_step": 59, "message": "off"})
    writer.close()
    looking = FindingsWatch(Source(tmp_path / "run", ByteCache()))
    looking.latest("now", 480)
    (found,) = looking.latest("now", 480).found
    assert (found["first_step"], found["last_step"]) == (7, 119)


class Slow(FindingsWatch):
    """Looks for half a second."""

    def __init__(self, clock):
        super().__init__(SimpleNamespace())
        self.clock = clock
        self.computed = 0

    def _compute(self, rows):
        self.computed += 1
        self.clock.now += 0.5
        return Findings([{"rule": str(self.computed)}])


def test_the_first_few_looks_come_soon_and_later_ones_seldom(clock):
    looking = Slow(clock)
    gaps, last = [], clock.now
    version = 0
    while len(gaps) < EAGER + 3:
        version += 1
        if looking.latest(version, 0).fresh:
            gaps.append(clock.now - last)
            last = clock.now
        clock.now += 0.1
    soon, seldom = gaps[1 : EAGER + 1], gaps[EAGER + 1 :]
    assert soon == pytest.approx([EAGER_PAUSE * 0.5] * EAGER, abs=0.7)
    assert seldom == pytest.approx([PAUSE * 0.5] * 2, abs=0.7)


def test_a_run_that_has_not_changed_is_not_looked_at_again(clock):
    looking = Slow(clock)
    for _ in range(3):
        assert looking.latest("same", 0).fresh
        clock.now += 1e6
    assert looking.computed == 1


def test_between_two_looks_the_last_findings_stand_and_say_that_they_are_old(clock):
    looking = Slow(clock)
    looking.latest(1, 0)
    held = looking.latest(2, 0)
    assert not held.fresh
    assert held.wait == pytest.approx(EAGER_PAUSE * 0.5 - 0.5)
    assert held.found == [{"rule": "1"}]
    # Once the training has ended, there is nothing to wait for.
    assert looking.latest(3, 0, running=False).found == [{"rule": "2"}]
